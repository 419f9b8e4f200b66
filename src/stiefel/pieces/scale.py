"""What a learning rate means: the named rules that scale a step by the shape of its matrix.

A polar factor of an m x n matrix has spectral norm 1 and RMS ``1 / sqrt(max(m, n))``. Published
methods multiply it by different functions of m and n, so the same ``lr`` is a different step in
each. Here every rule has a name, and `convert_lr` translates between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from stiefel.errors import HyperparameterError, RecipeError, check_choice

__all__ = ["SCALES", "ShapeScale", "convert_lr"]

SCALES: dict[str, Callable[[int, int], float]] = {
    # The factor is used as it is.
    "none": lambda m, n: 1.0,
    # Update RMS 0.2, what AdamW's updates typically have: an AdamW lr carries over.
    # Moonlight (arXiv 2502.16982); torch.optim.Muon's adjust_lr_fn of the same name.
    "match_rms_adamw": lambda m, n: 0.2 * math.sqrt(max(m, n)),
    # K. Jordan, Muon (2024); torch.optim.Muon's adjust_lr_fn of the same name, its default.
    "original": lambda m, n: math.sqrt(max(1.0, m / n)),
    # Unit norm from the RMS norm of the input to the RMS norm of the output; dion's default.
    "spectral": lambda m, n: math.sqrt(m / n),
    # Update RMS 1: Moonlight's rule without its 0.2; NVIDIA Emerging-Optimizers' default.
    "unit_rms": lambda m, n: math.sqrt(max(m, n)),
    # GaLore (arXiv 2403.03507) and Conda (arXiv 2509.24218) take a quarter of Adam's step.
    "quarter": lambda m, n: 0.25,
}


@dataclass(frozen=True)
class ShapeScale:
    """A rule of `SCALES` by name; fills a recipe's scale slot."""

    rule: str

    def __post_init__(self) -> None:
        check_choice("scale", self.rule, SCALES, RecipeError)

    def __call__(self, m: int, n: int, /) -> float:
        """Factor on the learning rate of an m x n matrix."""
        return SCALES[self.rule](m, n)


def convert_lr(lr: float, source: str, target: str, shape: tuple[int, int]) -> float:
    """The ``lr`` that gives under rule ``target`` the step that ``lr`` gives under ``source``.

    Args:
        lr: learning rate in the unit of ``source``.
        source, target: rules of `SCALES`.
        shape: ``(m, n)`` of the matrix; most pairs of rules agree only up to a function of it.

    Example:
        Jordan's 0.02 on a 768 x 3072 matrix, in AdamW's unit:

        >>> round(convert_lr(0.02, "original", "match_rms_adamw", (768, 3072)), 5)
        0.0018

    Raises:
        RecipeError: unknown rule.
        HyperparameterError: not the shape of a matrix, or one without entries.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise HyperparameterError(
            f"shape={shape} is not that of a matrix: give (m, n) with m, n >= 1, of a tensor with "
            "more dimensions those of the matrices in its view"
        )
    m, n = shape
    return lr * ShapeScale(source)(m, n) / ShapeScale(target)(m, n)
