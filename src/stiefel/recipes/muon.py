"""Muon: momentum, orthogonalised."""

from __future__ import annotations

from torch import Tensor

from stiefel.piece import Live
from stiefel.pieces import DecoupledDecay, Momentum, Orthogonalise, ShapeScale
from stiefel.recipe import Recipe

__all__ = ["muon"]


def muon(
    *,
    lr: float | Tensor | None = None,
    momentum: float = 0.95,
    nesterov: bool = True,
    weight_decay: float = 0.1,
    polar: str = "polar_express",
    ns_steps: int | None = None,
    scale: str = "match_rms_adamw",
) -> Recipe:
    r"""Muon (K. Jordan et al., 2024) with the learning-rate unit of Moonlight (arXiv 2502.16982).

    For a matrix W `[m, n]` with gradient G:

    $$ M \leftarrow \mu M + (1-\mu) G, \qquad U = (1-\mu) G + \mu M \ \text{(Nesterov)}, $$
    $$ W \leftarrow (1 - \eta\lambda) W - \eta\, s(m, n)\, \mathrm{polar}(U). $$

    Args:
        lr: $\eta$; None means the optimiser's. In the default unit an AdamW learning rate carries
            over: the update has RMS 0.2 lr on every matrix.
        momentum: $\mu$.
        nesterov: use $U$ above; otherwise $U = M$.
        weight_decay: $\lambda$, decoupled, multiplied by lr but not by $s$.
        polar: method of `stiefel.linalg.polar`: ``"jordan"`` (the five steps of torch.optim.Muon),
            ``"polar_express"``, ``"exact"``.
        ns_steps: number of Newton-Schulz steps (not used, and not in the group, for ``"exact"``).
        scale: $s(m, n)$, a rule of `stiefel.pieces.SCALES`: ``"match_rms_adamw"``
            ($0.2\sqrt{\max(m,n)}$, Moonlight), ``"original"`` ($\sqrt{\max(1, m/n)}$, Jordan and
            torch's default), ``"spectral"``, ``"unit_rms"``, ``"none"``.

    Defaults: momentum, Nesterov and steps are Jordan's; decay 0.1 is Moonlight's and torch's; the
    coefficients are Polar Express because at equal cost they come closer to the polar factor on
    real momentum matrices.

    Paper and code: the texts write the sum $M \leftarrow \mu M + G$, the code of Jordan and torch
    the average; after the polar map both are the same method.

    Raises:
        HyperparameterError: a number out of its range.
        RecipeError: unknown ``polar`` or ``scale``.
    """
    return Recipe(
        "muon",
        lr=lr,
        momentum=Momentum(
            beta=Live("momentum", momentum, "fraction"), nesterov=Live("nesterov", nesterov, "flag")
        ),
        direction=Orthogonalise.by(polar, ns_steps),
        scale=ShapeScale(scale),
        apply=DecoupledDecay(Live("weight_decay", weight_decay)),
    )
