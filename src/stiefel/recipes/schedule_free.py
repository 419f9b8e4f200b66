"""Schedule-free learning: an average in the place of a schedule."""

from __future__ import annotations

from torch import Tensor

from stiefel.piece import Live
from stiefel.pieces import DecoupledDecay, RMSProp, ScheduleFree
from stiefel.recipe import Recipe
from stiefel.recipes.wrapping import given, wrapped

__all__ = ["schedule_free"]


def schedule_free(
    base: Recipe | None = None,
    *,
    lr: float | Tensor | None = None,
    weight_decay: float | None = None,
    interpolation: float = 0.9,
    warmup_steps: int = 1,
) -> Recipe:
    r"""Schedule-free learning (A. Defazio et al., arXiv 2405.15682) around any recipe.

    The parameters hold $Y$, where the gradients are taken; $Z$ takes the base's steps
    $\gamma_t U_t$ with $\gamma_t = \eta \min(1, t/T_w)$, and $X$ is what is evaluated:

    $$ Z \leftarrow Z - \gamma_t (U_t + \lambda Y), \qquad
       X \leftarrow (1 - c_t) X + c_t Z, \qquad c_t = \gamma_t^2 \Big/ \sum_{s \le t} \gamma_s^2, $$
    $$ Y = (1-\beta) Z + \beta X. $$

    Train with a constant lr, and evaluate and save the model inside of ``with opt.evaluating():``,
    which puts $X$ into the parameters.

    Args:
        base: the recipe; if None, AdamW without its first moment, in whose place $\beta$ is:
            ``beta2`` 0.999, ``eps`` 1e-8 and no decay. Give others without momentum too, for
            example ``sgd(momentum=0.0)``: the code asks that of its users.
        lr: $\eta$, in the unit of the base; None means the base's. The code's default for AdamW is
            0.0025; the best one is larger than with a schedule.
        weight_decay: $\lambda$; None means the base's.
        interpolation: $\beta$, $0 < \beta \le 1$.
        warmup_steps: $T_w$; 1 for none.

    Leave both as they are once a run has begun: X is computed with the present $\beta$, and a
    change of it throws X to another place.

    Defaults are those of the published AdamWScheduleFree.

    Paper and code: the code, as we, does not keep X but computes it from Y and Z. It weighs by the
    square of the largest $\gamma$ so far and keeps the sum as a number; here the sum is that of a
    constant $\eta$, in closed form, so a schedule of your own on lr does not enter the weights. In
    the text, as in the code's earlier versions, the bias correction of the second moment is part of
    $\gamma_t$; now, as here, it stands in the denominator.

    Raises:
        RecipeError: ``base`` is no recipe, or holds `averaged`, `lookahead` or `schedule_free`
            itself.
        HyperparameterError: a number out of its range.
    """
    base = given(_adamw() if base is None else base, weight_decay)
    free = ScheduleFree(
        base.apply,
        beta=Live("interpolation", interpolation, "share"),
        warmup=Live("warmup_steps", warmup_steps, "count"),
    )
    return wrapped("schedule_free", base, lr, apply=free)


def _adamw() -> Recipe:
    return Recipe(
        "adamw",
        precondition=RMSProp(beta=Live("beta2", 0.999, "fraction"), eps=Live("eps", 1e-8)),
        apply=DecoupledDecay(Live("weight_decay", 0.0)),
    )
