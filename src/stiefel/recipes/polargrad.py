"""PolarGrad: the polar factor times the nuclear norm."""

from __future__ import annotations

from torch import Tensor

from stiefel.errors import RecipeError, check_choice
from stiefel.piece import Live
from stiefel.pieces import DecoupledDecay, Momentum, Orthogonalise, PolarGradient
from stiefel.recipe import IDENTITY, Recipe

__all__ = ["polargrad"]

ORDERS: tuple[str, ...] = ("momentum_first", "polar_first")


def polargrad(
    *,
    lr: float | Tensor | None = None,
    momentum: float = 0.95,
    order: str = "momentum_first",
    weight_decay: float = 0.0,
    polar: str = "eigh",
    ns_steps: int | None = None,
) -> Recipe:
    r"""PolarGrad (T. Lau, Q. Long and W. Su, arXiv 2505.21799).

    Steepest descent under the spectral norm, where Muon keeps only the direction. Momentum first:

    $$ M \leftarrow \mu M + (1-\mu) G, \qquad
       W \leftarrow (1 - \eta\lambda) W - \eta\, \lVert M \rVert_*\, \mathrm{polar}(M); $$

    polar first:

    $$ M \leftarrow \mu M + (1-\mu)\, \mathrm{polar}(G), \qquad
       W \leftarrow (1 - \eta\lambda) W - \eta\, \lVert G \rVert_*\, M. $$

    The nuclear norm is $\langle X, \mathrm{polar}(X) \rangle$.

    Args:
        lr: $\eta$, in the method's own unit: the step is proportional to the gradient, as SGD's, so
            no rule of `stiefel.pieces.SCALES` could give it AdamW's. None means the optimiser's.
        momentum: $\mu$.
        order: ``"momentum_first"`` or ``"polar_first"``.
        weight_decay: $\lambda$, decoupled, multiplied by lr.
        polar: method of `stiefel.linalg.polar`. Exact are ``"eigh"``, ``"exact"``, ``"qdwh"`` and
            ``"zolo"``. Where a gradient has not full rank, the first two leave the directions of
            rounding noise at zero; the last two (the paper's) stretch them up to length 1, and so
            move the weight there.
        ns_steps: number of steps of a Newton-Schulz method.

    Momentum, order and decay are the authors' code's defaults. Its polar factor is QDWH's, after 2
    steps, when it is none yet; here QDWH converges (`stiefel.linalg.Qdwh`).

    Raises:
        HyperparameterError: a number out of its range.
        RecipeError: unknown ``order`` or ``polar``.
    """
    check_choice("order", order, ORDERS, RecipeError)
    average = Momentum(Live("momentum", momentum, "fraction"))
    first = order == "momentum_first"
    return Recipe(
        "polargrad",
        lr=lr,
        momentum=average if first else IDENTITY,
        direction=PolarGradient(Orthogonalise.by(polar, ns_steps), None if first else average),
        apply=DecoupledDecay(Live("weight_decay", weight_decay)),
    )
