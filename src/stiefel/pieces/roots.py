"""Shampoo's preconditioner: inverse roots of Kronecker factors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from stiefel.errors import RecipeError, check_choice
from stiefel.linalg import inv_root
from stiefel.linalg.roots import DAMPINGS, inv_root_in_basis
from stiefel.piece import (
    FAULTS,
    MATRIX,
    Live,
    Now,
    Scope,
    State,
    bias_correction,
    lerp_,
    nested,
    prefixed,
    rows,
    zeros,
)
from stiefel.pieces.fallback import fresh_faults, kept
from stiefel.pieces.frame import between
from stiefel.pieces.grafting import Graft
from stiefel.pieces.kronecker import Kronecker, first_basis, highest_rank, identity, sides
from stiefel.pieces.triangle import unpack

__all__ = ["Roots"]

POWERS = (2, 4)
# By how the eigenvectors are found: what is kept of each side, roots P and bases Q.
KINDS = {"eigh": "P", "qr": "PQ"}


@dataclass(frozen=True)
class Roots:
    """``M -> L^(-1/p) M R^(-1/p)`` of the mean M of the gradients, as long as ``graft`` says.

    Factors learn before their use, and roots are taken before their use whenever the clock is up.
    A root that fails is not taken; a factor that has seen zeros only has the root 1.

    Args:
        beta: ``M <- beta M + (1 - beta) G``, corrected for its bias.
        factors: L and R of the gradients. A side without a factor is left alone. Roots have the
            dtype of its ``precision``.
        power: p, 4 or 2.
        damping: rule of `stiefel.linalg.inv_root`.
        eps: its number.
        graft: whose length the result takes.
        every: the clock.
        eigenvectors: ``"eigh"`` of the factor; or ``"qr"``, one step of orthogonal iteration from
            the last ones, whose Rayleigh quotients then stand for the eigenvalues.

    State: ``m`` `[b, m, n]`; that of ``factors``; roots ``PL`` and ``PR``, `[b, k, s, s]`, and with
    ``"qr"`` bases ``QL`` and ``QR`` like them; ``faults`` `[b]`; the graft's own under ``graft``.
    """

    beta: Live
    factors: Kronecker
    power: int
    damping: str
    eps: Live
    graft: Graft
    every: Live
    eigenvectors: str = "eigh"
    scope: ClassVar[Scope] = MATRIX

    def __post_init__(self) -> None:
        for name, value, known in (
            ("power", self.power, POWERS),
            ("damping", self.damping, tuple(DAMPINGS)),
            ("eigenvectors", self.eigenvectors, tuple(KINDS)),
        ):
            check_choice(name, value, known, RecipeError)
        if (self.eigenvectors, self.damping) == ("qr", "pseudo"):
            raise RecipeError(
                "damping='pseudo' with eigenvectors='qr': vectors on their way cannot tell a zero "
                "eigenvalue from a small one; take eigenvectors='eigh', or another damping"
            )

    def init(self, like: Tensor) -> State:
        """Nothing seen, roots and bases 1."""
        factors, dtype = self.factors.init(like), self.factors.dtype(like)
        ones = {
            f"{kind}{side}": identity(A, dtype)
            for side, A in factors.items()
            for kind in KINDS[self.eigenvectors]
        }
        graft = prefixed("graft", self.graft.init(like))
        return {"m": zeros(like), **factors, **ones, FAULTS: fresh_faults(like), **graft}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """The preconditioned mean."""
        self.factors.learn(x, state, now)
        for some in now.due:
            self._refresh(rows(state, some), now, highest_rank(x, now))
        beta = now(self.beta)
        mean = lerp_(state["m"], x, 1 - beta) / bias_correction(beta, now.step)
        moved = between(state.get("PL"), mean, state.get("PR"))
        return self.graft(moved, mean, x, nested("graft", state), now)

    def _refresh(self, state: State, now: Now, rank: int) -> None:
        """A root and its basis are taken together or not at all."""
        for side in sides(state):
            own = [state[f"{kind}{side}"] for kind in KINDS[self.eigenvectors]]
            renewed = partial(self._renewed, Q=own[-1], now=now, rank=rank)
            found = kept(renewed, unpack(state[side]), torch.stack(own, 1), state[FAULTS])
            for past, new in zip(own, found.unbind(1), strict=True):
                past.copy_(new)

    def _renewed(self, A: Tensor, Q: Tensor, now: Now, rank: int) -> Tensor:
        """Root, and basis where it is kept, `[b, 1, k, s, s]` or `[b, 2, k, s, s]`."""
        fresh, eps = A / self.factors.bias(now), now(self.eps)
        found: list[Tensor] = []
        if self.eigenvectors == "eigh":
            root = inv_root(fresh, self.power, damping=self.damping, epsilon=eps)
        else:
            found = [self._basis(A, Q, now, rank)]
            root = inv_root_in_basis(fresh, found[0], self.power, self.damping, eps)
        seen = (A != 0).flatten(2).any(-1)[..., None, None]
        one = torch.eye(A.shape[-1], dtype=root.dtype, device=A.device)
        return torch.stack([torch.where(seen, root, one), *found], 1)

    def _basis(self, A: Tensor, Q: Tensor, now: Now, rank: int) -> Tensor:
        """The first eigenvectors, then a step from the last ones."""
        if now.step == 1:
            return first_basis(A, rank).to(Q.dtype)
        return self.factors.continued(A, Q, rank).basis.to(Q.dtype)
