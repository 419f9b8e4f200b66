"""The last slot: move the weight."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stiefel.piece import ENTRY, Live, Now, Scope, State

__all__ = ["DecoupledDecay"]


@dataclass(frozen=True)
class DecoupledDecay:
    """``W <- (1 - lr * weight_decay) W - lr * scale(m, n) * X``.

    The decay uses ``lr`` without the scale rule, as Moonlight and torch.optim.Muon do.
    """

    weight_decay: Live
    scope: ClassVar[Scope] = ENTRY

    def init(self, like: Tensor) -> State:
        """No state."""
        return {}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """Decay and move ``now.weight`` in place."""
        weight, decay = now.weight, now(self.weight_decay)
        if isinstance(decay, Tensor) or decay != 0:
            weight.mul_(1 - now.lr * decay)
        if isinstance(now.step_size, Tensor):  # a tensor lr must stay on its device: no float()
            return weight.sub_(x * now.step_size)
        return weight.add_(x, alpha=-now.step_size)
