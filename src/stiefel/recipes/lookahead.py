"""Lookahead: slow weights that follow fast ones."""

from __future__ import annotations

from torch import Tensor

from stiefel.piece import Live
from stiefel.pieces import Lookahead
from stiefel.recipe import Recipe
from stiefel.recipes.adamw import adamw
from stiefel.recipes.wrapping import given, wrapped

__all__ = ["lookahead"]


def lookahead(
    base: Recipe | None = None,
    *,
    lr: float | Tensor | None = None,
    weight_decay: float | None = None,
    sync_every: int = 5,
    slow_rate: float = 0.5,
) -> Recipe:
    r"""Lookahead (M. Zhang et al., arXiv 1907.08610) around any recipe.

    The base steps the weight $W$. After every $k$ of its steps (the first gradient of SOAP, which
    moves nothing, makes none)

    $$ S \leftarrow S + \alpha (W - S), \qquad W \leftarrow S, $$

    with slow weights $S$ that start as $W$.

    Args:
        base: the recipe; AdamW if None.
        lr: $\eta$, in the unit of the base; None means the base's.
        weight_decay: $\lambda$; None means the base's.
        sync_every: $k$.
        slow_rate: $\alpha$, $0 < \alpha \le 1$; at 1 the method is the base.

    ``with opt.evaluating():`` puts the slow weights into the parameters; between two meetings they
    are better than the fast ones.

    Defaults: k = 5 and $\alpha$ = 0.5 are the paper's for images; the official PyTorch code has
    $\alpha$ = 0.8. The momentum of the base is kept when the weights meet, which is the code's
    default; its other choices, to reset it or to pull it back, are left out.

    Raises:
        RecipeError: ``base`` is no recipe, or holds `averaged` (which may stand around it) or
            `schedule_free` itself.
        HyperparameterError: a number out of its range.
    """
    base = given(adamw() if base is None else base, weight_decay)
    slow = Lookahead(
        base.apply,
        every=Live("sync_every", sync_every, "count"),
        rate=Live("slow_rate", slow_rate, "share"),
    )
    return wrapped("lookahead", base, lr, apply=slow)
