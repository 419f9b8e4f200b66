"""Adam in the leading singular vectors of a gradient or of its own momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stiefel.errors import RecipeError, check_choice
from stiefel.linalg import truncated_svd
from stiefel.piece import FAULTS, MATRIX, Live, Now, Scope, State, lerp, nested, prefixed, rows
from stiefel.pieces.adam import Adam
from stiefel.pieces.fallback import fresh_faults, kept

__all__ = ["Projected"]

SOURCES = ("gradient", "momentum")
SVDS = ("exact", "randomised")


@dataclass(frozen=True)
class Projected:
    """``X -> P inner(P^T X)`` of a wide matrix, ``X -> inner(X P) P^T`` of any other.

    The columns of P are the leading singular vectors on the short side, taken anew whenever the
    clock is up, before their use. Where that fails, the last ones stay.

    Args:
        inner: works in the basis.
        every: the clock.
        rank: how many vectors; None for all of the short side's.
        source: whose singular vectors: of the ``"gradient"``, and the inner state stays as it is
            when the basis turns; or of the ``"momentum"``, this gradient included, which itself
            turns along.
        svd: how `stiefel.linalg.truncated_svd` finds them.

    State: ``basis`` `[b, min(m, n), rank]`, ``faults`` `[b]`, and the inner piece's under
    ``inner``, with ``rank`` for the short side.
    """

    inner: Adam
    every: Live
    rank: int | None = None
    source: str = "gradient"
    svd: str = "exact"
    scope: ClassVar[Scope] = MATRIX

    def __post_init__(self) -> None:
        if self.rank is not None:
            Live("rank", self.rank, "count")  # refuses what is none
        for name, known in (("source", SOURCES), ("svd", SVDS)):
            check_choice(name, getattr(self, name), known, RecipeError)

    def init(self, like: Tensor) -> State:
        """The first coordinates as the basis."""
        b, m, n = like.shape
        short = min(m, n)
        rank = min(self.rank or short, short)
        basis = torch.eye(short, dtype=like.dtype, device=like.device)[:, :rank].repeat(b, 1, 1)
        seen = like[:, :rank] if m < n else like[..., :rank]
        return {
            "basis": basis,
            FAULTS: fresh_faults(like),
            **prefixed("inner", self.inner.init(seen)),
        }

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """What the inner piece makes of ``x`` in the basis."""
        for some in now.due:
            self._refresh(x[some], rows(state, some), now)
        basis, wide = state["basis"], _wide(x)
        return _back(self.inner(_into(x, basis, wide), nested("inner", state), now), basis, wide)

    def _refresh(self, x: Tensor, state: State, now: Now) -> None:
        basis, before, m = state["basis"], state["basis"].clone(), state["inner.m"]
        if self.source == "gradient":
            basis.copy_(self._leading(x, before, state[FAULTS]))
            return
        momentum = _back(m, before, _wide(x))
        coming = lerp(momentum, x, 1 - now(self.inner.betas)[0])
        basis.copy_(self._leading(coming, before, state[FAULTS]))
        m.copy_(_into(momentum, basis, _wide(x)))

    def _leading(self, X: Tensor, before: Tensor, faults: Tensor) -> Tensor:
        """The leading singular vectors, each pointing where the one before it did: LAPACK gives
        them any sign, and moments that stay have one.
        """

        def compute(X: Tensor) -> Tensor:
            found = truncated_svd(X, before.shape[-1], method=self.svd)
            return found.U if _wide(X) else found.Vh.mT

        basis = kept(compute, X, before, faults)
        flipped = (basis * before).sum(-2, keepdim=True) < 0
        return torch.where(flipped, -basis, basis)


def _wide(x: Tensor) -> bool:
    return x.shape[-2] < x.shape[-1]


def _into(x: Tensor, basis: Tensor, wide: bool) -> Tensor:
    return basis.mT @ x if wide else x @ basis


def _back(x: Tensor, basis: Tensor, wide: bool) -> Tensor:
    return basis @ x if wide else x @ basis.mT
