"""A piece that works in the eigenbases of Kronecker factors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from torch import Tensor

from stiefel.linalg.eigenbasis import Refresh
from stiefel.piece import FAULTS, MATRIX, Live, Now, Scope, State, nested, prefixed, rows
from stiefel.pieces.fallback import fresh_faults, kept
from stiefel.pieces.frame import Frame, Turn, Turning
from stiefel.pieces.kronecker import Kronecker, first_basis, highest_rank, identity, sides
from stiefel.pieces.triangle import unpack

__all__ = ["Rotated"]


@dataclass(frozen=True)
class Rotated:
    """``X -> QL inner(QL^T X QR) QR^T``, QL and QR the eigenvectors of ``L`` and ``R``.

    The first gradient only makes the bases: nothing moves, and the inner piece and those that come
    after count their steps from the next one. Afterwards the bases take one step of orthogonal
    iteration whenever the clock is up, after their use; the inner piece's state follows.

    Args:
        inner: works in the bases.
        factors: L and R. A side without a factor keeps its own basis.
        every: the clock.

    State: that of ``factors``; ``QL`` and ``QR``, `[b, k, s, s]`; ``faults`` `[b]`; the inner
    piece's own under ``inner``.
    """

    inner: Turning
    factors: Kronecker
    every: Live
    scope: ClassVar[Scope] = MATRIX

    def init(self, like: Tensor) -> State:
        """No factors, no turn."""
        factors = self.factors.init(like)
        dtype = self.factors.dtype(like)
        bases = {f"Q{side}": identity(factors[side], dtype) for side in sides(factors)}
        inner = prefixed("inner", self.inner.init(like))
        return {**factors, **bases, FAULTS: fresh_faults(like), **inner}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """What the inner piece makes of ``x``, in the bases as they were before this step."""
        now.held = isinstance(now.step, int) and now.step == 1  # a compiled step is not the first
        moved = x if now.held else self._moved(x, state, now)
        self.factors.learn(x, state, now)
        for some in now.due:
            own, rank = rows(state, some), highest_rank(x, now)
            _start(own, rank) if now.held else self._refresh(own, rank)
        now.step = now.step - 1  # what comes after this piece begins with the next gradient, too
        return moved

    def _moved(self, x: Tensor, state: State, now: Now) -> Tensor:
        frame, counted = _frame(state), replace(now, step=now.step - 1)
        return frame.back(self.inner(frame.into(x), nested("inner", state), counted))

    def _refresh(self, state: State, rank: int) -> None:
        found = {side: self._continued(state, side, rank) for side in sides(state)}
        bases = {f"Q{side}": refresh.basis for side, refresh in found.items()}
        order = {side: refresh.order for side, refresh in found.items()}
        turn = Turn(_frame(state), _frame(bases), order.get("L"), order.get("R"))
        self.inner.turn(nested("inner", state), turn)
        for name, basis in bases.items():
            state[name].copy_(basis)

    def _continued(self, state: State, side: str, rank: int) -> Refresh:
        """QR does not fail; a basis that is not finite is not taken, and has the order 0, 1, ..."""
        A, Q = unpack(state[side]), state[f"Q{side}"]
        found = self.factors.continued(A, Q, rank)
        basis = found.basis.to(Q.dtype)
        return Refresh(kept(lambda _: basis, A, Q, state[FAULTS]), found.order)


def _frame(state: State) -> Frame:
    return Frame(state.get("QL"), state.get("QR"))


def _start(state: State, rank: int) -> None:
    """The bases of the first gradient."""
    for side in sides(state):
        A, Q = unpack(state[side]), state[f"Q{side}"]
        first = partial(first_basis, rank=rank)
        Q.copy_(kept(first, A, Q, state[FAULTS]))
