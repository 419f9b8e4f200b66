"""Newton-Schulz steps ``Y <- a Y + b (Y Y^T) Y + c (Y Y^T)^2 Y``: products only.

They take a matrix `[m, n]` or a stack `[b, m, n]`. A step is one product of Y with the polynomial
``P = a I + b A + c A^2`` of its Gram matrix A. (Adding ``a Y`` by itself, as torch does, costs a
copy of Y more, and what rounding P adds turns only the directions that are large already.) No
number that depends on the data goes into a product as its ``alpha`` or ``beta``: oneDNN compiles a
kernel for every new one, milliseconds each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.linalg import vector_norm

from stiefel.hardware import stacking_pays
from stiefel.linalg.coefficients import Triple
from stiefel.linalg.products import left_product, only_one, quadratic, symmetric_product
from stiefel.linalg.stack import may_look, working_dtype

__all__ = ["Factor", "Run", "inverse", "iterate", "multiplier"]

# Of a matrix: a number on the CPU, where looking is free. Else a tensor [b, 1, 1].
Factor: TypeAlias = float | Tensor
Run: TypeAlias = Sequence[Triple]


def iterate(Y: Tensor, runs: Sequence[Run], room: float | None = None) -> Tensor:
    """Take the steps of ``runs`` (at least one), those of one run on the Gram matrix alone.

    Args:
        Y: wide, `[m, n]` or `[b, m, n]`, of spectral norm at most 1 unless ``room`` is given.
        runs: the steps' coefficients.
        room: as in `multiplier`, of the first step.
    """
    if only_one(Y):
        return iterate(Y[0], runs, room).unsqueeze(0)
    A = symmetric_product(Y)
    A = A if len(runs[0]) == 1 else _lifted(A)
    Y = left_product(multiplier(A, runs[0], room), Y)
    for run in runs[1:]:
        Y = left_product(multiplier(symmetric_product(Y), run), Y)
    return Y


def multiplier(A: Tensor, run: Run, room: float | None = None) -> Tensor:
    """The polynomial Q of ``A = Y Y^T`` for which ``Q Y`` is what the steps of a run make of Y.

    Args:
        A: `[m, m]` or `[b, m, m]`.
        run: the steps' coefficients.
        room: where given, Y is first divided by ``sqrt(room)`` times its Schatten-8 norm
            ``|A^2|_F^(1/4)``, whose square the first step forms anyway. The division goes into the
            first polynomial, so it costs nothing.
    """
    Q = P = _polynomial(A, run[0]) if room is None else _rescaled(A, run[0], room)
    for triple in run[1:]:
        A = P @ A @ P
        P = _polynomial(A, triple)
        Q = P @ Q
    return Q


def _lifted(A: Tensor) -> Tensor:
    """``A + u |A|_F I``, in place: none of its eigenvalues is negative.

    Rounding by the unit u may make it so, and the steps of a run, which do not see Y again, go to
    infinity from there.
    """
    return _plus_identity(A, torch.finfo(A.dtype).eps / 2 * _norm(A.detach()))


def _polynomial(A: Tensor, triple: Triple) -> Tensor:
    """``a I + b A + c A^2``."""
    a, b, c = triple
    return _plus_identity(quadratic(A, b, c), a)


def _rescaled(A: Tensor, triple: Triple, room: float) -> Tensor:
    """``(a I + b A / s + c A^2 / s^2) / sqrt(s)``, where s bounds the eigenvalues of A."""
    a, b, c = triple
    square = symmetric_product(A)
    shrink = inverse(_norm(square) ** 0.5 * room)
    root = shrink**0.5
    return _plus_identity(
        _combination(square, c * root * shrink * shrink, A, b * root * shrink), a * root
    )


def _combination(X: Tensor, x: Factor, Y: Tensor, y: Factor) -> Tensor:
    """``x X + y Y``; numbers may do it in place of X.

    In place of a narrow X, tensors would take torch 2.13 six times as long.
    """
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return (X * x).addcmul_(Y, y).to(X.dtype)
    return X.mul_(x).add_(Y, alpha=float(y))


def _norm(A: Tensor) -> Factor:
    """Frobenius norms."""
    if A.ndim == 2 and may_look(A) and not stacking_pays(A.shape[0], A.shape[1], A.device):
        return float(vector_norm(A))
    wide = working_dtype(A.dtype)
    norms: Tensor = vector_norm(A, dim=(-2, -1), keepdim=True, dtype=wide)
    return norms


def inverse(x: Factor) -> Factor:
    """``1 / x``, but 0 at 0: a zero matrix stays zero."""
    if isinstance(x, Tensor):
        return torch.where(x == 0, x, x.reciprocal())
    return 1 / x if x else 0.0


def _plus_identity(A: Tensor, a: Factor) -> Tensor:
    """``A + a I``, in place."""
    A.diagonal(dim1=-2, dim2=-1).add_(a.squeeze(-1) if isinstance(a, Tensor) else a)
    return A
