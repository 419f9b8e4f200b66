"""SOAP: Adam in the eigenbases of Shampoo's factors."""

from __future__ import annotations

from torch import Tensor

from stiefel.piece import REFRESH_EVERY, Live
from stiefel.pieces import Adam, DecoupledDecay, Kronecker, Rotated
from stiefel.recipe import Recipe

__all__ = ["soap"]


def soap(
    *,
    lr: float | Tensor | None = None,
    betas: tuple[float, float] = (0.95, 0.95),
    shampoo_beta: float | None = None,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    refresh_every: int = 10,
    max_dim: int = 10000,
    block: int | None = None,
    precision: str = "full",
) -> Recipe:
    r"""SOAP (N. Vyas et al., arXiv 2409.11321).

    Adam in the eigenbases of Shampoo's factors. For a matrix W `[m, n]` with gradient G:

    $$ G' = Q_L^\top G Q_R, \qquad M' \leftarrow \beta_1 M' + (1-\beta_1) G', \qquad
       V \leftarrow \beta_2 V + (1-\beta_2) G'^2, $$
    $$ W \leftarrow W - \eta \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}\,
       Q_L \frac{M'}{\sqrt V + \varepsilon} Q_R^\top, \qquad W \leftarrow (1-\eta\lambda) W, $$
    $$ L \leftarrow \beta L + (1-\beta) G G^\top, \qquad
       R \leftarrow \beta R + (1-\beta) G^\top G. $$

    The first gradient moves nothing: it makes the bases, eigenvectors of L and R. Then, once in
    ``refresh_every`` steps and after the step, the columns of $Q_L$ are ranked by
    $\mathrm{diag}(Q_L^\top L Q_L)$ and $Q_L \leftarrow \mathrm{qr}(L Q_L)$, $Q_R$ likewise;
    $M'$ is turned into the new bases, V follows the ranking.

    Args:
        lr: $\eta$; None means the optimiser's. The update is Adam's in another basis, so lr is in
            AdamW's unit.
        betas: $(\beta_1, \beta_2)$ of Adam in the bases.
        shampoo_beta: $\beta$; None for $\beta_2$.
        eps: $\varepsilon$, added to the root before its bias is corrected.
        weight_decay: $\lambda$, decoupled, multiplied by lr, after the step.
        refresh_every: steps from refresh to refresh of the bases.
        max_dim: a longer side has no factor and keeps its own basis.
        block: a longer side is cut into equal blocks that are not longer, with a factor each: the
            fewest such blocks that come out even (a prime number of rows gives blocks of one).
        precision: ``"bfloat16"`` keeps the bases in it and takes the products with gradients so,
            and on the CPU those of the QR of sides of 768 and more; factors, reflections and Adam
            stay in full.

    Defaults are those of the authors' code but for its lr, 3e-3.

    Measured on the demo's task (width 192, 360 steps, lr 0.01, mean of three seeds, which lie 0.03
    apart): final loss, and bytes of state for each parameter in a layer of GPT-2 with separate
    query, key and value, whose short side is 768. Defaults: 1.771 and 29.0.
    ``precision="bfloat16"``: 1.768 and 22.0. With the short side for ``block`` besides: 1.805 and
    14.0; refreshed every 2 steps, which still costs less than whole long sides every 10: 1.765 and
    14.0; with half of it for ``block``: 1.843 (two seeds) and 11.0. With the short side for
    ``max_dim``: 1.847 where the defaults have 1.770 (one seed), and 13.0. A QR in bfloat16, forced
    on these short sides, cost 0.016 after 200 steps (three seeds).

    Paper and code: the paper has no weight decay and corrects Adam's moments as Adam does. Which
    basis completes that of the gradients so far where they have a null space neither says: here it
    depends on no rounding.

    Raises:
        HyperparameterError: a number out of its range.
        RecipeError: unknown ``precision``.
    """
    pair = Live("betas", betas, "betas")
    factor_beta = betas[1] if shampoo_beta is None else shampoo_beta
    return Recipe(
        "soap",
        lr=lr,
        precondition=Rotated(
            inner=Adam(pair, Live("eps", eps), correction="quotient"),
            factors=Kronecker(
                Live("shampoo_beta", factor_beta, "fraction"), max_dim, block, precision
            ),
            every=Live(REFRESH_EVERY, refresh_every, "count"),
        ),
        apply=DecoupledDecay(Live("weight_decay", weight_decay), after=True),
    )
