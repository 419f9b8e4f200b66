"""PSGD's preconditioner: two factors that are fitted until they whiten the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stiefel.errors import HyperparameterError, RecipeError, check_choice
from stiefel.piece import MATRIX, Live, Now, Scope, State, lerp, lerp_, rows, zeros
from stiefel.pieces.noise import noise
from stiefel.pieces.numbers import larger
from stiefel.pieces.square import (
    between,
    dense,
    divided,
    gram,
    moment,
    norm,
    one,
    per_matrix,
    times,
)

__all__ = ["GEOMETRIES", "Whitened"]

# How a factor moves: ``dQ = Q^0.5 E Q^1.5`` on symmetric ones, which is ``dQ = E Q`` and a rotation
# back to symmetry; or ``dQ = E Q`` on upper triangular ones.
GEOMETRIES = ("Q0.5EQ1.5", "EQ")
# The longest rotation of a step: its exponential is cut after the square.
LONGEST_TURN = 1 / 8


@dataclass(frozen=True)
class Whitened:
    """``G -> PL M PR`` with a momentum M, and factors ``P = Q^T Q`` fitted to the gradients alone.

    ``PL (x) PR`` descends ``E[h^T P h + v^T P^-1 v]`` over gradients h and white noise v, whose
    minimum whitens: ``P E[h h^T] P = 1``. Each Q moves by ``E Q``, E being the difference of what
    it sees and what it wants to see, over the largest curvature that it met lately.

    A factor is a matrix or, of a side that is too long, its diagonal. P alone has a meaning, so
    both Q are kept of one size. The noise is a function of the step and the shape.

    Args:
        beta: M averages all gradients, and later the last ``1 / (1 - beta)`` or so.
        rate: by what share of itself a factor moves at most.
        memory: how slowly a large curvature is forgotten.
        damping: size of the noise that a gradient gets: P stays below its inverse.
        every: the clock of the factors.
        max_skew: a side of length d is too long where ``d^2 > max_skew m n``.
        geometry: of `GEOMETRIES`.

    State: ``m`` `[b, m, n]`, ``QL`` `[b, m, m]` or `[b, m]`, ``QR`` `[b, n, n]` or `[b, n]`, and
    ``roots`` `[b, 2]` of the curvatures, which themselves may leave float32.
    """

    beta: Live
    rate: Live
    memory: Live
    damping: Live
    every: Live
    max_skew: float
    geometry: str
    scope: ClassVar[Scope] = MATRIX

    def __post_init__(self) -> None:
        check_choice("geometry", self.geometry, GEOMETRIES, RecipeError)
        if not (isinstance(self.max_skew, int | float) and self.max_skew >= 0):
            raise HyperparameterError(f"max_skew={self.max_skew!r} is out of range: give >= 0")

    def init(self, like: Tensor) -> State:
        """No momentum, factors 1."""
        QL, QR = (self._identity(like, size) for size in like.shape[1:])
        return {"m": zeros(like), "QL": QL, "QR": QR, "roots": like.new_zeros(len(like), 2)}

    def _identity(self, like: Tensor, size: int) -> Tensor:
        b, m, n = like.shape
        if size * size > self.max_skew * m * n:
            return like.new_ones(b, size)
        return torch.eye(size, dtype=like.dtype, device=like.device).repeat(b, 1, 1)

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """The whitened momentum, by factors that know this gradient."""
        m = lerp_(state["m"], x, larger(1 - now(self.beta), 1 / now.step))
        for some in now.due:
            own = rows(state, some)
            if now.step == 1:
                _start(x[some], own, now(self.damping))
            self._fit(x[some], own, now)
        return between(gram(state["QL"]), m, gram(state["QR"]))

    def _fit(self, x: Tensor, state: State, now: Now) -> None:
        """One step of both factors, each from where both were."""
        QL, QR, (left, right) = state["QL"], state["QR"], state["roots"].unbind(-1)
        V = noise(x.shape[1], x.shape[2], x, seed=now.step)
        damped = x + (now(self.damping) + torch.finfo(x.dtype).eps * x.abs()) * V
        if self.geometry == "EQ":
            seen, white = between(QL, damped, QR), divided(QL, V, QR)
            wanted = moment(white, QL), moment(white.mT, QR)
        else:
            seen = between(gram(QL), damped, gram(QR))
            wanted = one(QL) * x.shape[2], one(QR) * x.shape[1]
        self._move(QL, seen, wanted[0], left, now)
        self._move(QR, seen.mT, wanted[1], right, now)
        _balance(QL, QR)

    def _move(self, Q: Tensor, seen: Tensor, wanted: Tensor, root: Tensor, now: Now) -> None:
        """``Q <- Q - rate / curvature (seen seen^T - wanted) Q``, in a unit that is no less than
        any entry: a gradient that is suddenly large must not overflow.
        """
        unit = _largest(seen).maximum(root).clamp_min(1.0)
        found = moment(seen / unit.view(-1, 1, 1), Q)
        wanted = wanted / per_matrix(unit, Q) / per_matrix(unit, Q)
        size = norm(found + wanted)
        curvature = size.maximum(lerp(size, (root / unit).square(), now(self.memory)))
        root.copy_(curvature.sqrt() * unit)
        share = now(self.rate) / curvature.clamp_min(torch.finfo(Q.dtype).tiny)
        E = (found - wanted) * per_matrix(share, Q)
        triangular = dense(Q) and self.geometry == "EQ"
        Q.sub_(times(E.triu() if triangular else E, Q))
        if dense(Q) and not triangular:
            _turn_to_symmetry(Q)


def _start(x: Tensor, state: State, damping: float) -> None:
    """Factors that whiten the first gradient as far as a number can, by its fourth moment."""
    unit = _largest(x).clamp_min(max(damping, torch.finfo(x.dtype).tiny)).view(-1, 1, 1)
    fourth = (x / unit).pow(4).mean((-2, -1)) + (damping / unit.flatten()).pow(4)
    size = unit.flatten() * fourth**0.25
    for Q in (state["QL"], state["QR"]):
        Q.mul_(per_matrix(size**-0.25, Q))


def _turn_to_symmetry(Q: Tensor) -> None:
    """``Q <- exp(a R) Q`` with the skew ``R = (Q^T - Q) / |Q^T - Q|``, a step of the Procrustes
    problem ``max tr(U Q)`` over rotations U. The angle a is the top of the parabola
    ``tr Q + a tr(R Q) + a^2 tr(R^2 Q) / 2``, and `LONGEST_TURN` at most. P does not see it.
    """
    R = Q.mT - Q
    R = R / per_matrix(norm(R).clamp_min(torch.finfo(Q.dtype).tiny), Q)
    RQ = R @ Q
    RRQ = R @ RQ
    slope, bend = (X.diagonal(dim1=-2, dim2=-1).sum(-1) for X in (RQ, RRQ))
    angle = torch.where(bend < 0, (-slope / bend).clamp(max=LONGEST_TURN), LONGEST_TURN)
    angle = per_matrix(angle, Q)
    Q.add_(angle * (RQ + angle / 2 * RRQ))


def _balance(QL: Tensor, QR: Tensor) -> None:
    """Give both the same largest entry; their product stays."""
    ratio = (_largest(QL) / _largest(QR)).sqrt()
    QL.div_(per_matrix(ratio, QL))
    QR.mul_(per_matrix(ratio, QR))


def _largest(X: Tensor) -> Tensor:
    """The largest absolute entry of every matrix or diagonal, `[b]`."""
    return X.abs().flatten(1).amax(-1)
