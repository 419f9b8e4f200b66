"""Steps without singular values above a threshold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stiefel.errors import RecipeError, check_choice
from stiefel.linalg import soft_clip
from stiefel.linalg.spectral_maps import CLIP_METHODS
from stiefel.piece import MATRIX, Live, Now, Scope, State
from stiefel.pieces.kronecker import PRECISIONS

__all__ = ["SoftClip"]


@dataclass(frozen=True)
class SoftClip:
    """``X -> H_c(a X)``: every singular value s of ``a X`` becomes ``s / sqrt(1 + s^2 / c^2) < c``.

    Args:
        threshold: c.
        method: as in `stiefel.linalg.soft_clip`.
        unit: rule ``(m, n) -> a`` of the shape; None for 1.
        precision: of the products, of `stiefel.pieces.kronecker.PRECISIONS`.

    Raises:
        RecipeError: unknown method or precision; a precision for ``"exact"``.
    """

    threshold: Live
    method: str = "newton_schulz"
    unit: Callable[[int, int], float] | None = None
    precision: str = "full"
    scope: ClassVar[Scope] = MATRIX

    def __post_init__(self) -> None:
        check_choice("clip", self.method, CLIP_METHODS, RecipeError)
        check_choice("precision", self.precision, PRECISIONS, RecipeError)
        if self.method == "exact" and self.precision != "full":
            raise RecipeError(f"precision={self.precision!r} is for clip='newton_schulz': leave it")

    def init(self, like: Tensor) -> State:
        """No state."""
        return {}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """The stack of clipped matrices."""
        c = now(self.threshold)
        unit = self.unit(*x.shape[-2:]) if self.unit else 1.0
        # H_c(X) = c H_1(X / c): in a compiled step c is a tensor, which linalg would look at.
        dtype = PRECISIONS[self.precision]
        clipped: Tensor = soft_clip(x * (unit / c), 1.0, method=self.method, dtype=dtype) * c
        return clipped
