"""Newton-Schulz steps ``Y <- a Y + b (Y Y^T) Y + c (Y Y^T)^2 Y``: products only.

They take a matrix `[m, n]` or a stack `[b, m, n]`. The iterate is never divided by its norm: the
steps see ``unit Y Y^T``. For a single matrix on the CPU ``unit`` is a number and goes into the
coefficients, where it costs nothing. Elsewhere it is a tensor `[b, 1, 1]`, never looked at from the
host, and multiplies the Gram matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.linalg import vector_norm

from stiefel.linalg.coefficients import Triple

__all__ = ["Factor", "Run", "Steps", "add_product", "iterate", "power"]

Factor: TypeAlias = float | Tensor
Run: TypeAlias = Sequence[Triple]


class Steps(NamedTuple):
    """The iterate, and what the last step made it from: ``a I + B`` and the Gram matrix A.

    ``(a I + B) (unit A) (a I + B)`` is the Gram matrix of the iterate.
    """

    iterate: Tensor
    A: Tensor
    unit: Factor
    B: Tensor
    a: float

    def defect(self) -> Tensor:
        """``|U U^T - I|_F / sqrt(m)`` of the iterate U."""
        wide = torch.promote_types(self.A.dtype, torch.float32)
        P = _plus_identity(self.B.to(wide, copy=True), self.a)
        excess = _plus_identity(P @ (self.A.to(wide) * self.unit) @ P, -1.0)
        defect: Tensor = vector_norm(excess, dim=(-2, -1)) / P.shape[-1] ** 0.5
        return defect


def iterate(Y: Tensor, unit: Factor, runs: Sequence[Run], room: float | None = None) -> Steps:
    """Take the steps of ``runs``, those of one run on the Gram matrix alone.

    Args:
        Y: wide, `[m, n]` or `[b, m, n]`.
        unit: makes the eigenvalues of ``unit Y Y^T`` at most 1.
        runs: the steps' coefficients.
        room: where given, ``unit`` need only be near: it is divided by ``room`` times the Schatten
            bound ``|(unit Y Y^T)^2|_F^(1/2)`` of those eigenvalues, whose square the first step
            forms anyway.
    """
    for i, run in enumerate(runs):
        A, rest = _gram(Y, unit)
        if i == 0 and room is not None:
            A, B, rest, shrink = _rescaled(A, rest, run[0], room)
            unit = unit * shrink
        else:
            B = _quadratic(A, rest, run[0])
        Y, A, B = _take(run, Y, A, rest, B, scale=unit**0.5 if i == len(runs) - 1 else 1.0)
    return Steps(Y, A, rest, B, runs[-1][-1][0])


def _gram(Y: Tensor, unit: Factor) -> tuple[Tensor, float]:
    """``unit Y Y^T`` as a matrix and a number still to multiply it."""
    A = Y @ Y.mT
    return (A.mul_(unit), 1.0) if isinstance(unit, Tensor) else (A, unit)


def _quadratic(A: Tensor, unit: float, triple: Triple) -> Tensor:
    """``b (unit A) + c (unit A)^2``."""
    _, b, c = triple
    if c == 0:  # a product less; and torch 2.13's baddbmm drops beta's term where alpha is 0
        return A * (b * unit)
    return add_product(A, A, A, beta=b * unit, alpha=c * unit**2)


def _rescaled(
    A: Tensor, unit: float, triple: Triple, room: float
) -> tuple[Tensor, Tensor, float, Factor]:
    """A, `_quadratic`, what is left of ``unit``, and what it was divided by: see ``room``."""
    _, b, c = triple
    square = A @ A
    if A.ndim == 2:
        bound = room * unit * float(vector_norm(square)) ** 0.5
        shrink = 1 / bound if bound else 0.0
        unit *= shrink
        return A, square.mul_(c * unit**2).add_(A, alpha=b * unit), unit, shrink
    wide = torch.promote_types(A.dtype, torch.float32)
    bounds = vector_norm(square, dim=(-2, -1), keepdim=True, dtype=wide).sqrt_()
    shrinks = power(bounds * room, -1)
    A = A.mul_(shrinks)
    return A, square.mul_(c * shrinks**2).add_(A, alpha=b), unit, shrinks


def _take(
    run: Run, Y: Tensor, A: Tensor, unit: float, B: Tensor, scale: Factor
) -> tuple[Tensor, Tensor, Tensor]:
    """The steps of a run: the new Y times ``scale``, and the last A and B."""
    a = run[0][0]
    if len(run) > 1:
        Q = P = _plus_identity(B, a)
        for a, b, c in run[1:]:
            A = P @ A @ P
            B = _quadratic(A, unit, (a, b, c))
            P = _plus_identity(B.clone(), a)
            Q = P @ Q
        return (Q @ Y) * scale, A, B
    if isinstance(scale, Tensor):
        return add_product(Y, B, Y, beta=a) * scale, A, B
    return add_product(Y, B, Y, beta=a * scale, alpha=scale), A, B


def add_product(X: Tensor, A: Tensor, B: Tensor, beta: float = 1.0, alpha: float = 1.0) -> Tensor:
    """``beta X + alpha A B``."""
    add = torch.addmm if A.ndim == 2 else torch.baddbmm
    return add(X, A, B, beta=beta, alpha=alpha)


def _plus_identity(A: Tensor, a: float) -> Tensor:
    """``A + a I``, in place."""
    A.diagonal(dim1=-2, dim2=-1).add_(a)
    return A


def power(x: Factor, exponent: float) -> Factor:
    """``x**exponent``, but 0 at 0: a zero matrix stays zero."""
    if isinstance(x, Tensor):
        return torch.where(x == 0, x, x**exponent)
    return x**exponent if x else 0.0
