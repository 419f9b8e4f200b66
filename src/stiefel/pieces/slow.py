"""Second weights that follow the trained ones: slow weights, and an average."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stiefel.errors import RecipeError
from stiefel.piece import Evaluated, Live, Now, Piece, Scope, State, lerp_, nested, prefixed

__all__ = ["Averaged", "Lookahead", "blank", "refuse_hidden", "start_", "started"]


def blank(like: Tensor) -> Tensor:
    """Second weights that have not started: infinite, which no weight is."""
    return torch.full_like(like, math.inf, memory_format=torch.contiguous_format)


def started(slow: Tensor, weight: Tensor) -> Tensor:
    """The second weights, which before their first use are the weight itself."""
    return torch.where(slow == math.inf, weight, slow)


def start_(slow: Tensor, weight: Tensor, step: Any) -> None:
    """`started` in place. Nothing to do from the third step on; a piece may have held the first
    (`stiefel.piece.Now.held`).
    """
    if isinstance(step, Tensor) or step <= 2:
        slow.copy_(started(slow, weight))


def refuse_hidden(outer: Piece, inner: Piece, seen: tuple[type, ...] = ()) -> None:
    """Refuse an inner piece with weights to evaluate at: only the outer one is asked for them.

    Args:
        outer: has such weights itself.
        inner: what it holds.
        seen: kinds of inner pieces that are welcome, because the training sees their weights.

    Raises:
        RecipeError: the inner piece's would be kept for nothing.
    """
    if isinstance(inner, Evaluated) and not isinstance(inner, seen):
        hidden, asked = type(inner).__name__, type(outer).__name__
        raise RecipeError(
            f"{hidden} inside {asked}: a model is evaluated at the weights of the outermost of "
            f"such wrappers, so nobody would see those of {hidden}: drop {hidden}"
        )


@dataclass(frozen=True)
class Lookahead:
    """``S <- S + rate (W - S)`` and ``W <- S`` after every so many steps of another last slot.

    Args:
        inner: the last slot that moves the weight.
        every: the number of its steps from one time to the next.
        rate: how far the slow weights S go.

    State: ``slow`` `[b, m, n]`, the weight before the first step, and the inner piece's under
    ``inner``.

    Raises:
        RecipeError: the inner piece, too, says where to evaluate, and is no Lookahead.
    """

    inner: Piece
    every: Live
    rate: Live

    def __post_init__(self) -> None:
        refuse_hidden(self, self.inner, seen=(Lookahead,))

    @property
    def scope(self) -> Scope:
        """The inner piece's."""
        return self.inner.scope

    def init(self, like: Tensor) -> State:
        """Slow weights that start with the first step."""
        return {"slow": blank(like), **prefixed("inner", self.inner.init(like))}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """Move ``now.weight`` in place, and bring it back where the time is up."""
        weight, slow = now.weight, state["slow"]
        start_(slow, weight, now.step)
        self.inner(x, nested("inner", state), now)
        up = now.step % now(self.every) == 0
        if isinstance(up, Tensor) or up:
            share = up * 1.0
            lerp_(slow, weight, share * now(self.rate))
            lerp_(weight, slow, share)
        return weight

    def evaluation(self, weight: Tensor, state: State, now: Now) -> Tensor:
        """The slow weights."""
        return started(state["slow"], weight)


@dataclass(frozen=True)
class Averaged:
    """``A <- decay A + (1 - decay) W`` after every step of another last slot.

    Args:
        inner: the last slot that moves the weight.
        decay: of the average.

    State: ``average`` `[b, m, n]`, the weight after the first step, and the inner piece's under
    ``inner``.

    Raises:
        RecipeError: the inner piece, too, says where to evaluate, and is no Lookahead.
    """

    inner: Piece
    decay: Live

    def __post_init__(self) -> None:
        refuse_hidden(self, self.inner, seen=(Lookahead,))

    @property
    def scope(self) -> Scope:
        """The inner piece's."""
        return self.inner.scope

    def init(self, like: Tensor) -> State:
        """An average that starts with the first step."""
        return {"average": blank(like), **prefixed("inner", self.inner.init(like))}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """Move ``now.weight`` in place as the inner piece does."""
        weight, average = now.weight, state["average"]
        self.inner(x, nested("inner", state), now)
        start_(average, weight, now.step)
        lerp_(average, weight, 1 - now(self.decay))
        return weight

    def evaluation(self, weight: Tensor, state: State, now: Now) -> Tensor:
        """The average."""
        return started(state["average"], weight)
