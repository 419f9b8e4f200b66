"""Symmetric matrices kept by one triangle, in LAPACK's rectangular full packed format.

The left half of the columns holds the lower triangle but for a corner; its transpose fits above:

    1 . . .      8 9
    2 5 . .      1 A
    3 6 8 .  ->  2 5
    4 7 9 A      3 6
                 4 7

With an odd number of columns it fits without a row on top, one column further right.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad

__all__ = ["blank", "pack", "size", "unpack"]


def blank(like: Tensor, batch: tuple[int, ...], s: int) -> Tensor:
    """Zero matrices `[*batch, s, s]`, packed."""
    return like.new_zeros(*batch, s + 1 - s % 2, (s + 1) // 2)


def size(packed: Tensor) -> int:
    """The number s of rows of the matrices."""
    rows, half = packed.shape[-2:]
    return min(rows, 2 * half)


def pack(A: Tensor) -> Tensor:
    """``s (s + 1) / 2`` numbers of every matrix `[..., s, s]`; what lies above is not looked at."""
    s = A.shape[-1]
    half = (s + 1) // 2
    packed = pad(A[..., :half], (0, 0, 1 - s % 2, 0))
    _room(packed).tril_(-1).add_(A[..., half:, half:].mT.triu())
    return packed


def unpack(packed: Tensor) -> Tensor:
    """The matrices `[..., s, s]`, symmetric to the last bit."""
    s, half = size(packed), packed.shape[-1]
    lower = packed.new_zeros(*packed.shape[:-2], s, s)
    lower[..., :half] = packed[..., 1 - s % 2 :, :]
    lower[..., half:, half:] = _room(packed).mT
    return lower.tril() + lower.tril(-1).mT


def _room(packed: Tensor) -> Tensor:
    """The square in which the corner lies, on and above its diagonal."""
    s, half = size(packed), packed.shape[-1]
    return packed[..., : s - half, s % 2 :]
