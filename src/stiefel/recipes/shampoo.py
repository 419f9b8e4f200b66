"""Shampoo: roots of Kronecker factors on both sides of the gradient."""

from __future__ import annotations

from torch import Tensor

from stiefel.errors import RecipeError, check_choice
from stiefel.piece import REFRESH_EVERY, Live
from stiefel.pieces import (
    AdamLength,
    DecoupledDecay,
    Graft,
    Kronecker,
    MeanLength,
    OwnLength,
    Roots,
)
from stiefel.recipe import Recipe

__all__ = ["shampoo"]

GRAFTS = ("adam", "sgd", "none")
STATISTICS = ("mean", "sum")


def shampoo(
    *,
    lr: float | Tensor | None = None,
    momentum: float = 0.9,
    shampoo_beta: float = 0.95,
    statistics: str = "mean",
    power: int = 4,
    damping: str = "relative",
    damping_eps: float = 1e-6,
    grafting: str = "adam",
    graft_beta: float = 0.999,
    graft_eps: float = 1e-8,
    weight_decay: float = 0.0,
    refresh_every: int = 10,
    max_dim: int = 10000,
    block: int | None = None,
    precision: str = "full",
    eigenvectors: str = "eigh",
) -> Recipe:
    r"""Shampoo (V. Gupta, T. Koren and Y. Singer, arXiv 1802.09568).

    For a matrix W `[m, n]` with gradient G, in step t:

    $$ L \leftarrow \beta L + (1-\beta) G G^\top, \qquad
       R \leftarrow \beta R + (1-\beta) G^\top G, \qquad M \leftarrow \mu M + (1-\mu) G, $$
    $$ \hat M = \frac{M}{1-\mu^t}, \qquad
       U = \Big(\frac{L}{1-\beta^t} + \varepsilon_L\Big)^{-1/p} \hat M
           \Big(\frac{R}{1-\beta^t} + \varepsilon_R\Big)^{-1/p}, $$
    $$ W \leftarrow (1-\eta\lambda) W - \eta\, \frac{\|A\|_F}{\|U\|_F}\, U, $$

    where A is Adam's step with the same $\hat M$ (grafting, arXiv 2002.11803). Roots are taken in
    the first step and then once in ``refresh_every`` steps, before their use.

    Args:
        lr: $\eta$; None means the optimiser's. Grafted on Adam it is in AdamW's unit.
        momentum: $\mu$.
        shampoo_beta: $\beta$; not used, and not in the group, for sums.
        statistics: ``"mean"`` as above, or ``"sum"``, $L \leftarrow L + G G^\top$ without a
            correction, as in the first paper.
        power: p: 4, or 2, whose preconditioner is nearer to that of Adagrad with the full matrix
            (D. Morwani et al., arXiv 2406.17748).
        damping: what $\varepsilon_L$ is in units of, a rule of `stiefel.linalg.inv_root`:
            ``"relative"`` (to the largest eigenvalue), ``"absolute"``, ``"trace"``, ``"pseudo"``.
        damping_eps: its number. The first paper's $L_0 = \epsilon I$ is ``statistics="sum"`` with
            ``damping="absolute"``.
        grafting: ``"adam"``; ``"sgd"``, $A = \hat M$; ``"none"``, the step is $U$.
        graft_beta, graft_eps: of Adam's second moment, and beside its root.
        weight_decay: $\lambda$, decoupled, multiplied by lr.
        refresh_every: steps from root to root.
        max_dim: a longer side has no factor; the power of the other one stays.
        block: a longer side is cut into equal blocks that are not longer, with a factor each: the
            fewest such blocks that come out even.
        precision: ``"bfloat16"`` keeps roots and bases in it and takes the products with gradients
            so, and on the CPU those of the QR of sides of 768 and more; factors, eigenvalues and
            reflections stay in full.
        eigenvectors: ``"eigh"``; or ``"qr"``, which takes those of the first root so and then
            continues them, a step for each root: the columns of $Q$ are ranked by
            $\mathrm{diag}(Q^\top L Q)$, $Q \leftarrow \mathrm{qr}(L Q)$, and the root is
            $Q\, (\mathrm{diag}(Q^\top L Q) + \varepsilon_L)^{-1/p}\, Q^\top$ with the new $Q$.
            Not with ``damping="pseudo"``: a column on its way into a null space is no zero.

    Defaults: momentum 0.9, Adam's numbers and no decay are those of Meta's Distributed Shampoo, the
    relative damping with 1e-6 Google's (arXiv 2002.09018), 0.95 that of 4-bit Shampoo (arXiv
    2405.18144); 10 and Adam's graft were tuned for Shampoo in the speed runs of modded-nanogpt.

    Measured on the demo's task (width 192, 200 steps, lr 0.005, mean of three seeds, which lie 0.03
    apart): final loss, and bytes of state for each parameter in a layer of GPT-2 with separate
    query, key and value, whose short side is 768. Defaults: 2.078 and 29.0. ``eigenvectors="qr"``:
    2.089 and 43.0. That in bfloat16: 2.075 and 29.0; with the short side for ``block`` besides:
    2.094 and 17.0.

    In bfloat16 the eigenvalues of a factor below 1e-4 to 9e-4 of the largest are rounding of the
    gradients' products (gradients of that task); with these products in full the loss was 0.02
    higher, on each seed. Roots and bases are off by up to $2^{-9} \varepsilon^{-1/p}$ of the
    step under the relative damping: 0.06 by default, but 2 for p = 2 (where the loss was lower all
    the same: 1.98 to 2.05 in full, one seed).

    Paper and code: Google takes roots at steps 1, 1 + f, ...; Meta, counting from 1, at f, 2f, ...
    and takes the grafted method's step before. Both cut a matrix into blocks that share no factor;
    here blocks of rows share R. Meta grafts block by block, Google the matrix, as here. The step of
    ``"qr"`` is that of Meta's ``QREigendecompositionConfig`` with its one iteration, which adds the
    ridge to the factor before and ranks the columns after, smallest first; here they are ranked as
    in SOAP (arXiv 2409.11321). R. Eschenhagen et al. (arXiv 2506.03595) iterate until the part of
    $Q^\top L Q$ off the diagonal is small, and take no step where it is; here there is always one.

    Raises:
        HyperparameterError: a number out of its range.
        RecipeError: unknown ``statistics``, ``power``, ``damping``, ``grafting``, ``precision`` or
            ``eigenvectors``; ``"qr"`` with ``"pseudo"``.
    """
    check_choice("statistics", statistics, STATISTICS, RecipeError)
    check_choice("grafting", grafting, GRAFTS, RecipeError)
    beta = Live("shampoo_beta", shampoo_beta, "fraction") if statistics == "mean" else None
    return Recipe(
        "shampoo",
        lr=lr,
        precondition=Roots(
            beta=Live("momentum", momentum, "fraction"),
            factors=Kronecker(beta, max_dim, block, precision),
            power=power,
            damping=damping,
            eps=Live("damping_eps", damping_eps),
            graft=_graft(grafting, graft_beta, graft_eps),
            every=Live(REFRESH_EVERY, refresh_every, "count"),
            eigenvectors=eigenvectors,
        ),
        apply=DecoupledDecay(Live("weight_decay", weight_decay)),
    )


def _graft(name: str, beta: float, eps: float) -> Graft:
    if name == "adam":
        return AdamLength(Live("graft_beta", beta, "fraction"), Live("graft_eps", eps))
    return MeanLength() if name == "sgd" else OwnLength()
