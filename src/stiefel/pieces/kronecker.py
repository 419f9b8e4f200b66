"""Kronecker factors: what the rows and the columns of the gradients have in common."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stiefel.errors import RecipeError, check_choice
from stiefel.linalg.eigenbasis import Refresh, eigenbasis, orthogonal_iteration
from stiefel.linalg.householder import orthonormal
from stiefel.linalg.products import symmetric_product
from stiefel.piece import Live, Now, State, lerp_
from stiefel.pieces.triangle import blank, pack, size

__all__ = ["PRECISIONS", "Kronecker", "first_basis", "gram", "highest_rank", "identity", "sides"]

# In what products with a gradient are taken and bases are kept; None is the dtype of the factors.
PRECISIONS: dict[str, torch.dtype | None] = {"full": None, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Kronecker:
    """``L <- beta L + (1 - beta) G G^T`` and ``R <- beta R + (1 - beta) G^T G``, or sums of these.

    Not a piece: what pieces that precondition by factors share.

    State: ``L`` and ``R``, k blocks on the diagonal, `[b, k, s, s]` but for packing (see
    `stiefel.pieces.triangle`), side by side k s = m or n long; one block if the side is not cut.
    None of a side without a factor.

    Args:
        beta: None for sums, ``L <- L + G G^T``.
        max_dim: a longer side has no factor.
        block: a longer side is cut into the fewest equal blocks that are not longer; None for
            none. Unlike in Meta's Shampoo the other side's factor stays whole.
        precision: of `PRECISIONS`.
    """

    beta: Live | None
    max_dim: int
    block: int | None = None
    precision: str = "full"

    def __post_init__(self) -> None:
        for name, longest in (("max_dim", self.max_dim), ("block", self.block)):
            if longest is not None:
                Live(name, longest, "count")  # refuses what is none
        check_choice("precision", self.precision, PRECISIONS, RecipeError)

    def init(self, like: Tensor) -> State:
        """Zero factors."""
        return {
            side: blank(like, (len(like), count), length // count)
            for side, length in zip("LR", like.shape[-2:], strict=True)
            if length <= self.max_dim and (count := self._blocks(length))
        }

    def dtype(self, like: Tensor) -> torch.dtype:
        """In what products with matrices like this one are taken."""
        return PRECISIONS[self.precision] or like.dtype

    def _blocks(self, length: int) -> int:
        longest = self.block or length
        return next(k for k in range(1, length + 1) if length % k == 0 and length // k <= longest)

    def refresh_cost(self, m: int, n: int) -> float:
        """Cubes of the blocks' sides."""
        sides = [side for side in (m, n) if side <= self.max_dim]
        return float(sum(side**3 / self._blocks(side) ** 2 for side in sides))

    def learn(self, x: Tensor, state: State, now: Now) -> None:
        """Take the stack ``x`` `[b, m, n]` into the factors, in place."""
        for side in sides(state):
            self.take(x, side, state[side], now)

    def take(self, x: Tensor, side: str, factor: Tensor, now: Now) -> None:
        """Take ``x`` into one factor, in place."""
        seen = gram(x.to(self.dtype(x)), side, factor.shape[1])
        self.average(factor, pack(seen).to(factor.dtype), now)

    def average(self, past: Tensor, seen: Tensor, now: Now) -> Tensor:
        """Into a mean, or a sum, in place."""
        return past.add_(seen) if self.beta is None else lerp_(past, seen, 1 - now(self.beta))

    def continued(self, A: Tensor, Q: Tensor, rank: int) -> Refresh:
        """The next eigenbasis of a factor: one step of orthogonal iteration, columns ranked."""
        return orthogonal_iteration(A, Q, rank)

    def bias(self, now: Now) -> float:
        """By which a mean that began with zero is short after this step; 1 for a sum."""
        return 1.0 if self.beta is None else 1 - float(now(self.beta)) ** int(now.step)


def sides(state: State) -> list[str]:
    """The sides that have a factor: ``"L"``, the rows', and ``"R"``, the columns'."""
    return [side for side in ("L", "R") if side in state]


def identity(factor: Tensor, dtype: torch.dtype) -> Tensor:
    """As many identities as a factor has blocks, `[b, k, s, s]`."""
    one = torch.eye(size(factor), dtype=dtype, device=factor.device)
    return one.repeat(*factor.shape[:2], 1, 1)


def highest_rank(x: Tensor, now: Now) -> int:
    """That a factor of gradients like ``x`` `[b, m, n]` may have: min(m, n) for each step so far.

    A factor of less than its size has a null space, and Adam in an eigenbasis steps by the choice
    of its basis. Any will do, the papers say nothing; but one that depends on rounding would step
    a matrix in a stack, or on another machine, not as alone.
    """
    return int(now.step) * min(x.shape[-2:])


def first_basis(A: Tensor, rank: int) -> Tensor:
    """Eigenvectors of a factor of at most this rank; Householder's QR completes them."""
    basis = eigenbasis(A).basis
    n = basis.shape[-1]
    return basis if rank >= n else orthonormal(basis[..., :rank], n)


def gram(x: Tensor, side: str, blocks: int) -> Tensor:
    """Blocks on the diagonal of ``X X^T`` (side ``"L"``) or ``X^T X`` (``"R"``), `[b, k, s, s]`."""
    y = torch.unflatten(x if side == "L" else x.mT, 1, (blocks, -1))
    return torch.unflatten(symmetric_product(y.flatten(0, 1)), 0, y.shape[:2])
