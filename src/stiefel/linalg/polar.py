"""The polar factor U V^T of X = U S V^T: the nearest matrix with orthonormal rows or columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, overload

import torch
from torch import Tensor
from torch.linalg import vector_norm

from stiefel.errors import MatrixError
from stiefel.hardware import stacking_pays
from stiefel.linalg.methods import Exact, Method, NewtonSchulz, find
from stiefel.linalg.products import lies_tall
from stiefel.linalg.stack import check_precision, checked, may_look, prepare, working_dtype
from stiefel.linalg.tolerance import measured_defect, precision_for, within

__all__ = ["PolarInfo", "polar"]

Side: TypeAlias = Literal["left", "right"]


@dataclass(frozen=True)
class PolarInfo:
    """How a polar factor was computed and how good it is; reading ``defect`` waits for the device.

    Args:
        defect: `[...]`, ``|U U^T - I|_F / sqrt(m)`` of every matrix, m its short side, to the
            rounding of ``dtype``, before the factor is rounded to the dtype of X. A matrix of rank
            r < m has no orthonormal polar factor: where its null space stays zero this is
            ``sqrt(1 - r / m)``.
        method: the method.
        steps: number of steps, 0 for a method without.
        dtype: precision of the products.
    """

    defect: Tensor
    method: Method
    steps: int
    dtype: torch.dtype


@overload
def polar(
    X: Tensor,
    *,
    tol: float | None = ...,
    method: str | Method = ...,
    steps: int | None = ...,
    dtype: torch.dtype | None = ...,
    side: Side | None = ...,
    return_info: Literal[False] = ...,
) -> Tensor: ...
@overload
def polar(
    X: Tensor,
    *,
    tol: float | None = ...,
    method: str | Method = ...,
    steps: int | None = ...,
    dtype: torch.dtype | None = ...,
    side: Side | None = ...,
    return_info: Literal[True],
) -> tuple[Tensor, PolarInfo]: ...
def polar(
    X: Tensor,
    *,
    tol: float | None = None,
    method: str | Method = "auto",
    steps: int | None = None,
    dtype: torch.dtype | None = None,
    side: Side | None = None,
    return_info: bool = False,
) -> Tensor | tuple[Tensor, PolarInfo]:
    """Polar factor of every matrix of a stack.

    Args:
        X: stack `[..., m, n]`, real floating point.
        tol: how far the factor may be from orthonormal, ``|U U^T - I|_F / sqrt(m)`` for every
            matrix: the method, its steps and its precision are then found, which waits for the
            device. None computes what ``method`` says, without a look. A matrix whose null space
            or rounding forbids it keeps a larger defect: `PolarInfo` tells.
        method: a name of `stiefel.linalg.METHODS` or a method built by hand. Newton-Schulz:
            ``"fast"`` and ``"faithful"`` (outliers deflated, few steps; up to 256 rows ``"fast"``
            is ``"polar_express"``), every published table (``"jordan"``, ``"polar_express"``,
            ``"cans"``, ...), ``"gram"`` (on the Gram matrix, with a restart). Exact: ``"exact"``
            (singular value decomposition), ``"eigh"`` (of the Gram matrix, in float64),
            ``"qdwh"``, ``"zolo"``. ``"auto"`` is ``"faithful"`` unless there is a tolerance.
        steps: number of Newton-Schulz steps; None takes the method's own.
        dtype: precision of the products. None means bfloat16 for Newton-Schulz on 32-bit and
            narrower inputs, as in every published Muon (float32 for tables that do not survive it);
            at least float32 for exact methods; and float64 for float64.
        side: ``"left"`` iterates with ``X X^T``, ``"right"`` with ``X^T X``; None with the smaller.
        return_info: also return a `PolarInfo`, with the defect of every matrix.

    Returns:
        A stack of the same shape and dtype. ``polar(c X) = polar(X)`` for every c > 0, down to the
        smallest normal number. A zero matrix gives zero, a matrix with a NaN or an Inf gives NaN,
        and neither touches its neighbours. Can be differentiated: Newton-Schulz steps as what they
        are, through their products, and so in their precision; not at a zero matrix.

    Raises:
        RecipeError: unknown method.
        MatrixError: no real floating-point matrix; ``tol`` not positive or out of reach; ``tol``
            together with a method, steps or a side, or for a meta tensor; steps for a method
            without.
    """
    X = checked(X)
    turned = _turned(X, side)
    wide = X.mT if turned else X
    chosen, count, precision = _choose(X, tol, method, steps, dtype, side)
    stack = wide.reshape(wide.shape[:-2].numel(), *wide.shape[-2:])
    if X.numel() == 0:
        done = _Result(stack.clone(), stack.new_zeros(len(stack)), chosen, 0, precision)
    elif tol is not None:
        done = _to_tolerance(stack, tol, precision)
    elif isinstance(chosen, NewtonSchulz):
        done = _by_products(chosen, stack, count, precision, return_info)
    else:
        done = _exactly(chosen, stack, precision, return_info)
    factor = done.factor.to(X.dtype).reshape(wide.shape)
    factor = factor.mT if turned else factor
    if not return_info:
        return factor
    assert done.defect is not None  # it was asked for
    defect = done.defect.to(X.dtype).reshape(X.shape[:-2])
    return factor, PolarInfo(defect, done.method, done.steps, done.dtype)


class _Result(NamedTuple):
    factor: Tensor
    defect: Tensor | None
    method: Method
    steps: int
    dtype: torch.dtype


def _turned(X: Tensor, side: Side | None) -> bool:
    if side not in (None, "left", "right"):
        raise MatrixError(f"side={side!r}: give 'left' (X X^T), 'right' (X^T X) or None")
    return X.shape[-2] > X.shape[-1] if side is None else side == "right"


def _choose(
    X: Tensor,
    tol: float | None,
    method: str | Method,
    steps: int | None,
    dtype: torch.dtype | None,
    side: Side | None,
) -> tuple[Method, int, torch.dtype]:
    chosen = find(method)
    check_precision(dtype)
    if tol is not None:
        if (method, steps, side) != ("auto", None, None):
            raise MatrixError(f"tol={tol!r} finds method, steps and side: do not give them too")
        if X.is_meta:
            raise MatrixError(
                f"tol={tol!r} looks at numbers, which a meta tensor has not: leave it"
            )
        return chosen, 0, precision_for(tol, X.dtype, dtype)
    if not isinstance(chosen, NewtonSchulz):
        if steps is not None:
            raise MatrixError(f"steps={steps!r}: method={method!r} takes no number: leave it out")
        return chosen, 0, working_dtype(dtype or X.dtype)
    if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
        raise MatrixError(
            f"steps={steps!r}: give a whole number >= 1, or None for the method's own"
        )
    suited, count = chosen.suited(min(X.shape[-2:]), steps)
    return suited, count, dtype or _product_dtype(suited, X.dtype)


def _product_dtype(method: NewtonSchulz, given: torch.dtype) -> torch.dtype:
    wide = working_dtype(given)
    narrows = wide == torch.float32 and method.table.survives_16_bits
    return torch.bfloat16 if narrows else wide


def _by_products(
    method: NewtonSchulz, X: Tensor, steps: int, dtype: torch.dtype, measure: bool
) -> _Result:
    """The stack as one, or matrix by matrix where batched products are slower."""
    together = len(X) == 1 or stacking_pays(X.shape[1], X.shape[2], X.device)
    parts = [X] if together else list(torch.split(X, 1))
    done = [_iterate(method, part, steps, dtype, measure) for part in parts]
    factors, defects = zip(*done, strict=True)
    return _Result(_joined(factors), torch.cat(defects) if measure else None, method, steps, dtype)


def _joined(factors: tuple[Tensor, ...]) -> Tensor:
    """As one stack, laid out as they are."""
    if len(factors) == 1:
        return factors[0]
    tall = lies_tall(factors[0])
    return torch.cat([factor.mT for factor in factors]).mT if tall else torch.cat(factors)


def _iterate(
    method: NewtonSchulz, X: Tensor, steps: int, dtype: torch.dtype, measure: bool
) -> tuple[Tensor, Tensor | None]:
    if may_look(X) and all(map(_comfortable, _numbers(norms := _norms(X)))):
        factor = _call(method, X, norms, steps, dtype)
        return factor, measured_defect(factor) if measure else None
    stack = prepare(X)
    factor = _call(method, stack.values, _norms(stack.values), steps, dtype)
    defect = stack.restore(measured_defect(factor)) if measure else None
    return stack.restore(factor), defect


def _call(method: NewtonSchulz, X: Tensor, norms: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """A matrix goes without its batch dimension where none of its shape are stacked.

    So the shape decides, not the company: which matrices of a model lie together on a rank changes
    no bit.
    """
    if stacking_pays(X.shape[1], X.shape[2], X.device) or not may_look(X):
        return method(X, norms, steps, dtype)
    return method(X[0], norms.item(), steps, dtype).unsqueeze(0)


def _comfortable(norm: float) -> bool:
    """Whether fourth powers of a matrix of that norm are normal numbers: so nearly always."""
    return 1e-4 < norm < 1e4


def _numbers(norms: Tensor) -> list[float]:
    numbers: list[float] = norms.flatten().tolist()
    return numbers


def _norms(X: Tensor) -> Tensor:
    """Frobenius norms `[b, 1, 1]`."""
    wide = working_dtype(X.dtype)
    norms: Tensor = vector_norm(X, dim=(-2, -1), keepdim=True, dtype=wide)
    return norms


def _exactly(method: Exact, X: Tensor, dtype: torch.dtype, measure: bool) -> _Result:
    stack = prepare(X)
    factor = method(stack.values.to(dtype))
    defect = stack.restore(measured_defect(factor)) if measure else None
    return _Result(stack.restore(factor), defect, method, 0, dtype)


def _to_tolerance(X: Tensor, tol: float, dtype: torch.dtype) -> _Result:
    stack = prepare(X)
    factor, defect, method, steps = within(stack.values, tol, dtype)
    return _Result(stack.restore(factor), stack.restore(defect), method, steps, factor.dtype)
