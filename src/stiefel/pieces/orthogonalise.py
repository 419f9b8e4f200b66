"""Muon's direction: the polar factor."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stiefel.errors import RecipeError
from stiefel.linalg import METHODS, polar
from stiefel.piece import MATRIX, Live, Now, Scope, State

__all__ = ["Orthogonalise"]


@dataclass(frozen=True)
class Orthogonalise:
    """``X -> polar(X)``: steepest descent under the spectral norm, every singular value becomes 1.

    Args:
        method: value of ``method`` in `stiefel.linalg.polar`.
        steps: the number of Newton-Schulz steps; None for an exact method, which has none.
    """

    method: str
    steps: Live | None
    scope: ClassVar[Scope] = MATRIX

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise RecipeError(
                f"polar={self.method!r} is unknown: choose one of {', '.join(METHODS)}"
            )

    def init(self, like: Tensor) -> State:
        """No state."""
        return {}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """The stack of polar factors."""
        return polar(x, method=self.method, steps=now(self.steps) if self.steps else None)
