"""Steps at one point, gradients at another, evaluation at a third."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from stiefel.piece import Live, Now, Piece, Scope, State, lerp, nested, prefixed
from stiefel.pieces.numbers import larger
from stiefel.pieces.slow import blank, refuse_hidden, start_, started

__all__ = ["ScheduleFree"]


@dataclass(frozen=True)
class ScheduleFree:
    """``Z <- Z + D``, ``X <- (1 - c) X + c Z``, and the weight ``Y = (1 - beta) Z + beta X``.

    D is the move that another last slot makes from Y, its decay included. ``c`` makes X the mean of
    all Z so far, those of the warm-up weighted by the squares of their learning rates. X is not
    kept: it follows from Y and Z.

    Args:
        inner: the last slot that makes the moves.
        beta: where Y lies between Z and X.
        warmup: number of steps in which the learning rate grows linearly to its value.

    State: ``z`` `[b, m, n]`, and the inner piece's under ``inner``.

    Raises:
        RecipeError: the inner piece, too, says where to evaluate.
    """

    inner: Piece
    beta: Live
    warmup: Live

    def __post_init__(self) -> None:
        refuse_hidden(self, self.inner)  # Lookahead, too: it would pull at Y, where no step ends

    @property
    def scope(self) -> Scope:
        """The inner piece's."""
        return self.inner.scope

    def init(self, like: Tensor) -> State:
        """A point Z that starts with the first step."""
        return {"z": blank(like), **prefixed("inner", self.inner.init(like))}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """Move ``now.weight``, which is Y, in place."""
        y, z, beta = now.weight, state["z"], now(self.beta)
        start_(z, y, now.step)
        rate, c = _rate_and_share(now.step, now(self.warmup))
        before = y.clone()
        slowed = replace(now, lr=now.lr * rate, step_size=now.step_size * rate)
        self.inner(x, nested("inner", state), slowed)
        move = y - before
        # X = (Y - (1 - beta) Z) / beta put into the three formulas above leaves Y and Z.
        y.copy_(lerp(before, z, c)).add_(move * (1 - beta * (1 - c)))
        z.add_(move)
        return y

    def evaluation(self, weight: Tensor, state: State, now: Now) -> Tensor:
        """X."""
        z = started(state["z"], weight)
        return lerp(weight, z, 1 - 1 / now(self.beta))


def _rate_and_share(step: Any, warmup: int) -> tuple[Any, Any]:
    """The warm-up's factor on the learning rate, and the share of this step's Z in the mean.

    Z weighs the square of the factor. The sum of these has a closed form, so that no count of it
    has to be kept: the pyramidal number of the warm-up, and one for each step after it.
    """
    after = larger(step - warmup, 0.0)
    ramp = step - after
    total = ramp * (ramp + 1) * (2 * ramp + 1) / (6 * warmup**2) + after
    rate = ramp / warmup
    return rate, rate**2 / total
