"""Adam's denominator alone."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stiefel.piece import ENTRY, Live, Now, Scope, State, bias_correction, lerp_square_, zeros

__all__ = ["RMSProp"]


@dataclass(frozen=True)
class RMSProp:
    """``G / (sqrt(V / (1 - beta^t)) + eps)`` with ``V <- beta V + (1 - beta) G^2``.

    It is `Adam` with ``beta1 = 0``, without the memory of a first moment.

    State: ``v`` `[b, m, n]`.
    """

    beta: Live
    eps: Live
    scope: ClassVar[Scope] = ENTRY

    def init(self, like: Tensor) -> State:
        """A zero moment."""
        return {"v": zeros(like)}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """The bias-corrected quotient."""
        beta, v = now(self.beta), state["v"]
        lerp_square_(v, x, 1 - beta)
        return x / v.sqrt().div_(bias_correction(beta, now.step) ** 0.5).add_(now(self.eps))
