"""Adam's elementwise preconditioner."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stiefel.piece import ENTRY, Live, Now, Scope, State, lerp_, lerp_square_, zeros

__all__ = ["Adam"]


@dataclass(frozen=True)
class Adam:
    """``M / (1 - beta1^t)`` over ``sqrt(V / (1 - beta2^t)) + eps``, with
    ``M <- beta1 M + (1 - beta1) G`` and ``V <- beta2 V + (1 - beta2) G^2``.

    State: ``m`` and ``v``, both `[b, m, n]`.
    """

    betas: Live
    eps: Live
    scope: ClassVar[Scope] = ENTRY

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
        correction1, correction2 = 1 - beta1**now.step, 1 - beta2**now.step
        root = v.sqrt().mul_(correction1 / correction2**0.5).add_(now(self.eps) * correction1)
        return m / root
