"""Cautious weight decay: decay only what the step shrinks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from stiefel.errors import RecipeError
from stiefel.pieces import DecoupledDecay
from stiefel.recipe import Recipe
from stiefel.recipes.adamw import adamw
from stiefel.recipes.wrapping import given, mapped, wrapped

__all__ = ["cautious"]


def cautious(
    base: Recipe | None = None,
    *,
    lr: float | Tensor | None = None,
    weight_decay: float | None = None,
) -> Recipe:
    r"""Cautious weight decay (L. Chen et al., arXiv 2510.12402) in any recipe with decoupled decay.

    With $U$ the step of the base, entry by entry:

    $$ W \leftarrow W - \eta\, \bigl(U + \lambda\, [U W \ge 0]\, W\bigr). $$

    Where the step makes an entry grow the decay does not hold it back, so that a stationary point
    of the loss stays one. Decay and mask see $W$ as it was before the step, also where the base
    decays afterwards (SOAP, GaLore, Conda).

    Args:
        base: the recipe; AdamW if None.
        lr: $\eta$, in the unit of the base; None means the base's.
        weight_decay: $\lambda$; None means the base's. The paper keeps what was tuned without
            caution.

    The method has no number of its own. A zero of $U$ or $W$ counts as agreement.

    Raises:
        RecipeError: ``base`` is no recipe, or has no decoupled decay.
        HyperparameterError: a number out of its range.
    """
    base = given(adamw() if base is None else base, weight_decay)
    found = False

    def change(part: Any) -> Any:
        nonlocal found
        if not isinstance(part, DecoupledDecay):
            return part
        found = True
        return replace(part, cautious=True, after=False)  # as the formula says

    apply = mapped(base.apply, change)
    if not found:
        raise RecipeError(
            f"{base.name!r} has no decoupled decay to make cautious: its last slot is {base.apply}"
        )
    return wrapped("cautious", base, lr, apply=apply)
