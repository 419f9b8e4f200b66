"""Norms, condition numbers and ranks against the singular values of a float64 SVD."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stiefel.errors import MatrixError
from stiefel.linalg import norms
from stiefel.linalg.norms import (
    condition_number,
    effective_rank,
    nuclear_norm,
    power_iteration,
    schatten_norm,
    spectral_norm,
    stable_rank,
)
from tests.linalg.spectra import with_values

Measure = Callable[[Tensor], Tensor]
SHAPES = [(1, 1), (1, 7), (7, 1), (5, 5), (4, 9), (9, 4), (3, 4, 9), (2, 3, 9, 4)]
EXPONENTS = [1, 1.5, 2, 3, 4, 5, 6, 8, 10, 40, math.inf]

# Every measure with its textbook form in the singular values, and its degree of homogeneity.
MEASURES: dict[str, tuple[Measure, Measure, int]] = {
    "spectral": (spectral_norm, lambda S: S.amax(-1), 1),
    "bound": (lambda X: spectral_norm(X, method="bound"), lambda S: (S**8).sum(-1) ** (1 / 8), 1),
    "nuclear": (nuclear_norm, lambda S: S.sum(-1), 1),
    **{
        f"schatten {p}": (
            lambda X, p=p: schatten_norm(X, p),
            lambda S, p=p: (S**p).sum(-1) ** (1 / p) if p < math.inf else S.amax(-1),
            1,
        )
        for p in EXPONENTS
    },
    "condition": (condition_number, lambda S: S.amax(-1) / S.amin(-1), 0),
    "stable rank": (stable_rank, lambda S: (S**2).sum(-1) / (S**2).amax(-1), 0),
    "effective rank": (
        effective_rank,
        lambda S: torch.distributions.Categorical(probs=S).entropy().exp(),
        0,
    ),
}
names = pytest.mark.parametrize("name", MEASURES)
# Power iteration is no function of the singular values alone, but a measure like the others.
measures = pytest.mark.parametrize(
    ("measure", "degree"),
    [
        *(pytest.param(f, degree, id=name) for name, (f, _, degree) in MEASURES.items()),
        pytest.param(lambda X: power_iteration(X).sigma, 1, id="power"),
    ],
)


@names
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_textbook(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    measure, of_spectrum, _ = MEASURES[name]
    X = torch.randn(shape).to(dtype)
    X.diagonal(dim1=-2, dim2=-1).add_(3)  # a condition number that float32 can hold
    expected = of_spectrum(torch.linalg.svdvals(X.double()))
    ours = measure(X.to(device))
    assert ours.dtype == dtype and ours.shape == shape[:-2] and ours.device.type == device
    rounding = {torch.float64: 1e-13, torch.float32: 2e-6}.get(dtype, torch.finfo(dtype).eps)
    torch.testing.assert_close(ours.double().cpu(), expected, rtol=rounding, atol=0)


@measures
def test_batched_equals_one_at_a_time(measure: Measure, degree: int, device: str) -> None:
    X = torch.randn(5, 12, 20, dtype=torch.float64, device=device)
    single = torch.stack([measure(matrix) for matrix in X])
    torch.testing.assert_close(measure(X), single, rtol=1e-13, atol=0)


@measures
@pytest.mark.parametrize("exponent", [-120, -60, 60, 120])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_homogeneous(measure: Measure, degree: int, exponent: int, dtype: torch.dtype) -> None:
    """Powers of two round nothing, so not one bit may change; the squares would overflow."""
    X = torch.randn(3, 4, 6).to(dtype)
    exponent = 8 * exponent if dtype is torch.float64 else exponent
    scaled = measure(X * 2.0**exponent)
    assert torch.equal(scaled, measure(X) * 2.0 ** (degree * exponent))


@measures
def test_subnormal(measure: Measure, degree: int) -> None:
    """The spectrum of whole numbers, in units of float32's smallest number."""
    X = torch.randint(1, 1000, (4, 6)).float()
    unit = 2.0**-149
    assert torch.equal(measure(X * unit), measure(X) * unit**degree)


@measures
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_stays_at_home(measure: Measure, degree: int, bad: float, device: str) -> None:
    X = torch.randn(3, 8, 5, device=device)
    alone = measure(X)
    X[1, 3, 3] = bad
    poisoned = measure(X)
    assert bool(poisoned[1].isnan()) and torch.equal(poisoned[::2], alone[::2])


@measures
def test_zero_and_empty(measure: Measure, degree: int) -> None:
    zero = torch.inf if measure is condition_number else 0.0
    assert torch.equal(measure(torch.zeros(2, 3, 4)), torch.full((2,), zero))
    for shape in [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0)]:
        assert torch.equal(measure(torch.empty(shape)), torch.zeros(shape[:-2]))


@names
def test_transpose(name: str) -> None:
    X = torch.randn(2, 6, 10, dtype=torch.float64)
    measure = MEASURES[name][0]
    torch.testing.assert_close(measure(X.mT), measure(X), rtol=1e-12, atol=0)


@measures
def test_strides_and_input(measure: Measure, degree: int) -> None:
    X = torch.randn(2, 10, 6, dtype=torch.float64).mT
    before = X.clone()
    torch.testing.assert_close(measure(X), measure(X.contiguous()), rtol=1e-13, atol=0)
    assert torch.equal(X, before)


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 12),
    n=st.integers(1, 12),
    decay=st.floats(0, 3),
    p=st.floats(1, 100),
    seed=st.integers(0, 2**31),
)
def test_inequalities(m: int, n: int, decay: float, p: float, seed: int) -> None:
    """What the measures owe each other, on flat and steep spectra."""
    k = min(m, n)
    X = with_values(
        10.0 ** -(decay * torch.arange(k, dtype=torch.float64)),
        m,
        n,
        torch.Generator().manual_seed(seed),
    )
    sigma, bound = spectral_norm(X), spectral_norm(X, method="bound")
    up = 1 + 1e-12
    assert sigma <= bound * up and bound <= sigma * k ** (1 / 8) * up
    assert spectral_norm(X, method="power") <= sigma * up
    assert sigma <= schatten_norm(X, p) * up and schatten_norm(X, p + 1) <= schatten_norm(X, p) * up
    ranks = torch.stack([torch.tensor(1.0), stable_rank(X), effective_rank(X), torch.tensor(k)])
    assert bool((ranks[:-1] <= ranks[1:] * up).all())
    assert condition_number(X) >= 1


@pytest.mark.parametrize(("m", "n"), [(12, 12), (30, 12), (12, 40)])
@pytest.mark.parametrize("kappa", [1.0, 1e3, 1e6, 1e9, 1e12])
def test_condition_to_1e12(kappa: float, m: int, n: int) -> None:
    """The error of a singular value is a few roundings of the largest: eps kappa of kappa."""
    S = torch.logspace(0, -math.log10(kappa), 12, dtype=torch.float64)
    ours = float(condition_number(with_values(S, m, n)))
    assert ours == pytest.approx(kappa, rel=10 * 2.3e-16 * kappa + 1e-14)


def test_condition_of_a_narrow_matrix_as_stored() -> None:
    """Beyond what the dtype's own arithmetic could tell from infinity."""
    for dtype in (torch.float32, torch.bfloat16):
        X = torch.diag(torch.tensor([1.0, 2.0**-33])).to(dtype)
        assert float(condition_number(X)) == 2.0**33


@pytest.mark.parametrize(("m", "n"), [(9, 9), (20, 9), (9, 20)])
def test_condition_of_singular_matrices(m: int, n: int) -> None:
    factors = torch.randn(6, m, 5, dtype=torch.float64), torch.randn(6, 5, n, dtype=torch.float64)
    X = factors[0] @ factors[1]
    assert bool(condition_number(X).isinf().all())
    X[0] = with_values(torch.ones(9, dtype=torch.float64), m, n)
    assert condition_number(X).isinf().tolist() == [False] + 5 * [True]


@pytest.mark.parametrize("method", ["exact", "power", "bound"])
def test_spectral_gradient_is_the_outer_product(method: str) -> None:
    X = with_values(torch.tensor([3.0, 1e-3, 1e-4]).double(), 5, 4).requires_grad_()
    spectral_norm(X, method=method).backward()
    U, _, Vh = torch.linalg.svd(X.detach(), full_matrices=False)
    torch.testing.assert_close(X.grad, torch.outer(U[:, 0], Vh[0]), rtol=0, atol=1e-9)


@measures
def test_gradients(measure: Measure, degree: int) -> None:
    """Right at a generic matrix (at the power iteration's limit), finite at a zero one."""
    S = torch.tensor([4.0, 1.0, 0.7]).double()
    X = with_values(S, 5, 3).requires_grad_()
    assert torch.autograd.gradcheck(measure, (X,))
    Z = torch.zeros(5, 3, requires_grad=True)
    if degree == 1:
        measure(Z).backward()
        assert Z.grad is not None and bool(Z.grad.isfinite().all())


# Power iteration


@pytest.mark.parametrize(("m", "n"), [(6, 6), (9, 4), (4, 9), (1, 5), (5, 1)])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_power_iteration_is_the_weighted_mean_of_the_spectrum(m: int, n: int, steps: int) -> None:
    """With ``c`` the start in the right singular vectors, ``v ~ c_i s_i^2t`` after t steps."""
    X = torch.randn(3, m, n, dtype=torch.float64)
    start = torch.randn(3, n, dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(X, full_matrices=False)
    c = (Vh @ start.unsqueeze(-1)).squeeze(-1)
    weights = c * S ** (2 * steps - 1)
    ours = power_iteration(X, steps=steps, start=start)
    expected = (weights * S).norm(dim=-1) / weights.norm(dim=-1)
    torch.testing.assert_close(ours.sigma, expected, rtol=1e-12, atol=0)
    for vector, basis, coordinates in [
        (ours.left, U, weights),
        (ours.right, Vh.mT, weights * S),
    ]:
        limit = (basis @ coordinates.unsqueeze(-1)).squeeze(-1)
        limit = limit / limit.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(vector, limit, rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 10), n=st.integers(1, 10), seed=st.integers(0, 2**31))
def test_power_iteration_laws(m: int, n: int, seed: int) -> None:
    """``sigma = u^T X v``, unit vectors, never above the truth, never below the last step's."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(m, n, dtype=torch.float64, generator=generator)
    found = [power_iteration(X, steps=steps) for steps in (1, 2, 4, 8, 200)]
    for sigma, left, right in found:
        assert float(left @ X @ right) == pytest.approx(float(sigma), rel=1e-12)
        assert float(left.norm()) == pytest.approx(1) and float(right.norm()) == pytest.approx(1)
    climb = torch.stack([f.sigma for f in found])
    assert bool((climb.diff() >= -1e-13 * climb[-1]).all())
    assert climb[-1] <= torch.linalg.matrix_norm(X, 2) * (1 + 1e-13)


def test_a_warm_start_goes_on_where_the_last_call_stopped() -> None:
    X = torch.randn(3, 8, 6, dtype=torch.float64)
    first = power_iteration(X, steps=4)
    both = power_iteration(X, steps=3, start=first.right)
    torch.testing.assert_close(both, power_iteration(X, steps=7), rtol=1e-13, atol=1e-13)
    sigma = spectral_norm(X, method="power", steps=3, start=first.right)
    assert torch.equal(sigma, both.sigma)


@pytest.mark.parametrize("start", [0.0, float("nan"), float("inf")])
def test_a_start_without_a_direction_is_a_cold_one(start: float) -> None:
    """What the last call left of a matrix with a NaN must not poison the next ones."""
    X = torch.randn(3, 8, 6)
    last = power_iteration(X).right
    warm = power_iteration(X, start=last)
    last[1] = start
    mixed, cold = power_iteration(X, start=last), power_iteration(X)
    for ours, healthy, expected in zip(mixed, warm, cold, strict=True):
        assert torch.equal(ours[::2], healthy[::2]) and torch.equal(ours[1], expected[1])


def test_power_iteration_of_zero_gives_unit_vectors(device: str) -> None:
    X = torch.zeros(2, 5, 3, device=device)
    start = torch.tensor([[1.0, 0, 0], [0, 2.0, 0]], device=device)
    for warm in (None, start):
        sigma, left, right = power_iteration(X, start=warm)
        assert not sigma.any()
        torch.testing.assert_close(left.norm(dim=-1), torch.ones(2, device=device))
        torch.testing.assert_close(right.norm(dim=-1), torch.ones(2, device=device))


def test_power_iteration_sees_through_centring() -> None:
    """Where vectors of ones are orthogonal, to the last bit, to all that is looked for."""
    centre = 4 * torch.eye(4, dtype=torch.float64) - 1
    X = centre @ torch.randint(-9, 9, (4, 4)).double() @ centre
    sigma = power_iteration(X, steps=200).sigma
    torch.testing.assert_close(sigma, torch.linalg.matrix_norm(X, 2), rtol=1e-6, atol=0)


# Bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X: spectral_norm(X, method="svd"), "method='svd' is unknown.*exact, power, bound"),
        (lambda X: schatten_norm(X, 0.5), "p=0.5: .*p >= 1"),
        (lambda X: schatten_norm(X, math.nan), "p=nan: .*p >= 1"),
        (lambda X: power_iteration(X, steps=0), "steps=0: .*at least 1"),
        (
            lambda X: power_iteration(X, start=torch.ones(3)),
            r"start has shape \(3,\): .*\(2, 3, 4\) are \(2, 4\)",
        ),
        (lambda X: spectral_norm(X[0, 0]), "a matrix has two dimensions"),
        (lambda X: condition_number(X.to(torch.complex64)), "dtype torch.complex64"),
    ],
)
def test_bad_input_is_named(call: Measure, message: str) -> None:
    with pytest.raises(MatrixError, match=message):
        call(torch.ones(2, 3, 4))


def test_even_schatten_norms_need_no_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "svdvals", None)
    monkeypatch.setattr(norms, "eigvalsh", None)
    for p in (2, 4, 6, 8):
        assert schatten_norm(torch.eye(3), p) == pytest.approx(3 ** (1 / p))


@pytest.mark.parametrize("shape", [(3, 40), (40, 3)])
def test_the_gram_matrix_is_the_small_one(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(norms, "eigvalsh", lambda A: seen.append(A) or torch.linalg.eigvalsh(A))
    spectral_norm(torch.randn(shape))
    assert seen[0].shape == (1, 3, 3)


@pytest.mark.parametrize("measure", [spectral_norm, stable_rank, condition_number])
def test_float64_inside_leaves_one_rounding(measure: Measure) -> None:
    X = torch.randn(20, 30, 60)
    expected = measure(X.double())
    half_a_place = torch.finfo(torch.float32).eps / 2
    torch.testing.assert_close(measure(X).double(), expected, rtol=half_a_place, atol=0)
