"""Dion's direction: one step of a power iteration, and what it missed stays for the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stiefel.linalg.low_rank import gaussian
from stiefel.piece import MATRIX, Live, Now, Scope, State, zeros
from stiefel.pieces.numbers import rounded_up
from stiefel.pieces.unit import over

__all__ = ["PowerStep"]


@dataclass(frozen=True)
class PowerStep:
    """``M <- M + G``, ``P = orth(M Q)``, ``R = M^T P``, ``M <- M - (1 - momentum) P R^T``, and then
    Q becomes R with unit columns (or a little less, by ``eps``) and ``P Q^T`` is the step.

    For a fixed M this converges to its polar factor, or to that of its best approximation of the
    rank of Q.

    Args:
        momentum: the share of the part that was used which stays in M.
        eps: added to the norms of the columns.
        fraction: rank of Q over the shorter side.

    State: ``m`` `[b, m, n]`, ``q`` `[b, n, r]`. Q starts as the same pseudorandom matrix for every
    matrix of this shape. A zero M leaves it as it is.
    """

    momentum: Live
    eps: Live
    fraction: float
    scope: ClassVar[Scope] = MATRIX

    def __post_init__(self) -> None:
        Live("rank_fraction", self.fraction, "share")  # refuses what is none

    def init(self, like: Tensor) -> State:
        """No momentum, and a gaussian start."""
        b, m, n = like.shape
        rank = rounded_up(self.fraction, min(m, n))
        return {"m": zeros(like), "q": gaussian(n, rank, like).repeat(b, 1, 1)}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """``P Q^T``, all of whose singular values are 1 once the iteration has converged."""
        m, q = state["m"], state["q"]
        m.add_(x)
        # LAPACK's QR keeps squares in range by itself; others need not.
        p: Tensor = torch.linalg.qr(_near_one(m @ q)[0]).Q
        r = m.mT @ p
        m.baddbmm_(p, (r * (1 - now(self.momentum))).mT, alpha=-1)
        unit, nothing = _unit_columns(r, now(self.eps))
        q.copy_(torch.where(nothing, q, unit))
        return p @ unit.mT


def _near_one(X: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices with 1 as their largest entry, so that squares stay in range, and what it was."""
    largest = X.abs().amax((-2, -1), keepdim=True)
    return over(X, largest), largest


def _unit_columns(X: Tensor, eps: float | Tensor) -> tuple[Tensor, Tensor]:
    """``X_j / (|X_j| + eps)``, 0 for 0, and whether all of them are 0."""
    Y, largest = _near_one(X)
    lengths: Tensor = torch.linalg.vector_norm(Y, dim=-2, keepdim=True) * largest
    return over(X, lengths + eps), largest == 0
