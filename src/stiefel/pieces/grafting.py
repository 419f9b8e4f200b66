"""Grafting: the direction of one method, the length of another's step (arXiv 2002.11803)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from stiefel.piece import Live, Now, State, bias_correction, lerp_square_, zeros
from stiefel.pieces.unit import over

__all__ = ["AdamLength", "Graft", "MeanLength", "OwnLength", "as_long_as"]


class Graft(Protocol):
    """Gives a stack of directions their lengths, measured by the Frobenius norm."""

    def init(self, like: Tensor) -> State:
        """What it remembers of stacks like this one `[b, m, n]`."""
        ...

    def __call__(self, x: Tensor, mean: Tensor, grad: Tensor, state: State, now: Now) -> Tensor:
        """``x`` `[b, m, n]`, made of the ``mean`` of the gradients, at its length."""
        ...


@dataclass(frozen=True)
class OwnLength:
    """No grafting."""

    def init(self, like: Tensor) -> State:
        """No state."""
        return {}

    def __call__(self, x: Tensor, mean: Tensor, grad: Tensor, state: State, now: Now) -> Tensor:
        """``x`` itself."""
        return x


@dataclass(frozen=True)
class MeanLength:
    """The length of the mean: that of SGD with momentum."""

    def init(self, like: Tensor) -> State:
        """No state."""
        return {}

    def __call__(self, x: Tensor, mean: Tensor, grad: Tensor, state: State, now: Now) -> Tensor:
        """``x`` as long as ``mean``."""
        return as_long_as(x, mean)


@dataclass(frozen=True)
class AdamLength:
    """The length of Adam's step with the same mean.

    State: ``v`` `[b, m, n]`, the mean of squared gradients.
    """

    beta: Live
    eps: Live

    def init(self, like: Tensor) -> State:
        """A zero mean."""
        return {"v": zeros(like)}

    def __call__(self, x: Tensor, mean: Tensor, grad: Tensor, state: State, now: Now) -> Tensor:
        """``x`` as long as ``mean / (sqrt(V) + eps)``, V corrected for its bias."""
        beta = now(self.beta)
        v = lerp_square_(state["v"], grad, 1 - beta)
        root = v.sqrt().mul_(bias_correction(beta, now.step) ** -0.5).add_(now(self.eps))
        return as_long_as(x, mean / root)


def as_long_as(x: Tensor, other: Tensor) -> Tensor:
    """``x`` with the Frobenius norms of ``other``; what is zero stays zero."""
    return over(x, _length(x)) * _length(other)


def _length(x: Tensor) -> Tensor:
    return x.square().sum((-2, -1), keepdim=True).sqrt()
