"""Inverse roots against float64 eigendecompositions, on easy, hard and degenerate input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.linalg import LinAlgError

from stiefel.errors import ConvergenceError, MatrixError
from stiefel.linalg import newton, roots
from stiefel.linalg.roots import DAMPINGS, ROOT_METHODS, ROOTS, inv_root, inv_root_in_basis

methods = pytest.mark.parametrize("method", ROOT_METHODS)
iterations = pytest.mark.parametrize("method", ROOT_METHODS[1:])
powers = pytest.mark.parametrize("p", ROOTS)
ridges = pytest.mark.parametrize("damping", ["absolute", "relative", "trace"])


def rotated(spectrum: Tensor, seed: int = 0) -> Tensor:
    """A symmetric float64 matrix with these eigenvalues."""
    n = len(spectrum)
    noise = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    Q = torch.linalg.qr(noise).Q
    A = (Q * spectrum.double()) @ Q.mT
    return (A + A.mT) / 2


def ridge(A: Tensor, damping: str, epsilon: float) -> Tensor:
    L = torch.linalg.eigvalsh(A.double())
    units = {"absolute": torch.ones_like(L[..., -1]), "relative": L[..., -1], "trace": L.mean(-1)}
    return epsilon * units[damping]


def textbook(A: Tensor, p: int, added: Tensor | float) -> Tensor:
    L, Q = torch.linalg.eigh(A.double())
    L = L.clamp_min(0) + torch.as_tensor(added, dtype=torch.float64).unsqueeze(-1)
    return Q @ torch.diag_embed(L ** (-1 / p)) @ Q.mT


def error(ours: Tensor, expected: Tensor) -> float:
    return float((ours.double() - expected).norm() / expected.norm())


def gapped(n: int) -> Tensor:
    """Eigenvalues 1, 1/2, 1/4, ... and a zero: a power iteration finds the largest exactly."""
    return torch.cat([2.0 ** -torch.arange(n - 1, dtype=torch.float64), torch.zeros(1)])


@methods
@powers
@ridges
def test_every_method_is_the_damped_inverse_root(
    method: str, p: int, damping: str, device: str
) -> None:
    A = torch.stack([3 * rotated(gapped(7), seed) for seed in range(6)]).view(2, 3, 7, 7)
    ours = inv_root(A.to(device), p, method=method, damping=damping, epsilon=1e-2).cpu()
    assert error(ours, textbook(A, p, ridge(A, damping, 1e-2))) < 1e-11
    assert torch.equal(ours, ours.mT)


@powers
@ridges
def test_default_epsilon_is_the_rules_own(p: int, damping: str) -> None:
    A = rotated(gapped(5))
    own = ridge(A, damping, DAMPINGS[damping].epsilon)
    assert error(inv_root(A, p, damping=damping), textbook(A, p, own)) < 1e-4


@methods
@powers
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_kept(method: str, p: int, dtype: torch.dtype, device: str) -> None:
    A = rotated(torch.linspace(0.3, 1, 6)).to(device, dtype)
    ours = inv_root(A, p, method=method, damping="trace", epsilon=1e-1)
    assert ours.dtype == dtype and ours.device == A.device
    expected = textbook(A, p, ridge(A, "trace", 1e-1))
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-5}.get(dtype, 5e-3)
    assert error(ours, expected) < tolerance


@powers
@pytest.mark.parametrize("rank", [0, 1, 3, 6])
def test_pseudo_is_the_root_of_the_pseudoinverse(p: int, rank: int) -> None:
    spectrum = torch.cat([torch.linspace(1, 2, rank), torch.zeros(6 - rank)])
    A = rotated(spectrum)
    ours = inv_root(A, p, damping="pseudo")
    inverse = torch.linalg.pinv(A, hermitian=True, rtol=1e-10)
    torch.testing.assert_close(torch.linalg.matrix_power(ours, p), inverse, rtol=0, atol=1e-12)


def test_pseudo_epsilon_is_a_relative_threshold() -> None:
    A = torch.diag(torch.tensor([8.0, 4.0, 1.0, 0.5], dtype=torch.float64))
    ours = inv_root(A, 1, damping="pseudo", epsilon=0.2)
    torch.testing.assert_close(ours.diagonal(), torch.tensor([1 / 8, 1 / 4, 0, 0]).double())


def test_shampoo_of_one_gradient_is_its_polar_factor() -> None:
    G = torch.randn(5, 3, dtype=torch.float64)
    left, right = (inv_root(gram, 4, damping="pseudo") for gram in (G @ G.mT, G.mT @ G))
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    torch.testing.assert_close(left @ G @ right, U @ Vh, rtol=0, atol=1e-11)


@methods
@powers
@pytest.mark.parametrize("damping", ["relative", "trace"])
@pytest.mark.parametrize("exponent", [-140, -90, 80, 120])
def test_power_of_two_goes_through_untouched(
    method: str, p: int, damping: str, exponent: int, device: str
) -> None:
    A = rotated(torch.linspace(0.5, 2, 6)).to(device, torch.float32)
    A = (A * 2.0**8).round() * 2.0**-8  # few digits, which a subnormal number can hold
    exponent -= exponent % 4
    options = {"method": method, "damping": damping, "epsilon": 1e-2}
    scaled = inv_root(A * 2.0 ** (exponent // 2) * 2.0 ** (exponent - exponent // 2), p, **options)
    assert torch.equal(scaled, inv_root(A, p, **options) * 2.0 ** (-exponent // p))


@methods
@powers
@pytest.mark.parametrize("size", [1e-44, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("epsilon", [0.0, 1e-30, 1e-6, 1e6])
def test_absolute_damping_keeps_the_scale(
    method: str, p: int, size: float, epsilon: float, device: str
) -> None:
    """The matrix and epsilon may be 74 orders of magnitude apart, beyond float32's range."""
    A = (rotated(torch.linspace(0.5, 2, 5)) * size).float()
    if size == 1e-44:
        A = torch.diag(torch.full((5,), size))
    expected = textbook(A, p, epsilon).float()
    ours = inv_root(A.to(device), p, method=method, damping="absolute", epsilon=epsilon).cpu()
    torch.testing.assert_close(ours, expected, rtol=2e-5, atol=1e-5 * float(expected.abs().max()))


@methods
@powers
def test_zero_matrix(method: str, p: int) -> None:
    zero = torch.zeros(2, 3, 3)
    for damping in ("relative", "trace"):
        assert torch.equal(inv_root(zero, p, method=method, damping=damping), zero)
    ours = inv_root(zero, p, method=method, damping="absolute", epsilon=2.0**-8)
    torch.testing.assert_close(ours, torch.eye(3).expand(2, 3, 3) * 2.0 ** (8 // p))


@powers
@pytest.mark.parametrize("power", range(-5, 6))
def test_powers_of_two_have_exact_roots(p: int, power: int) -> None:
    eye = torch.eye(3)
    expected = eye * 2.0**-power
    assert torch.equal(inv_root(eye * 2.0 ** (power * p), p, epsilon=0.0), expected)
    absolute = inv_root(0 * eye, p, damping="absolute", epsilon=2.0 ** (power * p))
    assert torch.equal(absolute, expected)


@methods
@powers
def test_condition_number_1e12(method: str, p: int) -> None:
    A = rotated(torch.logspace(0, -12, 9))
    R = inv_root(A, p, method=method, epsilon=0.0)
    half = torch.linalg.matrix_power(R, p // 2)
    defect = half @ A @ half - torch.eye(9) if p > 1 else R @ A - torch.eye(9)
    # No method knows an eigenvalue better than to the rounding of the largest.
    assert float(defect.abs().max()) < (roots.GOOD if p == 1 else 1e12 * torch.finfo(A.dtype).eps)


@methods
@powers
def test_rank_deficient_in_float32(method: str, p: int, device: str) -> None:
    G = torch.randn(3, 40, 10)
    A = G @ G.mT
    ours = inv_root(A.to(device), p, method=method, damping="trace", epsilon=1e-3).cpu()
    assert error(ours, textbook(A, p, ridge(A, "trace", 1e-3))) < 1e-3


@methods
@powers
def test_default_damping_of_float32_at_its_limit(method: str, p: int) -> None:
    """Condition number 1e6 in float32: rounding moves the root by up to 6e-8 * 1e6."""
    G = torch.randn(80, 16)
    A = G @ G.mT
    assert error(inv_root(A, p, method=method), textbook(A, p, ridge(A, "relative", 1e-6))) < 6e-2


@powers
def test_negative_eigenvalues_are_zeros(p: int) -> None:
    A = rotated(torch.tensor([1.0, 0.5, 1e-8, -1e-8]))
    assert error(inv_root(A, p), textbook(A, p, 1e-6)) < 1e-7
    assert torch.equal(inv_root(-torch.eye(3), p), torch.zeros(3, 3))


@iterations
@powers
def test_indefinite_matrix_falls_to_eigh(method: str, p: int) -> None:
    """A negative eigenvalue beyond the ridge lets an iteration diverge."""
    A = torch.stack([rotated(torch.tensor([1.0, 0.5, -1e-3])), rotated(torch.ones(3))])
    ours = inv_root(A, p, method=method, epsilon=1e-5)
    assert error(ours, textbook(A, p, 1e-5)) < 1e-9


@iterations
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 3.0])
def test_bad_root_is_mended_and_good_neighbours_stay(
    method: str, garbage: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    A = torch.stack([rotated(torch.linspace(low, 1, 5)) for low in (0.1, 0.5, 0.9)]).float()
    options = {"method": method, "damping": "trace", "epsilon": 0.1}
    healthy = inv_root(A, 2, **options)
    iterate = roots._ITERATIONS[method]
    spoiled = torch.tensor([False, True, False]).view(3, 1, 1)
    monkeypatch.setitem(
        roots._ITERATIONS, method, lambda *a: iterate(*a).masked_fill(spoiled, garbage)
    )
    ours = inv_root(A, 2, **options)
    assert torch.equal(ours[[0, 2]], healthy[[0, 2]])
    assert not torch.equal(ours[1], healthy[1])  # the other road there: float64
    assert error(ours, textbook(A, 2, ridge(A, "trace", 0.1))) < 1e-6


@iterations
def test_iteration_ends_with_convergence(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    measure = newton.distance
    monkeypatch.setattr(newton, "distance", lambda M: seen.append(M) or measure(M))
    inv_root(rotated(torch.linspace(0.5, 1, 5)), 2, method=method)
    assert 3 < len(seen) < 12


@iterations
@powers
def test_good_roots_take_products_only(
    method: str, p: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.linalg, "eigh")
    A = torch.stack([rotated(torch.logspace(0, -4, 8), seed) for seed in range(3)]).float()
    assert inv_root(A, p, method=method, epsilon=1e-4).isfinite().all()


@iterations
@powers
def test_too_few_steps_are_noticed(method: str, p: int) -> None:
    A = rotated(torch.logspace(0, -4, 8))
    ours = inv_root(A, p, method=method, epsilon=1e-4, steps=2)
    assert error(ours, textbook(A, p, ridge(A, "relative", 1e-4))) < 1e-2


@iterations
@powers
def test_converged_matrices_wait(method: str, p: int, device: str) -> None:
    spectra = [torch.ones(6), torch.logspace(0, -1, 6), torch.logspace(0, -5, 6)]
    A = torch.stack([rotated(spectrum) for spectrum in spectra]).to(device)
    together = inv_root(A, p, method=method, damping="trace")
    alone = torch.stack([inv_root(a, p, method=method, damping="trace") for a in A])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=0)
    assert torch.equal(together, inv_root(A, p, method=method, damping="trace", steps=80))


@pytest.mark.parametrize("failing", [{torch.float32}, {torch.float32, torch.float64}])
def test_ladder_of_eigh(failing: set[torch.dtype], monkeypatch: pytest.MonkeyPatch) -> None:
    eigh = torch.linalg.eigh

    def stubborn(A: Tensor) -> tuple[Tensor, Tensor]:
        if A.dtype in failing:
            raise LinAlgError("did not converge")
        return eigh(A)

    A = torch.stack([rotated(gapped(5), seed) for seed in range(3)]).float()
    expected = textbook(A, 2, ridge(A, "relative", 1e-2))
    monkeypatch.setattr(torch.linalg, "eigh", stubborn)
    if torch.float64 in failing:
        with pytest.raises(ConvergenceError, match="eigh of a finite 5 x 5"):
            inv_root(A, 2)
    else:
        assert error(inv_root(A, 2, epsilon=1e-2), expected) < 1e-6


@methods
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_stays_at_home(method: str, bad: float, device: str) -> None:
    A = torch.stack([rotated(gapped(5), seed) for seed in range(3)]).to(device)
    healthy = inv_root(A, method=method, epsilon=1e-2)
    A[1, 2, 3] = bad
    poisoned = inv_root(A, method=method, epsilon=1e-2)
    assert poisoned[1].isnan().all()
    torch.testing.assert_close(poisoned[[0, 2]], healthy[[0, 2]], rtol=0, atol=1e-12)


@methods
@pytest.mark.parametrize("shape", [(0, 4, 4), (3, 0, 0), (0, 0)])
def test_empty(method: str, shape: tuple[int, ...]) -> None:
    assert inv_root(torch.empty(shape), method=method).shape == shape


@methods
def test_rounded_asymmetry_and_strides(method: str) -> None:
    A = torch.stack([rotated(gapped(5), seed) for seed in range(4)]).view(2, 2, 5, 5)
    crooked = (A + 1e-10 * torch.randn_like(A)).transpose(0, 1)
    before = crooked.clone()
    straight = (crooked + crooked.mT) / 2
    ours = inv_root(crooked, method=method, epsilon=1e-2)
    assert torch.equal(ours, inv_root(straight.contiguous(), method=method, epsilon=1e-2))
    assert torch.equal(crooked, before)


@pytest.mark.parametrize(
    ("A", "options", "says"),
    [
        (torch.eye(3)[:2], {}, r"shape \(2, 3\).*A @ A.mT"),
        (torch.eye(3).roll(1, 0).expand(2, 3, 3), {}, "2 of 2 matrices.*symmetric part"),
        (torch.ones(3), {}, "two dimensions"),
        (torch.eye(3, dtype=torch.int64), {}, "floating point"),
        (torch.eye(3), {"p": 3}, "p=3 is unknown: choose one of 1, 2, 4"),
        (torch.eye(3), {"method": "svd"}, "'svd' is unknown.*eigh, coupled_newton, newton_schulz"),
        (torch.eye(3), {"damping": "none"}, "'none' is unknown.*absolute, relative, trace, pseudo"),
        (torch.eye(3), {"damping": "pseudo", "method": "newton_schulz"}, "take method='eigh'"),
        (torch.eye(3), {"epsilon": -1e-6}, "epsilon=-1e-06.*0 <= epsilon"),
        (torch.eye(3), {"epsilon": float("nan")}, "epsilon=nan"),
        (torch.eye(3), {"steps": 0}, "steps=0.*steps >= 1"),
    ],
)
def test_bad_input_is_named(A: Tensor, options: dict[str, object], says: str) -> None:
    with pytest.raises(MatrixError, match=says):
        inv_root(A, **options)


@powers
@pytest.mark.parametrize("damping", DAMPINGS)
def test_gradient_of_eigh(p: int, damping: str) -> None:
    A = rotated(torch.linspace(1, 3, 4)).requires_grad_()
    epsilon = 0.1 if damping != "pseudo" else 0.0
    assert torch.autograd.gradcheck(
        lambda X: inv_root((X + X.mT) / 2, p, damping=damping, epsilon=epsilon), A
    )


@methods
def test_meta(method: str) -> None:
    A = torch.empty(2, 3, 3, device="meta")
    assert inv_root(A, method=method).is_meta


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(ROOT_METHODS),
    p=st.sampled_from(ROOTS),
    damping=st.sampled_from(["absolute", "relative", "trace"]),
    n=st.integers(1, 9),
    rank=st.integers(1, 9),
    scale=st.floats(-30, 30),
    seed=st.integers(0, 2**31),
)
def test_properties(
    method: str, p: int, damping: str, n: int, rank: int, scale: float, seed: int
) -> None:
    """Positive, commutes with A, inverts the damped A, turns with A."""
    make = torch.Generator().manual_seed(seed)
    G = torch.randn(2, n, rank, dtype=torch.float64, generator=make)
    Q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=make)).Q
    epsilon = 1e-3 * (10**scale if damping == "absolute" else 1)
    options = {"method": method, "damping": damping, "epsilon": epsilon}
    A = G @ G.mT * 10**scale
    R = inv_root(A, p, **options)
    assert float(torch.linalg.eigvalsh(R).min()) > 0
    size = (A.norm() * R.norm()).item()
    assert float((A @ R - R @ A).norm()) < 1e-10 * size
    D = torch.linalg.inv(torch.linalg.matrix_power(R, p)) - A  # the ridge, a multiple of I
    mean = D.diagonal(dim1=-2, dim2=-1).mean(-1)
    assert float((D - mean.view(-1, 1, 1) * torch.eye(n)).norm()) < 1e-9 * float(A.norm())
    assert bool(((mean / ridge(A, damping, epsilon) - 1).abs() < 0.1).all())  # power iteration
    if method == "eigh" or damping != "relative":
        turned = inv_root(Q @ A @ Q.mT, p, **options)
        assert float((turned - Q @ R @ Q.mT).norm()) < 1e-9 * float(R.norm())


# -- in a given basis ------------------------------------------------------------------------------


def some_basis(n: int, seed: int = 9) -> Tensor:
    make = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=make)).Q


@powers
@ridges
def test_in_a_basis_it_is_the_root_of_the_diagonal(p: int, damping: str, device: str) -> None:
    A = torch.stack([3 * rotated(gapped(7), seed) for seed in range(6)]).view(2, 3, 7, 7)
    Q = some_basis(7).expand_as(A)
    diagonal = Q @ torch.diag_embed((Q.mT @ A @ Q).diagonal(dim1=-2, dim2=-1)) @ Q.mT
    expected = textbook(diagonal, p, ridge(diagonal, damping, 1e-2))
    ours = inv_root_in_basis(A.to(device), Q.to(device), p, damping, 1e-2).cpu()
    assert error(ours, expected) < 1e-11
    assert error(ours, textbook(A, p, ridge(A, damping, 1e-2))) > 1e-2


@powers
@ridges
def test_in_the_basis_of_eigenvectors_it_is_the_root(p: int, damping: str) -> None:
    A = torch.stack([3 * rotated(gapped(7), seed) for seed in range(6)])
    ours = inv_root_in_basis(A, torch.linalg.eigh(A)[1], p, damping, 1e-2)
    assert error(ours, inv_root(A, p, damping=damping, epsilon=1e-2)) < 1e-11


@powers
@pytest.mark.parametrize("size", [1e-37, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("epsilon", [0.0, 1e-30, 1e-6, 1e6])
def test_in_a_basis_absolute_damping_keeps_the_scale(p: int, size: float, epsilon: float) -> None:
    A = (rotated(torch.linspace(0.5, 2, 5)) * size).float()
    Q = torch.linalg.eigh(A.double())[1].float()
    expected = textbook(A, p, epsilon).float()
    ours = inv_root_in_basis(A, Q, p, "absolute", epsilon)
    torch.testing.assert_close(ours, expected, rtol=2e-5, atol=1e-5 * float(expected.abs().max()))


@powers
@pytest.mark.parametrize("exponent", [-96, 96])
def test_in_a_basis_powers_of_two_go_through(p: int, exponent: int) -> None:
    A, Q = rotated(torch.linspace(0.5, 2, 6)).float(), some_basis(6).float()
    scaled = inv_root_in_basis(A * 2.0**exponent, Q, p, "relative", 1e-2)
    assert torch.equal(
        scaled, inv_root_in_basis(A, Q, p, "relative", 1e-2) * 2.0 ** (-exponent // p)
    )


@powers
@pytest.mark.parametrize("power", range(-3, 4))
def test_in_a_basis_powers_of_two_have_exact_roots(p: int, power: int) -> None:
    eye = torch.eye(3)
    root = inv_root_in_basis(eye * 2.0 ** (2 * power * p), eye, p, "relative", 0.0)
    assert torch.equal(root, eye * 2.0 ** (-2 * power))


def test_in_a_basis_a_negative_quotient_is_zero() -> None:
    A = torch.diag(torch.tensor([1.0, 0.5, -0.25]))
    root = inv_root_in_basis(A, torch.eye(3), 2, "relative", 0.25)
    torch.testing.assert_close(root, inv_root(A, 2, damping="relative", epsilon=0.25))


def test_in_a_basis_only_what_is_poisoned_is_nan() -> None:
    A, Q = torch.eye(3).repeat(3, 1, 1), torch.eye(3).repeat(3, 1, 1)
    A[0, 1, 1], Q[1, 0, 0] = float("nan"), float("nan")
    root = inv_root_in_basis(A, Q, 4, "relative", 0.0)
    assert root[:2].isnan().flatten(1).any(1).all()
    torch.testing.assert_close(root[2], torch.eye(3))


@pytest.mark.parametrize("n", [16, 64, 256])
@pytest.mark.parametrize("p", [2, 4])
def test_in_a_basis_of_16_bits(n: int, p: int) -> None:
    """Rounded vectors leak of the largest eigenvalue into the others, and those are enlarged by up
    to ``epsilon^(-1/p)``: by so much the rounding, ``2^-9``, counts more.
    """
    spectrum = torch.cat([torch.ones(n // 4), torch.zeros(n - n // 4)]).double()
    A, X = rotated(spectrum), rotated(spectrum) @ torch.randn(n, n, dtype=torch.float64)
    Q = torch.linalg.eigh(A)[1].bfloat16()
    root = inv_root_in_basis(A.float(), Q, p, "relative", 1e-4)
    assert root.dtype == torch.bfloat16
    expected = textbook(A, p, 1e-4) @ X
    assert error(root.double() @ X, expected) < 1.5 * 2**-9 * 1e-4 ** (-1 / p)
