"""Muon's direction: the polar factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stiefel.linalg import polar
from stiefel.linalg.methods import Method, NewtonSchulz, find
from stiefel.piece import MATRIX, Live, Now, Scope, State

__all__ = ["Orthogonalise"]


@dataclass(frozen=True)
class Orthogonalise:
    """``X -> polar(X)``: steepest descent under the spectral norm, every singular value becomes 1.

    Args:
        method: value of ``method`` in `stiefel.linalg.polar`.
        steps: the number of Newton-Schulz steps; None for a method whose own number depends on
            the matrix, and for an exact one, which has none.
    """

    method: str | Method
    steps: Live | None
    scope: ClassVar[Scope] = MATRIX

    @classmethod
    def by(cls, method: str | Method, ns_steps: int | None) -> Orthogonalise:
        """With ``ns_steps`` as the live number of steps; None is the method's own.

        Raises:
            RecipeError: unknown method.
            HyperparameterError: a number of steps that is none.
        """
        chosen = find(method)
        given = None if ns_steps is None else Live("ns_steps", ns_steps, "count")
        if not isinstance(chosen, NewtonSchulz):
            return cls(method, None)
        if given is None and not chosen.small:
            given = Live("ns_steps", chosen.table.steps, "count")
        return cls(method, given)

    def init(self, like: Tensor) -> State:
        """No state."""
        return {}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """The stack of polar factors."""
        return polar(x, method=self.method, steps=now(self.steps) if self.steps else None)
