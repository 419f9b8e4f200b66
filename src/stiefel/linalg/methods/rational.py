"""Rational steps: every singular value s moves by a rational function, the vectors stay.

`Qdwh` and `Zolo` are sequences of such steps, known before the matrix is seen: both ask that they
carry all of ``[eps, 1]`` to 1, so nothing of the matrix has to be looked at on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stiefel.linalg.products import symmetric_product

__all__ = ["RationalStep", "converge", "schedule"]

# From this shift on, X X^T + shift I of a matrix with ||X|| <= 1 is conditioned well enough for
# Cholesky. QDWH's published switch is 1/100 (its c <= 100), ZOLO-PD's, after the first step, comes
# to 1/300 for our l; from that l QDWH has no step between 1/100 and this.
SAFE_SHIFT = 1 / 400


@dataclass(frozen=True)
class RationalStep:
    """``X -> scale (X + sum_j weight_j (X X^T + shift_j I)^-1 X)``, every number positive.

    Args:
        scale: factor that keeps ``1 -> 1``.
        weights, shifts: the terms of the partial fraction.
    """

    scale: float
    weights: tuple[float, ...]
    shifts: tuple[float, ...]

    def image(self, s: float) -> float:
        """Where the singular value s goes."""
        terms = zip(self.weights, self.shifts, strict=True)
        return self.scale * (s + sum(w * s / (s * s + shift) for w, shift in terms))

    def apply(self, X: Tensor) -> Tensor:  # not a call: torch 2.11 cannot compile that
        """The step on a stack `[b, m, n]` of matrices with ``||X|| <= 1``."""
        solve = _by_cholesky if min(self.shifts) >= SAFE_SHIFT else _by_qr
        Y = X
        for weight, solution in zip(self.weights, solve(X, self.shifts), strict=True):
            Y = Y.add(solution, alpha=weight)
        return Y * self.scale


def schedule(
    rule: Callable[[float], RationalStep], dtype: torch.dtype, steps: int | None = None
) -> list[RationalStep]:
    """The steps that a rule gives, one after the other, for singular values in ``[eps, 1]``.

    Args:
        rule: from the lower end of an interval ``[low, 1]`` to the step for it.
        dtype: precision of the matrices; eps is its.
        steps: how many; None means until the lower end has come within 10 eps of 1.
    """
    eps = torch.finfo(dtype).eps
    low = eps
    taken: list[RationalStep] = []
    while low < 1 - 10 * eps if steps is None else len(taken) < steps:
        taken.append(rule(low))
        low = min(taken[-1].image(low), 1.0)
    return taken


def converge(X: Tensor, steps: list[RationalStep]) -> Tensor:
    """The steps on a wide stack `[b, m, n]`, scaled to ``||X|| <= 1`` and made square first.

    A singular value that is not noise is at least ``max(m, n) eps sigma_1``, hence at least
    ``eps ||X||_F``: after the division it lies in ``[eps, 1]``.
    """
    m, n = X.shape[-2:]
    if m < n:  # X = R^T Q^T and the factor of X is that of R^T, times Q^T
        Q, R = torch.linalg.qr(X.mT)
        factor: Tensor = converge(R.mT, steps) @ Q.mT
        return factor
    norm = torch.linalg.matrix_norm(X, keepdim=True)
    Y: Tensor = X / norm.clamp_min(torch.finfo(X.dtype).tiny)
    for step in steps:
        Y = step.apply(Y)
    return Y


def _by_cholesky(X: Tensor, shifts: tuple[float, ...]) -> Iterator[Tensor]:
    """``(X X^T + shift I)^-1 X`` for every shift."""
    gram = symmetric_product(X)
    eye = torch.eye(X.shape[-2], dtype=X.dtype, device=X.device)
    for shift in shifts:
        L, _ = torch.linalg.cholesky_ex(gram + shift * eye)  # no check: it would wait for a GPU
        yield torch.cholesky_solve(X, L)


def _by_qr(X: Tensor, shifts: tuple[float, ...]) -> Iterator[Tensor]:
    """The same without the square: ``Q2 Q1^T / c`` of ``[X^T; c I] = [Q1; Q2] R``, c^2 = shift."""
    m, n = X.shape[-2:]
    eye = torch.eye(m, dtype=X.dtype, device=X.device).expand(*X.shape[:-2], m, m)
    for root in map(math.sqrt, shifts):
        Q, _ = torch.linalg.qr(torch.cat([X.mT, root * eye], -2))
        Q1, Q2 = Q.split([n, m], -2)
        yield Q2 @ Q1.mT / root
