"""Momentum: an average of past gradients."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stiefel.piece import ENTRY, Live, Now, Scope, State, lerp, lerp_, zeros

__all__ = ["Momentum"]


@dataclass(frozen=True)
class Momentum:
    """Exponential average ``M <- beta M + (1 - beta) G``, with Nesterov ``(1 - beta) G + beta M``.

    The sum form ``M <- beta M + G`` is this one divided by ``1 - beta``; after any map that ignores
    a positive factor (polar, sign) the two are the same method.

    State: ``m`` `[b, m, n]`.
    """

    beta: Live
    nesterov: Live | None = None
    scope: ClassVar[Scope] = ENTRY

    def init(self, like: Tensor) -> State:
        """A zero average."""
        return {"m": zeros(like)}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """The averaged gradient."""
        beta, m = now(self.beta), state["m"]
        lerp_(m, x, 1 - beta)
        return lerp(x, m, beta) if self.nesterov and now(self.nesterov) else m
