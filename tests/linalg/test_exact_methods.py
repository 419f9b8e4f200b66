"""The exact and nearly exact ways to the polar factor, against float64."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stiefel.errors import MatrixError
from stiefel.linalg.methods.decomposed import GramEigh, Svd
from stiefel.linalg.methods.qdwh import Qdwh
from stiefel.linalg.methods.zolo import Zolo
from tests.linalg.spectra import orthonormal

Method = Callable[[Tensor], Tensor]
DECOMPOSED, ITERATED = [Svd(), GramEigh()], [Qdwh(), Zolo()]
STABLE, ALL = [Svd(), Qdwh(), Zolo()], [*DECOMPOSED, *ITERATED]
DTYPES = [torch.float32, torch.float64]
SHAPES = [(1, 1), (1, 7), (5, 5), (4, 9), (12, 40)]
EPS = torch.finfo(torch.float64).eps


def over(methods: list[Method]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", methods, ids=lambda each: type(each).__name__)


def matrix(S: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """A wide stack of one with these singular values, largest entry 1, and its polar factor."""
    U, V = orthonormal(len(S), len(S)), orthonormal(n, len(S))
    X = (U * S) @ V.mT
    return (X / X.abs().max()).unsqueeze(0), (U @ V.mT).unsqueeze(0)


def conditioned(kappa: float, m: int, n: int) -> tuple[Tensor, Tensor]:
    return matrix(torch.logspace(0, -math.log10(kappa), m, dtype=torch.float64), n)


def defect(P: Tensor) -> float:
    """Largest distance of a singular value from 1."""
    return float((torch.linalg.svdvals(P.double()) - 1).abs().max())


@over(ALL)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_is_the_factor_of_the_svd(
    method: Method, shape: tuple[int, int], dtype: torch.dtype, device: str
) -> None:
    X, expected = conditioned(100, *shape)
    P = method(X.to(device, dtype))
    assert P.dtype == dtype and P.shape == X.shape and P.device.type == device
    tolerance = 300 * torch.finfo(dtype).eps
    torch.testing.assert_close(P.cpu().double(), expected, rtol=0, atol=tolerance)


@over(STABLE)
@pytest.mark.parametrize("kappa", [1.0, 1e3, 1e6, 1e12])
@pytest.mark.parametrize("n", [50, 120])
def test_backward_stable_at_any_condition_number(method: Method, kappa: float, n: int) -> None:
    """``X = H P`` to rounding with P orthonormal to rounding, whatever kappa."""
    X, _ = conditioned(kappa, 50, n)
    P = method(X)
    H = X @ P.mT
    assert defect(P) < 1e-14
    assert float((H - H.mT).norm() / X.norm()) < 1e-14
    assert float(torch.linalg.eigvalsh((H + H.mT) / 2).min() / X.norm()) > -1e-14
    assert float((H @ P - X).norm() / X.norm()) < 1e-14


@over(STABLE)
@pytest.mark.parametrize("kappa", [1e2, 1e5, 1e8])
def test_error_grows_no_faster_than_the_condition_number(method: Method, kappa: float) -> None:
    X, expected = conditioned(kappa, 20, 30)
    assert float((method(X) - expected).norm()) < 100 * kappa * EPS


@over(ALL)
@pytest.mark.parametrize("n", [6, 17])
def test_orthonormal_rows_stay(method: Method, n: int) -> None:
    X = orthonormal(n, 6).mT.unsqueeze(0)
    torch.testing.assert_close(method(X), X, rtol=0, atol=1e-14)
    eye = torch.eye(6, n, dtype=torch.float64).unsqueeze(0)
    torch.testing.assert_close(method(eye), eye, rtol=0, atol=1e-14)


@over(ALL)
def test_batched_equals_one_at_a_time(method: Method, device: str) -> None:
    X = torch.randn(5, 6, 9, device=device, dtype=torch.float64)
    single = torch.cat([method(x.unsqueeze(0)) for x in X])
    torch.testing.assert_close(method(X), single, rtol=0, atol=1e-13)
    assert method(X[:0]).shape == (0, 6, 9)


@over(ALL)
@pytest.mark.parametrize("n", [6, 9])
def test_zero_stays_zero_beside_others(method: Method, n: int, device: str) -> None:
    X = torch.randn(3, 6, n, device=device, dtype=torch.float64)
    alone = method(X[::2])
    X[1] = 0
    P = method(X)
    assert torch.equal(P[1], torch.zeros_like(P[1]))
    torch.testing.assert_close(P[::2], alone, rtol=0, atol=1e-13)


@over(ALL)
@pytest.mark.parametrize("dtype", DTYPES)
def test_input_untouched_and_strides_free(method: Method, dtype: torch.dtype) -> None:
    X = torch.randn(2, 9, 6, dtype=dtype).mT
    before = X.clone()
    P = method(X.contiguous())
    torch.testing.assert_close(method(X), P, rtol=0, atol=300 * torch.finfo(dtype).eps)
    assert torch.equal(X, before)


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 10),
    more=st.integers(0, 6),
    b=st.integers(1, 3),
    seed=st.integers(0, 2**31),
    spread=st.floats(0, 8),
)
@over(ALL)
def test_polar_decomposition(
    method: Method, m: int, more: int, b: int, seed: int, spread: float
) -> None:
    """``X = H P`` with H symmetric positive semidefinite: what makes P the polar factor."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(b, m, m + more, dtype=torch.float64, generator=generator)
    rows = torch.rand(m, 1, dtype=torch.float64, generator=generator)
    X = X * 10 ** (-spread * rows)
    X = X / X.abs().amax((-2, -1), keepdim=True)
    P = method(X)
    H = X @ P.mT
    # GramEigh leaves out what is below sqrt(eps): as much may be missing from the product.
    tolerance = 1e-6 if isinstance(method, GramEigh) else 1e-12
    assert float((H - H.mT).abs().max()) < tolerance
    assert float(torch.linalg.eigvalsh((H + H.mT) / 2).min()) > -tolerance
    assert float((H @ P - X).abs().max()) < tolerance


@over(DECOMPOSED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_decompositions_drop_noise(method: Method, dtype: torch.dtype) -> None:
    X = (torch.randn(2, 12, 3, dtype=torch.float64) @ torch.randn(3, 30).double()).to(dtype)
    S = torch.linalg.svdvals(method(X / X.abs().max()).double())
    tolerance = 300 * torch.finfo(dtype).eps
    torch.testing.assert_close(S[:, :3], torch.ones_like(S[:, :3]), rtol=0, atol=tolerance)
    assert float(S[:, 3:].max()) < tolerance


@over(ITERATED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_iterations_leave_noise_within_the_unit_ball(method: Method, dtype: torch.dtype) -> None:
    X = (torch.randn(2, 12, 3, dtype=torch.float64) @ torch.randn(3, 30).double()).to(dtype)
    S = torch.linalg.svdvals(method(X / X.abs().max()).double())
    tolerance = 300 * torch.finfo(dtype).eps
    torch.testing.assert_close(S[:, :3], torch.ones_like(S[:, :3]), rtol=0, atol=tolerance)
    assert float(S.max()) < 1 + tolerance


@over(ALL)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_vanishing_row_does_no_harm(method: Method, dtype: torch.dtype) -> None:
    """It is noise beside the others, whose own factor must come out."""
    X = conditioned(10, 5, 8)[0].to(dtype)
    tiny = torch.cat([X, 1e-30 * torch.randn(1, 1, 8, dtype=dtype)], -2)
    P = method(tiny)
    tolerance = 300 * torch.finfo(dtype).eps
    torch.testing.assert_close(P[:, :5], method(X), rtol=0, atol=tolerance)
    assert float(torch.linalg.matrix_norm(P, 2)) < 1 + tolerance


@pytest.mark.parametrize(
    ("method", "dtype", "cut"),
    [
        (Svd(), torch.float64, 20 * EPS),
        (Svd(), torch.float32, 4 * torch.finfo(torch.float32).eps),
        (GramEigh(), torch.float64, math.sqrt(20 * EPS)),
        (GramEigh(), torch.float32, 4 * torch.finfo(torch.float32).eps),
    ],
)
def test_the_cut_is_where_it_is_said_to_be(method: Method, dtype: torch.dtype, cut: float) -> None:
    """A diagonal, so that not even float32 disturbs the singular values on their way in."""
    X = torch.zeros(1, 3, 20, dtype=dtype)
    X[0, range(3), range(3)] = torch.tensor([1, 2 * cut, cut / 2], dtype=dtype)
    kept = method(X)[0].norm(dim=-1)
    torch.testing.assert_close(kept, kept.new_tensor([1, 1, 0]), rtol=0, atol=0.1)


def test_gram_keeps_the_directions_of_momentum() -> None:
    """Median 1e-2 of the largest, smallest 1e-4, in float32: the float32 cut would lose half."""
    X, expected = matrix(torch.logspace(0, -4, 64).double(), 128)
    X = X.float()
    in_float32 = torch.linalg.eigvalsh(X @ X.mT)[0]
    cut = 128 * torch.finfo(torch.float32).eps * in_float32.max()
    assert int((in_float32 > cut).sum()) < 40  # what we are better than
    assert float((GramEigh()(X).double() - expected).norm()) < 1e-2
    assert defect(GramEigh()(X)) < 1e-4


@over(ALL)
@pytest.mark.parametrize("shape", [(3, 5), (4, 4), (1, 4), (1, 1)])
def test_derivative_at_distinct_singular_values(method: Method, shape: tuple[int, int]) -> None:
    X = torch.randn(2, *shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(method, X.requires_grad_())


@pytest.mark.parametrize("shape", [(5, 3), (4, 4)])
def test_derivative_of_a_transposed_input(shape: tuple[int, int]) -> None:
    X = torch.randn(2, *shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda X: Svd()(X.mT).mT, X.requires_grad_())
    assert torch.autograd.gradcheck(Svd(), X)


@over(ALL)
@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("S", [(1.0, 1.0, 1.0), (1.0, 1.0, 0.3), (0.9, 0.2, 0.2)])
def test_derivative_at_repeated_singular_values(
    method: Method, n: int, S: tuple[float, ...]
) -> None:
    """Where the derivative of the decomposition itself is infinite."""
    X, _ = matrix(torch.tensor(S, dtype=torch.float64), n)
    assert torch.autograd.gradcheck(method, X.requires_grad_())


@over(ALL)
@pytest.mark.parametrize("n", [3, 5])
def test_derivative_at_the_identity(method: Method, n: int) -> None:
    X = torch.eye(3, n, dtype=torch.float64).unsqueeze(0).requires_grad_()
    assert torch.autograd.gradcheck(method, X)


@over(DECOMPOSED)
def test_derivative_ignores_scale_and_keeps_rank(method: Method) -> None:
    """Homogeneous of degree 0: no derivative along X; a dropped direction gives no infinity."""
    X = torch.randn(1, 5, 2, dtype=torch.float64) @ torch.randn(1, 2, 7, dtype=torch.float64)
    X[:, -1] = 0
    stack = torch.cat([X, torch.zeros_like(X)]).requires_grad_()
    G = torch.randn_like(stack)
    (gradient,) = torch.autograd.grad(method(stack), stack, G)
    assert bool(gradient.isfinite().all()) and torch.equal(gradient[1], torch.zeros_like(X[0]))
    assert abs(float((gradient[0] * X[0]).sum())) < 1e-10 * float(gradient.norm())


def test_derivative_along_the_matrices_of_the_same_rank() -> None:
    A, B = torch.randn(1, 5, 2, dtype=torch.float64), torch.randn(1, 2, 7, dtype=torch.float64)
    inputs = (A.requires_grad_(), B.requires_grad_())
    assert torch.autograd.gradcheck(lambda A, B: Svd()(A @ B), inputs)


def test_second_derivative_is_refused_not_wrong() -> None:
    X = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    with pytest.raises(MatrixError, match="first derivative only.*qdwh"):
        torch.autograd.grad(Svd()(X)[0, 0, 0], X, create_graph=True)
    assert torch.autograd.gradgradcheck(Qdwh(), X)
