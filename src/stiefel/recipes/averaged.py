"""An exponential moving average of the weights, to evaluate at."""

from __future__ import annotations

from torch import Tensor

from stiefel.piece import Live
from stiefel.pieces import Averaged
from stiefel.recipe import Recipe
from stiefel.recipes.adamw import adamw
from stiefel.recipes.wrapping import given, wrapped

__all__ = ["averaged"]


def averaged(
    base: Recipe | None = None,
    *,
    lr: float | Tensor | None = None,
    weight_decay: float | None = None,
    ema_decay: float = 0.999,
) -> Recipe:
    r"""An average of the iterates (B. Polyak and A. Juditsky, 1992) beside any recipe.

    The base trains the weight $W$ as ever. After each of its steps

    $$ A \leftarrow \beta A + (1-\beta) W, $$

    with $A = W$ after the first one. ``with opt.evaluating():`` puts $A$ into the parameters.

    Args:
        base: the recipe; AdamW if None.
        lr: $\eta$, in the unit of the base; None means the base's.
        weight_decay: $\lambda$; None means the base's.
        ema_decay: $\beta$. The average looks back over about $1 / (1-\beta)$ steps.

    The default and the start are those of torch.optim.swa_utils. A 16-bit parameter has its average
    in float32. A step without a gradient for a parameter is none for its average.

    Raises:
        RecipeError: ``base`` is no recipe, or holds `averaged` or `schedule_free` itself.
        HyperparameterError: a number out of its range.
    """
    base = given(adamw() if base is None else base, weight_decay)
    average = Averaged(base.apply, decay=Live("ema_decay", ema_decay, "fraction"))
    return wrapped("averaged", base, lr, apply=average)
