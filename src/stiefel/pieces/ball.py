"""Norm balls: how far a step of unit size reaches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from stiefel.errors import RecipeError, check_choice
from stiefel.piece import Live

__all__ = ["BALLS", "Ball"]

# From a plain direction to the boundary of the unit ball, as T. Pethick et al. (arXiv 2502.07529)
# normalise their norms, so that a learning rate holds for every width.
BALLS: dict[str, Callable[[int, int], float]] = {
    # Polar factor -> operator norm 1 from the RMS norm of the input to that of the output.
    "spectral": lambda m, n: math.sqrt(m / n),
    # Columns of length 1 -> columns of RMS 1.
    "colnorm": lambda m, n: math.sqrt(m),
    # Rows of length 1 -> rows of length 1 / sqrt(n).
    "rownorm": lambda m, n: 1 / math.sqrt(n),
    # Signs -> entries of size 1 / n.
    "sign": lambda m, n: 1 / n,
    # Rows of length 1 -> rows of RMS 1: a bias is one row, a token of a table is one.
    "bias_rms": lambda m, n: math.sqrt(n),
}


@dataclass(frozen=True)
class Ball:
    """The ball of a norm of `BALLS`; fills a recipe's scale slot.

    Raises:
        RecipeError: unknown norm.
        HyperparameterError: a radius that is negative or not finite.
    """

    norm: str
    radius: float

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, BALLS, RecipeError)
        Live("radius", self.radius)  # a group cannot change it, but its range is checked alike

    def __call__(self, m: int, n: int, /) -> float:
        """Factor on the learning rate of an m x n matrix."""
        return self.radius * BALLS[self.norm](m, n)
