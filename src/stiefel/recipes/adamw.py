"""AdamW: the elementwise baseline, and the rule for everything that is not a matrix."""

from __future__ import annotations

from torch import Tensor

from stiefel.piece import Live
from stiefel.pieces import Adam, DecoupledDecay
from stiefel.recipe import Recipe

__all__ = ["adamw"]


def adamw(
    *,
    lr: float | Tensor | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> Recipe:
    r"""AdamW (I. Loshchilov and F. Hutter, arXiv 1711.05101), as torch.optim.AdamW.

    $$ M \leftarrow \beta_1 M + (1-\beta_1) G, \qquad V \leftarrow \beta_2 V + (1-\beta_2) G^2, $$
    $$ W \leftarrow (1 - \eta\lambda) W
       - \eta \frac{M / (1-\beta_1^t)}{\sqrt{V / (1-\beta_2^t)} + \varepsilon}. $$

    Acts on every entry alone, so it takes tensors of any shape.

    Args:
        lr: $\eta$; None means the optimiser's.
        betas: $(\beta_1, \beta_2)$.
        eps: $\varepsilon$, outside the root and after the bias correction.
        weight_decay: $\lambda$, decoupled, multiplied by lr.

    Defaults are torch.optim.AdamW's.

    Raises:
        HyperparameterError: a number out of its range.
    """
    return Recipe(
        "adamw",
        lr=lr,
        precondition=Adam(betas=Live("betas", betas, "betas"), eps=Live("eps", eps)),
        apply=DecoupledDecay(Live("weight_decay", weight_decay)),
    )
