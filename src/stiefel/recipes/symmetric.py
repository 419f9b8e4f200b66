"""Symmetry-compatible methods: one for each symmetry that a layer's function has."""

from __future__ import annotations

from torch import Tensor

from stiefel.errors import RecipeError, check_choice
from stiefel.piece import Live, Piece
from stiefel.pieces import (
    Ball,
    Centre,
    Chain,
    DecoupledDecay,
    Momentum,
    Orthogonalise,
    PolarGradient,
    ShapeScale,
    Unit,
)
from stiefel.recipe import Recipe, ScaleRule
from stiefel.recipes.muon import muon

__all__ = ["symmetric", "symmetry_by_role"]

DIRECTIONS: tuple[str, ...] = ("row", "spectral", "row_then_polar", "polar_then_row")


def symmetric(
    *,
    lr: float | Tensor | None = None,
    momentum: float = 0.95,
    direction: str = "row",
    centred: bool = False,
    power: float = 1.0,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    polar: str = "polar_express",
    ns_steps: int | None = None,
    scale: str = "match_rms_adamw",
) -> Recipe:
    r"""Symmetry-compatible optimisers (T. Lau and W. Su, arXiv 2605.18106).

    Tokens and experts may be permuted, features may be rotated, and a softmax does not see what all
    its scores share; the step $D$ of an embedding, a head or a router follows each of these.

    $$ M \leftarrow \mu M + (1-\mu) G, \qquad
       W \leftarrow (1 - \eta\lambda) W - \eta\, s(m, n)\, D(M). $$

    Args:
        lr: $\eta$; None means the optimiser's. In the default unit an AdamW learning rate carries
            over to ``"row"`` and ``"polar_then_row"`` (an update with RMS 0.2 lr), and to the other
            two with ``power=0``; otherwise it is that times $1 / \nu^\alpha$.
        momentum: $\mu$.
        direction: the map D:

            - ``"row"``: every row over its length, $M_i / (\lVert M_i \rVert + \varepsilon)$.
            - ``"spectral"``: $\nu^\alpha\, \mathrm{polar}(M)$, $\nu = \lVert M \rVert_*$. The
              paper's right-spectral $M (M^\top M)^{-1/2}$ and left-spectral $(M M^\top)^{-1/2} M$
              are this one matrix; the Gram matrix is formed on the shorter side.
            - ``"row_then_polar"``: the second of the first.
            - ``"polar_then_row"``: the first of the second, in which $\nu$ makes no difference.
        centred: subtract the mean row before each map and after the last.
        power: $\alpha$ (not in the group where there is no $\nu$).
        eps: $\varepsilon$ (not in the group of ``"spectral"``). The paper also adds it to the
            eigenvalues of the Gram matrix, which the polar factor here can do without.
        weight_decay: $\lambda$, decoupled, multiplied by lr but not by $s$.
        polar, ns_steps: as in `stiefel.muon`.
        scale: $s(m, n)$, a rule of `stiefel.pieces.SCALES`; ``"none"`` is the paper's. The default
            is $0.2 \sqrt n$ where D ends with rows of length 1, else $0.2 \sqrt{\max(m, n)}$.

    Momentum, $\alpha$, $\varepsilon$ and decay are the authors' code's defaults. The code can also
    take the columns of a matrix for its rows (``down_proj``) and a pair of rows for one (gate and
    up of one neuron); here a view must do that.

    Raises:
        HyperparameterError: a number out of its range.
        RecipeError: unknown ``direction``, ``polar`` or ``scale``.
    """
    check_choice("direction", direction, DIRECTIONS, RecipeError)
    Live("centred", centred, "flag")  # refuses what is none
    row = Unit(-1, Live("eps", eps))
    orthogonal = Orthogonalise.by(polar, ns_steps)
    spectral = PolarGradient(orthogonal, power=Live("power", power))
    maps: dict[str, tuple[Piece, ...]] = {
        "row": (row,),
        "spectral": (spectral,),
        "row_then_polar": (row, spectral),
        "polar_then_row": (orthogonal, row),
    }
    return Recipe(
        "symmetric",
        lr=lr,
        momentum=Momentum(Live("momentum", momentum, "fraction")),
        direction=_centred(maps[direction]) if centred else Chain(maps[direction]),
        scale=_scale(scale, maps[direction][-1] is row),
        apply=DecoupledDecay(Live("weight_decay", weight_decay)),
    )


def _centred(maps: tuple[Piece, ...]) -> Chain:
    """A map of rows does not keep their sum at zero, nor does the rounding of any."""
    return Chain((Centre(), *(piece for each in maps for piece in (each, Centre()))))


def _scale(rule: str, unit_rows: bool) -> ScaleRule:
    return Ball("bias_rms", 0.2) if unit_rows and rule == "match_rms_adamw" else ShapeScale(rule)


def symmetry_by_role(
    *,
    embedding: str = "row",
    head: str = "row",
    router: str = "row",
    power: float = 1.0,
    weight_decay: float = 0.0,
) -> dict[str, Recipe]:
    """The paper's routing as a mapping for `stiefel.plan`: head and router centred, Muon inside.

    Hidden matrices (experts with them) step by `stiefel.muon`; roles that are not in the mapping by
    AdamW.

    Args:
        embedding, head, router: directions of `symmetric`. Rows, which the authors' scripts have
            for every model, share AdamW's unit of lr with Muon. Their code's own defaults are
            ``"spectral"``, ``"row_then_polar"`` and ``"spectral"``, each with a learning rate of
            its own: give those to `symmetric` and put the recipes into the mapping.
        power, weight_decay: of these three, see `symmetric`.

    Raises:
        HyperparameterError: a number out of its range.
        RecipeError: an unknown direction.
    """
    routes = {"embedding": (embedding, False), "head": (head, True), "router": (router, True)}
    mapping = {
        role: symmetric(
            direction=direction, centred=centred, power=power, weight_decay=weight_decay
        )
        for role, (direction, centred) in routes.items()
    }
    return mapping | {"hidden": muon()}
