"""Shampoo's preconditioner: inverse roots of Kronecker factors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from stiefel.errors import RecipeError, check_choice
from stiefel.linalg import inv_root
from stiefel.linalg.roots import DAMPINGS
from stiefel.piece import (
    FAULTS,
    MATRIX,
    Live,
    Now,
    Scope,
    State,
    lerp_,
    nested,
    prefixed,
    rows,
    zeros,
)
from stiefel.pieces.fallback import fresh_faults, kept
from stiefel.pieces.frame import between
from stiefel.pieces.grafting import Graft
from stiefel.pieces.kronecker import Kronecker, identity, sides
from stiefel.pieces.triangle import unpack

__all__ = ["Roots"]

POWERS = (2, 4)


@dataclass(frozen=True)
class Roots:
    """``M -> L^(-1/p) M R^(-1/p)`` of the mean M of the gradients, as long as ``graft`` says.

    Factors learn before their use, and roots are taken before their use whenever the clock is up.
    A root that fails is not taken; a factor that has seen zeros only has the root 1.

    Args:
        beta: ``M <- beta M + (1 - beta) G``, corrected for its bias.
        factors: L and R of the gradients. A side without a factor is left alone.
        power: p, 4 or 2.
        damping: rule of `stiefel.linalg.inv_root`.
        eps: its number.
        graft: whose length the result takes.
        every: the clock.

    State: ``m`` `[b, m, n]`; that of ``factors``; roots ``PL`` and ``PR``, `[b, k, s, s]`;
    ``faults`` `[b]`; the graft's own under ``graft``.
    """

    beta: Live
    factors: Kronecker
    power: int
    damping: str
    eps: Live
    graft: Graft
    every: Live
    scope: ClassVar[Scope] = MATRIX

    def __post_init__(self) -> None:
        for name, value, known in (
            ("power", self.power, POWERS),
            ("damping", self.damping, tuple(DAMPINGS)),
        ):
            check_choice(name, value, known, RecipeError)

    def init(self, like: Tensor) -> State:
        """Nothing seen, roots 1."""
        factors = self.factors.init(like)
        roots = {f"P{side}": identity(A, A.dtype) for side, A in factors.items()}
        graft = prefixed("graft", self.graft.init(like))
        return {"m": zeros(like), **factors, **roots, FAULTS: fresh_faults(like), **graft}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """The preconditioned mean."""
        self.factors.learn(x, state, now)
        for some in now.due:
            self._refresh(rows(state, some), now)
        beta = now(self.beta)
        mean = lerp_(state["m"], x, 1 - beta) / (1 - beta**now.step)
        moved = between(state.get("PL"), mean, state.get("PR"))
        return self.graft(moved, mean, x, nested("graft", state), now)

    def _refresh(self, state: State, now: Now) -> None:
        compute = partial(self._root, bias=self.factors.bias(now), eps=now(self.eps))
        for side in sides(state):
            root = state[f"P{side}"]
            root.copy_(kept(compute, unpack(state[side]), root, state[FAULTS]))

    def _root(self, A: Tensor, bias: float, eps: float) -> Tensor:
        root = inv_root(A / bias, self.power, damping=self.damping, epsilon=eps)
        seen = (A != 0).flatten(2).any(-1)[..., None, None]
        return torch.where(seen, root, torch.eye(A.shape[-1], dtype=A.dtype, device=A.device))
