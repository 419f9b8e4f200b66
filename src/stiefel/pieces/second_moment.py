"""Adam's denominator after the polar map, and what it does to the size of the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.linalg import vector_norm

from stiefel.errors import RecipeError, check_choice
from stiefel.piece import MATRIX, Live, Now, Scope, State, lerp_, lerp_square_, zeros
from stiefel.pieces.norms import frobenius
from stiefel.pieces.unit import over

__all__ = ["NORMS", "Renormalised", "SecondMoment"]

NORMS: tuple[str, ...] = ("fixed", "kept")


@dataclass(frozen=True)
class SecondMoment:
    """``X / (sqrt(V) + eps)`` with ``V <- beta V + (1 - beta) X^2``, by entry or by row.

    By row, V holds the mean of the squares of each row: one number a neuron.

    State: ``v``, `[b, m, n]` or `[b, m, 1]`.
    """

    beta: Live
    eps: Live
    by_row: bool
    scope: ClassVar[Scope] = MATRIX

    def init(self, like: Tensor) -> State:
        """A zero average."""
        return {"v": zeros(like[..., :1] if self.by_row else like)}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """The quotient, not corrected for the bias of V."""
        if self.by_row:
            return over(x, self.row_divisors(_lengths(x), x.shape[-1], state, now))
        lerp_square_(state["v"], x, 1 - now(self.beta))
        root, tiny = self._root(state, now), torch.finfo(x.dtype).tiny
        if isinstance(eps := now(self.eps), Tensor) or eps < tiny:
            root.clamp_min_(tiny)
        return torch.div(x, root, out=root)

    def row_divisors(self, lengths: Tensor, n: int, state: State, now: Now) -> Tensor:
        """What the rows are divided by, `[b, m, 1]`, given how long they are."""
        lerp_(state["v"], lengths.square() / n, 1 - now(self.beta))
        return self._root(state, now)

    def _root(self, state: State, now: Now) -> Tensor:
        return state["v"].sqrt().add_(now(self.eps))


@dataclass(frozen=True)
class Renormalised:
    """The result of a piece, with the Frobenius norm of a polar factor.

    Args:
        inner: the piece; the state is its.
        norm: ``"fixed"``, the norm ``sqrt(min(m, n))`` of an exact polar factor of full rank, so
            that a rule of `SCALES` gives exactly the RMS that it says; or ``"kept"``, the norm of
            the input.

    Raises:
        RecipeError: unknown norm.
    """

    inner: SecondMoment
    norm: str
    scope: ClassVar[Scope] = MATRIX

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, NORMS, RecipeError)

    def init(self, like: Tensor) -> State:
        """The inner piece's."""
        return self.inner.init(like)

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """The rescaled result; zero stays zero."""
        m, n = x.shape[-2:]
        if not self.inner.by_row:
            y = self.inner(x, state, now)
            return y.mul_(self._factor(x, y, min(m, n)))
        # The lengths of the rows tell all norms: two passes over the matrix instead of four.
        lengths = _lengths(x)
        divisors = self.inner.row_divisors(lengths, n, state, now)
        factor = self._factor(lengths, over(lengths, divisors), min(m, n))
        return x * over(factor, divisors)

    def _factor(self, before: Tensor, after: Tensor, rank: int) -> Tensor:
        """What gives ``after`` the wanted norm."""
        size = frobenius(after)
        wanted = frobenius(before) if self.norm == "kept" else torch.full_like(size, rank**0.5)
        return over(wanted, size)


def _lengths(x: Tensor) -> Tensor:
    """Of the rows, `[b, m, 1]`."""
    lengths: Tensor = vector_norm(x, dim=-1, keepdim=True)
    return lengths
