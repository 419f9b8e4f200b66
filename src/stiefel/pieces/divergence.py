"""Kronecker factors of least Kullback-Leibler divergence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stiefel.linalg.eigenbasis import Refresh
from stiefel.linalg.householder import orthonormal_of_rank
from stiefel.linalg.products import matmul
from stiefel.piece import Now, State
from stiefel.pieces.frame import between
from stiefel.pieces.kronecker import Kronecker, sides
from stiefel.pieces.triangle import size

__all__ = ["KLKronecker"]


@dataclass(frozen=True)
class KLKronecker(Kronecker):
    """``L <- beta L + (1 - beta) G R^-1 G^T / n`` and ``R <- beta R + (1 - beta) G^T L^-1 G / m``.

    Then the normal distribution with covariance ``L (x) R`` is nearest to that of the gradients.
    The inverses are those of ``QL diag(DL) QL^T`` and ``QR diag(DR) QR^T``, whose eigenvalues D
    are means of their own, ``D <- beta D + (1 - beta) diag(Q^T S Q)`` with what the factor learns
    for S, while the bases Q are older. Both sides see the state before the step. The first gradient
    is taken in with the other side's inverse left out.

    State: besides the factors' ``DL`` and ``DR``, `[b, k, s]`.

    Args:
        start: what D begins with.
        longest: D is not less than ``max(10, min(s, longest))^-2``.
    """

    start: float = 0.1
    longest: int = 4000

    def init(self, like: Tensor) -> State:
        """Zero factors with flat eigenvalues."""
        factors = super().init(like)
        flat = {
            f"D{side}": A.new_full((*A.shape[:2], size(A)), self.start)
            for side, A in factors.items()
        }
        return {**factors, **flat}

    def learn(self, x: Tensor, state: State, now: Now) -> None:
        """Take the stack ``x`` `[b, m, n]` into factors and eigenvalues, in place."""
        whitened = {"L": x, "R": x} if now.held else self._whitened(x, state, now)
        for side in sides(state):
            count = x.shape[-1 if side == "L" else -2]
            self.take(whitened[side] / count**0.5, side, state[side], now)

    def _whitened(self, x: Tensor, state: State, now: Now) -> dict[str, Tensor]:
        """What each side learns from: ``X R^(-1/2)`` and ``L^(-1/2) X``, in the bases. On the way
        the eigenvalues learn.
        """
        QL, QR, DL, DR = (state.get(name) for name in ("QL", "QR", "DL", "DR"))
        inverse = None if QL is None else QL.mT
        turned, both = between(None, x, QR), between(inverse, x, QR)
        found = {
            "L": _over_root(turned, DR, -2),
            "R": _over_root(between(inverse, x, None), DL, -1),
        }
        seen = {
            "DL": _over_root(both, DR, -2).square().mean(-1),
            "DR": _over_root(both, DL, -1).square().mean(-2),
        }
        for name in seen.keys() & state.keys():
            D = state[name]
            self.average(D, seen[name].view(D.shape), now).clamp_min_(self._floor(D))
        return found

    def _floor(self, D: Tensor) -> float:
        longest = max(10.0, min(D.shape[-1], self.longest))
        return 1 / longest**2

    def continued(self, A: Tensor, Q: Tensor, rank: int) -> Refresh:
        """The next basis: one step of orthogonal iteration, columns in their places."""
        places = torch.arange(A.shape[-1], device=A.device).expand(A.shape[:-1])
        return Refresh(orthonormal_of_rank(matmul(A, Q.to(A.dtype)), rank), places)


def _over_root(x: Tensor, D: Tensor | None, dim: int) -> Tensor:
    """Rows (or columns) of ``x`` over the roots of D, stretched along ``dim``."""
    return x if D is None else x / D.flatten(1).sqrt().unsqueeze(dim)
