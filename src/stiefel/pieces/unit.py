"""Rows and columns of equal length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.linalg import vector_norm

from stiefel.errors import RecipeError, check_choice
from stiefel.piece import MATRIX, Live, Now, Scope, State

__all__ = ["EQUILIBRATIONS", "Equilibrate", "Unit", "over"]

# Which dimensions give the lengths, by mode: those of rows are taken along the last.
EQUILIBRATIONS: dict[str, tuple[int, ...]] = {"row": (-1,), "col": (-2,), "rowcol": (-1, -2)}


def over(x: Tensor, length: Tensor) -> Tensor:
    """``x / length``, and zero where the length is: what has no direction gets none."""
    return x / length.masked_fill(length == 0, math.inf)


def _lengths(x: Tensor, dim: int) -> Tensor:
    """`[b, m, 1]` or `[b, 1, n]`."""
    if torch.compiler.is_compiling() and x.is_cpu and dim == -1:
        # torch.compile fails on a CPU where it fuses a momentum, the norm of its rows and the
        # quotient (pytorch/pytorch#196570); a distance from zero it takes from a library.
        zero = x.new_zeros(len(x), 1, x.shape[-1])
        return torch.cdist(x, zero, compute_mode="donot_use_mm_for_euclid_dist")
    lengths: Tensor = vector_norm(x, dim=dim, keepdim=True)
    return lengths


@dataclass(frozen=True)
class Unit:
    """Every row, or every column, over its length: ``X_i -> X_i / (|X_i| + eps)``.

    Steepest descent under the largest length of a row (or column).

    Args:
        dim: along which a length is taken: -1 for rows, -2 for columns.
        eps: a length far below it stays small.
    """

    dim: int
    eps: Live
    scope: ClassVar[Scope] = MATRIX

    def init(self, like: Tensor) -> State:
        """No state."""
        return {}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """The stack with its rows (or columns) of length 1."""
        return over(x, _lengths(x, self.dim) + now(self.eps))


@dataclass(frozen=True)
class Equilibrate:
    """``diag(r) X``, ``X diag(c)`` or ``diag(r) X diag(c)``, with ``r_i = (|X_i:|^2 + eps)^(-1/2)``
    and ``c_j = (|X_:j|^2 + eps)^(-1/2)`` of the same X.

    Args:
        mode: a key of `EQUILIBRATIONS`.
        eps: in the unit of a squared length.

    Raises:
        RecipeError: unknown mode.
    """

    mode: str
    eps: Live
    scope: ClassVar[Scope] = MATRIX

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, EQUILIBRATIONS, RecipeError)

    def init(self, like: Tensor) -> State:
        """No state."""
        return {}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """The equilibrated stack."""
        y = x
        for dim in EQUILIBRATIONS[self.mode]:
            square = vector_norm(x, dim=dim, keepdim=True).square()
            y = over(y, (square + now(self.eps)).sqrt())
        return y
