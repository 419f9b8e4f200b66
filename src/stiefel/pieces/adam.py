"""Adam's elementwise preconditioner."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from stiefel.errors import RecipeError, check_choice
from stiefel.piece import (
    ENTRY,
    Live,
    Now,
    Scope,
    State,
    bias_correction,
    lerp_,
    lerp_square_,
    zeros,
)
from stiefel.pieces.frame import Turn

__all__ = ["CORRECTIONS", "Adam"]

# How the bias of both averages is corrected, by name: what multiplies ``sqrt(V)`` and ``eps`` in
# the denominator, from ``c1 = 1 - beta1^t`` and ``c2 = 1 - beta2^t``.
CORRECTIONS: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    # Each average by itself, before eps is added: Adam (arXiv 1412.6980).
    "moments": lambda c1, c2: (c1 / c2**0.5, c1),
    # The quotient M / (sqrt(V) + eps) as a whole: the codes of SOAP, GaLore and Conda.
    "quotient": lambda c1, c2: (c1 / c2**0.5, c1 / c2**0.5),
    # Not at all: KL-SOAP.
    "none": lambda c1, c2: (1.0, 1.0),
}


@dataclass(frozen=True)
class Adam:
    """``M / (1 - beta1^t)`` over ``sqrt(V / (1 - beta2^t)) + eps``, with
    ``M <- beta1 M + (1 - beta1) G`` and ``V <- beta2 V + (1 - beta2) G^2``.

    Args:
        betas: both.
        eps: added to the root.
        correction: a rule of `CORRECTIONS`; the formula above is ``"moments"``.

    State: ``m`` and ``v``, both `[b, m, n]`.
    """

    betas: Live
    eps: Live
    correction: str = "moments"
    scope: ClassVar[Scope] = ENTRY

    def __post_init__(self) -> None:
        check_choice("correction", self.correction, CORRECTIONS, RecipeError)

    def init(self, like: Tensor) -> State:
        """Zero moments."""
        return {"m": zeros(like), "v": zeros(like)}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """The bias-corrected quotient."""
        beta1, beta2 = now(self.betas)
        m, v = state["m"], state["v"]
        lerp_(m, x, 1 - beta1)
        lerp_square_(v, x, 1 - beta2)
        # Both bias corrections go into the denominator: one pass over memory less.
        corrections = bias_correction(beta1, now.step), bias_correction(beta2, now.step)
        on_root, on_eps = CORRECTIONS[self.correction](*corrections)
        return m / v.sqrt().mul_(on_root).add_(now(self.eps) * on_eps)

    def turn(self, state: State, turn: Turn) -> None:
        """The basis in which the gradients come has turned.

        M turns along. V cannot, for it holds squares of entries: it keeps to the basis vectors.
        """
        state["m"].copy_(turn.linear(state["m"]))
        state["v"].copy_(turn.by_entry(state["v"]))
