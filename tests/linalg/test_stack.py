"""The common door: what goes through it comes back bit for bit, and what may not is named."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stiefel.errors import MatrixError
from stiefel.linalg.stack import prepare

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (3, 5), (4, 3, 5), (2, 3, 5, 3)]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def smallest_subnormal(dtype: torch.dtype) -> float:
    info = torch.finfo(dtype)
    return info.tiny * info.eps


@dtypes
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("where", ["one", "smallest normal", "subnormal", "largest"])
def test_round_trip_is_bit_exact(
    dtype: torch.dtype, shape: tuple[int, ...], where: str, device: str
) -> None:
    info = torch.finfo(dtype)
    X = torch.rand(shape).double() + 1  # in [1, 2)
    if where == "subnormal":
        X = torch.randint(1, round(1 / info.eps), shape).double() * smallest_subnormal(dtype)
    elif where == "largest":
        X = X * (info.max / 2)
        X.flatten()[0] = info.max
    else:
        X = X * {"one": 1.0, "smallest normal": info.tiny}[where]
    X = X.clamp(max=info.max).to(dtype).to(device)
    stack = prepare(X)
    largest = stack.values.abs().amax((-2, -1))
    assert bool(((largest >= 0.5) & (largest < 1)).all())
    back = stack.restore(stack.values, 1)
    assert back.dtype == dtype and back.device == X.device and torch.equal(back, X)


@dtypes
def test_values_are_the_working_precision(dtype: torch.dtype) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert prepare(torch.ones(2, 3, 4).to(dtype)).values.dtype == wide


@settings(max_examples=60, deadline=None)
@given(
    exponent=st.integers(-500, 500),
    multiple=st.sampled_from([1, 2, 3, 4, 8]),
    numerator=st.sampled_from([-2, -1, 1, 2]),
    seed=st.integers(0, 2**31),
)
def test_homogeneous_functions_of_fractional_degree(
    exponent: int, multiple: int, numerator: int, seed: int
) -> None:
    """``f(x) = |x|^(a/k)`` of 1 x 1 matrices, scaled by a k-th power of 2: not one bit changes."""
    exponent = exponent // multiple * multiple
    degree = numerator / multiple
    X = torch.rand(5, 1, 1, generator=torch.Generator().manual_seed(seed)).double() + 0.5

    def power(X: Tensor) -> Tensor:
        stack = prepare(X, multiple=multiple)
        assert bool((stack.exponent % multiple == 0).all())
        return stack.restore(stack.values.abs() ** degree, degree)

    scale = 2.0 ** (exponent // multiple * numerator)
    assert torch.equal(power(X * 2.0**exponent), power(X) * scale)
    torch.testing.assert_close(power(X), X**degree, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("degree", [2, -2])
def test_zeros_of_an_extreme_matrix_stay_zeros(dtype: torch.dtype, degree: int) -> None:
    """The square of the scale overflows; a zero times it must not become a NaN."""
    edge = torch.finfo(dtype).max if degree > 0 else smallest_subnormal(dtype)
    stack = prepare(torch.tensor([[edge, 0.0], [0.0, edge]], dtype=dtype))
    gram = stack.restore(stack.values @ stack.values.mT, degree)
    assert torch.equal(gram, torch.tensor([[torch.inf, 0], [0, torch.inf]], dtype=dtype))


@dtypes
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_poison_stays_at_home(dtype: torch.dtype, bad: float, device: str) -> None:
    X = torch.randn(3, 4, 5, device=device).to(dtype)
    healthy = prepare(X)
    X[1, 2, 3] = bad
    stack = prepare(X)
    assert stack.poisoned.tolist() == [False, True, False]
    assert bool(stack.values.isfinite().all()) and not stack.values[1].any()
    assert torch.equal(stack.values[::2], healthy.values[::2])
    back = stack.restore(stack.values, 1)
    assert bool(back[1].isnan().all()) and torch.equal(back[::2], X[::2])


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0), (0, 4, 4), (3, 0, 4), (3, 4, 0), (2, 0)])
def test_empty(shape: tuple[int, ...]) -> None:
    stack = prepare(torch.empty(shape))
    assert stack.restore(stack.values, 1).shape == shape
    assert stack.restore(torch.ones(stack.values.shape[0])).shape == shape[:-2]


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_a_number_per_matrix(batch: tuple[int, ...]) -> None:
    X = torch.randn(*batch, 3, 4) * 1e20
    stack = prepare(X)
    assert torch.equal(stack.restore(stack.values.amax((-2, -1)), 1), X.amax((-2, -1)))


def test_zero_and_strides_and_input() -> None:
    X = torch.randn(5, 4, 3).mT
    X[2] = 0
    before = X.clone()
    stack = prepare(X)
    assert torch.equal(stack.restore(stack.values, 1), before) and torch.equal(X, before)
    assert torch.equal(stack.values, prepare(X.contiguous()).values)


@pytest.mark.parametrize(("degree", "scale"), [(1, 1.0), (1, 1e-200), (1, 1e200), (2, 1.0)])
def test_differentiable(degree: int, scale: float) -> None:
    def power(Y: Tensor) -> Tensor:
        """In the unit ``scale``, so that gradcheck meets derivatives near 1."""
        stack = prepare(Y * scale)
        return stack.restore(stack.values**degree, degree) * (1 / scale)

    Y = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(power, (Y,))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([[1.0]], r"A is a list: give a torch.Tensor `\[..., m, n\]`"),
        (torch.ones(2, 2, dtype=torch.int64), r"A has dtype torch.int64: .*X.float\(\)"),
        (torch.ones(2, 2, dtype=torch.complex64), "A has dtype torch.complex64: give real"),
        (torch.ones(3), r"A has shape \(3,\): a matrix has two dimensions.*reshape"),
        (torch.tensor(1.0), r"A has shape \(\): a matrix has two dimensions.*reshape"),
    ],
)
def test_what_may_not_pass_is_named(X: object, message: str) -> None:
    with pytest.raises(MatrixError, match=message):
        prepare(X, "A")  # type: ignore[arg-type]
