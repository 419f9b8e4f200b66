"""SPECTRA: any method, with its singular values softly clipped."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stiefel.errors import RecipeError
from stiefel.piece import Live, Piece
from stiefel.pieces import Chain, ShapeScale, SoftClip
from stiefel.recipe import IDENTITY, Recipe
from stiefel.recipes.adamw import adamw
from stiefel.recipes.wrapping import given, wrapped

__all__ = ["spectra"]


def spectra(
    base: Recipe | None = None,
    *,
    lr: float | Tensor | None = None,
    weight_decay: float | None = None,
    c: float | None = 1.0,
    pre_c: float | None = None,
    scale: str = "original",
    clip: str = "newton_schulz",
    precision: str = "full",
) -> Recipe:
    r"""SPECTRA (arXiv 2603.14315): soft spectral clipping around any recipe.

    With $U$ the step of the base, its own scale included, for a matrix W `[m, n]`:

    $$ H_c(U) = \bigl(I + U U^\top / c^2\bigr)^{-1/2} U, \qquad
       W \leftarrow (1 - \eta\lambda) W - \eta\, \alpha(m, n)\, H_c(U), $$

    which brings every singular value $s$ to $s / \sqrt{1 + s^2/c^2} < c$. As $c$ grows the step is
    the base's, as it falls $H_c / c$ goes to the polar factor.

    Args:
        base: the recipe; AdamW if None.
        lr: $\eta$, in the unit of the base; None means the base's.
        weight_decay: $\lambda$; None means the base's.
        c: the threshold of the step, of any schedule: the paper holds $c\,\eta$ constant while
            $\eta$ warms up. None leaves step and scale as they are, for ``pre_c`` alone.
        pre_c: also clip the gradients, before the momentum; 0.1 in the code. None does not.
        scale: $\alpha$, a rule of `stiefel.pieces.SCALES`.
        clip: method of `stiefel.linalg.soft_clip`: ``"newton_schulz"``, the paper's, which needs
            the largest singular value below about 20 c to be exact to 1e-3, or ``"exact"``.
        precision: of the products of ``"newton_schulz"``: ``"full"``, or ``"bfloat16"``, the code's
            (see `stiefel.linalg.soft_clip` for what it costs in accuracy). Around AdamW on a small
            GPT it ends at the same loss, at twice the learning rate (``benchmarks/race.py``).

    Defaults: c = 1 and $\alpha = \sqrt{\max(1, m/n)}$ are the code's; its published runs have
    c = 10.

    Paper and code: the theory clips hard, the code softly. The code clips a vector by its length,
    with a jump at c; here vectors go without.

    Raises:
        RecipeError: ``base`` is no recipe; neither ``c`` nor ``pre_c``; an unknown rule or method.
        HyperparameterError: a number out of its range.
    """
    base = given(adamw() if base is None else base, weight_decay)
    if c is None and pre_c is None:
        raise RecipeError("c and pre_c are both None, which clips nothing: give one of them")
    slots: dict[str, Any] = {"everywhere": False}
    if pre_c is not None:
        pre = SoftClip(Live("pre_c", pre_c, "positive"), clip, precision=precision)
        slots["momentum"] = _both(pre, base.momentum)
    if c is not None:
        post = SoftClip(Live("c", c, "positive"), clip, base.scale, precision)
        slots |= {"normalise": _both(base.normalise, post), "scale": ShapeScale(scale)}
    return wrapped("spectra", base, lr, **slots)


def _both(first: Piece, second: Piece) -> Piece:
    pieces = tuple(piece for piece in (first, second) if piece != IDENTITY)
    return Chain(pieces) if len(pieces) > 1 else pieces[0]
