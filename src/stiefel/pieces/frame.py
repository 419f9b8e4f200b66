"""Orthonormal bases of a matrix's rows and columns, and what a change of bases does to state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from stiefel.linalg.eigenbasis import in_order
from stiefel.linalg.products import matmul
from stiefel.piece import Piece, State

__all__ = ["Frame", "Turn", "Turning", "between"]


@dataclass(frozen=True)
class Frame:
    """Bases as columns of blocks on the diagonal, `[b, k, s, s]`, of the rows' and columns' space.

    None is the basis in which the matrices come. The products are taken in the bases' dtype.
    """

    left: Tensor | None
    right: Tensor | None

    def into(self, x: Tensor) -> Tensor:
        """``QL^T X QR``."""
        return between(None if self.left is None else self.left.mT, x, self.right)

    def back(self, x: Tensor) -> Tensor:
        """``QL X QR^T``."""
        return between(self.left, x, None if self.right is None else self.right.mT)


def between(left: Tensor | None, x: Tensor, right: Tensor | None) -> Tensor:
    """``L X R`` of a stack `[b, m, n]` and blocks on the diagonal of L and R, `[b, k, s, s]`.

    None is the identity. The products are taken in the dtype of L and R.
    """
    y = x
    if left is not None:
        y = matmul(left, torch.unflatten(y.to(left.dtype), 1, left.shape[1:3])).flatten(1, 2)
    if right is not None:
        columns = torch.unflatten(y.to(right.dtype), 2, right.shape[1:3]).movedim(2, 1)
        y = matmul(columns, right).movedim(1, 2).flatten(2)
    return y.to(x.dtype)


@dataclass(frozen=True)
class Turn:
    """From one frame to the next; ``rows`` and ``columns`` say which old vector of its block each
    new one continues, `[b, k, s]`, None where nothing turned.
    """

    old: Frame
    new: Frame
    rows: Tensor | None
    columns: Tensor | None

    def linear(self, x: Tensor) -> Tensor:
        """A matrix in the old bases, in the new ones."""
        return self.new.into(self.old.back(x))

    def by_entry(self, x: Tensor) -> Tensor:
        """What belongs to pairs of basis vectors follows them; a square has no sign to lose."""
        if self.rows is not None:
            x = _reordered(x, self.rows)
        if self.columns is not None:
            x = _reordered(x.mT, self.columns).mT
        return x


def _reordered(x: Tensor, order: Tensor) -> Tensor:
    return in_order(torch.unflatten(x, 1, order.shape[1:]), order).flatten(1, 2)


@runtime_checkable
class Turning(Piece, Protocol):
    """A piece whose state can follow the bases in which it works."""

    def turn(self, state: State, turn: Turn) -> None:
        """Carry ``state`` over, in place."""
        ...
