"""Dion2's selection: the heaviest rows or columns step, the others wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stiefel.piece import MATRIX, Live, Now, Piece, Scope, State, zeros
from stiefel.pieces.numbers import rounded_up

__all__ = ["Heaviest"]


@dataclass(frozen=True)
class Heaviest:
    """``M <- M + G``; of the slices of M along its short side those of the largest 1-norm go
    through ``inner`` as one matrix and are multiplied by ``decay``; the step elsewhere is 0.

    Slices are rows if ``m <= n`` and else columns.

    Args:
        fraction: how many slices, as a share of the short side, rounded up.
        decay: what is left of a slice after its use.
        inner: a piece without state, for it meets other slices at every step.

    State: ``m`` `[b, m, n]`.
    """

    fraction: float
    decay: Live
    inner: Piece
    scope: ClassVar[Scope] = MATRIX

    def __post_init__(self) -> None:
        Live("fraction", self.fraction, "share")  # refuses what is none

    def init(self, like: Tensor) -> State:
        """No momentum."""
        return {"m": zeros(like)}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """The inner piece's stack at its slices."""
        m = state["m"].add_(x)
        along, across = (-2, -1) if m.shape[-2] <= m.shape[-1] else (-1, -2)
        count = rounded_up(self.fraction, m.shape[along])
        heaviest = m.abs().sum(across, keepdim=True).topk(count, along).indices
        slices = heaviest.expand_as(m.narrow(along, 0, count))
        chosen = m.gather(along, slices)
        m.scatter_(along, slices, chosen * now(self.decay))
        return zeros(m).scatter_(along, slices, self.inner(chosen, {}, now))
