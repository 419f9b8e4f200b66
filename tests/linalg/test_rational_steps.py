"""The rational steps of QDWH and Zolo-PD against their theory."""

import math
from collections.abc import Callable
from decimal import Decimal, localcontext

import pytest
import torch
from torch import Tensor

from stiefel.errors import MatrixError
from stiefel.linalg import polar
from stiefel.linalg.methods.qdwh import Qdwh, halley
from stiefel.linalg.methods.rational import SAFE_SHIFT, RationalStep, converge, schedule
from stiefel.linalg.methods.zolo import ORDERS, Zolo, zolotarev
from tests.linalg.test_exact_methods import DTYPES, EPS, ITERATED, Method, conditioned, defect, over


def rule(method: Method, dtype: torch.dtype) -> Callable[[float], RationalStep]:
    return halley if isinstance(method, Qdwh) else lambda low: zolotarev(low, ORDERS[dtype])


def exactly(steps: list[RationalStep], s: float) -> Decimal:
    """The image of s under all steps, in 60 digits."""
    with localcontext() as context:
        context.prec = 60
        value = Decimal(s)
        for step in steps:
            weights, shifts = map(Decimal, step.weights), map(Decimal, step.shifts)
            value = RationalStep(Decimal(step.scale), (*weights,), (*shifts,)).image(value)
        return value


@over(ITERATED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_suffice_and_one_fewer_does_not(method: Method, dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    steps = schedule(rule(method, dtype), dtype)
    published = {torch.float64: 6, torch.float32: 4}[dtype] if isinstance(method, Qdwh) else 2
    assert len(steps) == published
    grid = torch.logspace(math.log10(eps), 0, 400, dtype=torch.float64).clamp(eps, 1).tolist()
    images = [exactly(steps, s) for s in grid]
    tolerance = 1e-15 if dtype is torch.float64 else 1e-8
    assert 1 - tolerance <= min(images) and max(images) <= 1 + 1e-15
    assert exactly(steps[:-1], eps) < 1 - 100 * eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_orders_are_the_smallest_for_two_steps(dtype: torch.dtype) -> None:
    fewer = schedule(lambda low: zolotarev(low, ORDERS[dtype] - 1), dtype)
    assert len(fewer) == 3


@pytest.mark.parametrize("low", [1e-16, 1e-7, 1e-3, 0.1])
@pytest.mark.parametrize("order", [1, 2, 5, 8])
def test_zolotarev_touches_its_bounds_alternately(low: float, order: int) -> None:
    """2 order + 2 times on [low, 1]: Chebyshev's mark of the best approximation of its type."""
    step = zolotarev(low, order)
    grid = torch.logspace(math.log10(low), 0, 4001, dtype=torch.float64).clamp(low, 1)
    values = torch.tensor([step.image(s) for s in grid.tolist()], dtype=torch.float64)
    rising = values.diff().sign()
    turns = values[1:-1][rising[1:] != rising[:-1]]
    touches = torch.cat([values[:1], turns, values[-1:]]) - (values[0] + 1) / 2
    assert len(touches) == 2 * order + 2
    height = (1 - values[0]) / 2
    signs = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(order + 1)
    torch.testing.assert_close(touches, height * signs, rtol=1e-3, atol=4 * EPS)


@pytest.mark.parametrize("low", [1e-16, 1e-7, 1e-3, 0.5, 0.99])
def test_halley_is_zolotarev_of_order_one(low: float) -> None:
    one, other = halley(low), zolotarev(low, 1)
    for ours, theirs in ((one.weights, other.weights), (one.shifts, other.shifts)):
        assert ours == pytest.approx(theirs, rel=1e-9)
    assert one.scale == pytest.approx(other.scale, rel=1e-12)


def test_halley_ends_as_the_classical_iteration() -> None:
    """s (3 + s^2) / (1 + 3 s^2)."""
    step = halley(1.0)
    for s in (0.1, 0.7, 1.0):
        assert step.image(s) == pytest.approx(s * (3 + s * s) / (1 + 3 * s * s), rel=1e-15)


@pytest.mark.parametrize("shifts", [(1e-20, 1e-9), (1e-5, 0.7), (0.5, 4.0)])
@pytest.mark.parametrize("n", [6, 10])
def test_a_step_moves_the_singular_values_alone(shifts: tuple[float, float], n: int) -> None:
    """By either solver, and however far X X^T + shift I is from well conditioned."""
    X, _ = conditioned(1e4, 6, n)
    U, S, Vh = torch.linalg.svd(X / X.norm(), full_matrices=False)
    step = RationalStep(0.7, (0.3, 0.9), shifts)
    image = torch.tensor([step.image(s) for s in S[0].tolist()], dtype=torch.float64)
    expected = (U * image) @ Vh
    result = step.apply(X / X.norm())
    assert float((result - expected).norm() / expected.norm()) < 1e-11


@pytest.mark.parametrize("n", [3, 8])
def test_steps_see_square_matrices_of_unit_norm(n: int) -> None:
    seen: list[Tensor] = []

    class Step(RationalStep):
        def apply(self, X: Tensor) -> Tensor:
            seen.append(X)
            return X

    step = Step(1.0, (), ())
    X = torch.randn(4, 3, n, dtype=torch.float64) * torch.logspace(0, -3, 4).view(4, 1, 1)
    unit = X / torch.linalg.matrix_norm(X, keepdim=True)
    torch.testing.assert_close(converge(X, [step]), unit, rtol=0, atol=1e-14)
    assert seen[0].shape == (4, 3, 3)
    torch.testing.assert_close(torch.linalg.matrix_norm(seen[0]), torch.ones(4).double())


@pytest.mark.parametrize(
    ("method", "dtype", "by_qr"),
    [
        (Qdwh(), torch.float64, 2),
        (Qdwh(), torch.float32, 2),
        (Zolo(), torch.float64, 1),
        (Zolo(), torch.float32, 1),
    ],
)
def test_the_dear_solver_is_for_the_first_steps(
    method: Method, dtype: torch.dtype, by_qr: int
) -> None:
    steps = schedule(rule(method, dtype), dtype)
    assert sum(min(step.shifts) < SAFE_SHIFT for step in steps) == by_qr


def test_too_few_steps_are_no_polar_factor() -> None:
    """PolarGrad's default of two from l = eps: the singular values are where the steps put them."""
    X, _ = conditioned(10, 5, 8)
    _, S, _ = torch.linalg.svd(X / X.norm())
    first = halley(EPS)
    second = halley(first.image(EPS))
    expected = [second.image(first.image(s)) for s in S[0].tolist()]
    found = torch.linalg.svdvals(Qdwh(steps=2)(X))[0]
    torch.testing.assert_close(found.tolist(), expected, rtol=0, atol=1e-13)
    assert defect(found.diag()) > 0.3


def test_further_steps_do_no_harm() -> None:
    X, expected = conditioned(10, 5, 8)
    torch.testing.assert_close(Qdwh(steps=9)(X), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("steps", [0, -1])
def test_steps_below_one_are_refused(steps: int) -> None:
    with pytest.raises(MatrixError, match=f"steps={steps}.*at least 1"):
        Qdwh(steps=steps)


@pytest.mark.parametrize("method", ["qdwh", "zolo"])
def test_compiles_in_one_graph(method: str) -> None:
    """The numbers of the steps are worked out while tracing."""
    torch._dynamo.reset()
    X = torch.randn(2, 6, 9, dtype=torch.float64)
    compiled = torch.compile(lambda X: polar(X, method=method), fullgraph=True, backend="eager")
    assert torch.allclose(compiled(X), polar(X, method=method), atol=1e-12)
