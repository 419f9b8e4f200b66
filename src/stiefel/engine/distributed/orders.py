"""How a lot is stepped, which depends on where its entries are and on the recipe's last slot.

* ``HOME``: its owner holds all of it, and steps the parameter itself. Replicas get the new weight.
* ``UPDATE``: its owner gathers the gradient and runs the recipe up to the last slot. The result,
  already scaled, returns to the shards, and these run the last slot.
* ``WEIGHT``: the owner gathers gradient and weight, runs the whole recipe, and returns the new
  weight. For recipes whose last slot has state or needs whole matrices, and for every first step,
  in which a piece may decide to leave the weight alone (`stiefel.piece.Now.held`).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from stiefel.engine.bucket import compute_dtype, grad_dtype
from stiefel.engine.distributed.lots import Lot, gathered, returned
from stiefel.engine.distributed.routes import Transit
from stiefel.engine.distributed.share import Share
from stiefel.errors import HyperparameterError
from stiefel.piece import ENTRY, Now, Scope, State
from stiefel.recipe import Recipe, ScaleRule

__all__ = ["Manner", "Order", "checked_wire", "gathers", "manner"]


WIRES = (torch.bfloat16, torch.float32, None)


class Manner(enum.Enum):
    """How a lot is stepped; see above."""

    HOME = "home"
    UPDATE = "update"
    WEIGHT = "weight"


def manner(lot: Lot, recipe: Recipe, first: bool) -> Manner:
    """How a lot is stepped, in its first step or later."""
    if lot.at_home:
        return Manner.HOME
    like = torch.empty(1, 1, 1, device="meta")
    on_shards = recipe.apply.scope is ENTRY and not recipe.apply.init(like)
    return Manner.UPDATE if on_shards and not first else Manner.WEIGHT


def gathers(
    how: Manner, recipe: Recipe, grad: torch.dtype, weight: torch.dtype, wire: torch.dtype | None
) -> dict[str, torch.dtype]:
    """What goes to the owner of a lot with such gradients and weights, and as what."""
    if how is Manner.HOME:
        return {}
    slots = (piece for slot, piece in recipe.slots() if slot != "apply")
    reads = how is Manner.WEIGHT or any(_reads_weight(piece) for piece in slots)
    return {"grad": _narrowed(grad, wire)} | ({"weight": weight} if reads else {})


def checked_wire(wire: torch.dtype | None) -> torch.dtype | None:
    """``wire`` itself.

    Raises:
        HyperparameterError: it has not float32's range. What overflows on the way would be an Inf
            after the guard has looked.
    """
    if wire not in WIRES:
        choices = ", ".join(map(str, WIRES))
        raise HyperparameterError(f"wire={wire!r} is not supported: give one of {choices}")
    return wire


def _narrowed(dtype: torch.dtype, wire: torch.dtype | None) -> torch.dtype:
    return wire if wire and wire.itemsize < dtype.itemsize else dtype


def _reads_weight(part: object) -> bool:
    """Whether a piece, or one inside it, says that it looks at the weight."""
    if isinstance(part, tuple):
        return any(_reads_weight(item) for item in part)
    if not is_dataclass(part):
        return False
    inside = any(_reads_weight(getattr(part, field.name)) for field in fields(part))
    return inside or getattr(part, "reads_weight", False)


@dataclass(frozen=True)
class Emit:
    """The last slot at an owner: the scaled update goes where the weight would be."""

    scale: ScaleRule | None
    scope: ClassVar[Scope] = ENTRY

    def init(self, like: Tensor) -> State:
        """No state."""
        return {}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """``s(m, n) x``."""
        factor = self.scale(*x.shape[-2:]) if self.scale else 1.0
        return now.weight.copy_(x * factor)


@dataclass(frozen=True)
class Order:
    """A lot in a step.

    Attributes:
        share: the parameter.
        lot: the unit of it, and its owner.
        whole: the whole recipe: the share's own, or one whose last slot has the same state.
        manner: how it is stepped.
        wire: the widest dtype for gradients and updates on the wire; None for their own.
    """

    share: Share
    lot: Lot
    whole: Recipe
    manner: Manner
    wire: torch.dtype | None

    @property
    def recipe(self) -> Recipe:
        """What the owner runs."""
        if self.manner is Manner.UPDATE:
            return replace(self.whole, apply=Emit(self.whole.scale))
        return self.whole

    @property
    def stand_in(self) -> Tensor:
        """What its owner steps in its place."""
        return self.share.owned[self.lot]

    @property
    def dtype(self) -> torch.dtype:
        """Of the stand-in: an update is not rounded to the precision of a 16-bit parameter."""
        own = self.share.parameter.dtype
        return compute_dtype(own) if self.manner is Manner.UPDATE else own

    @property
    def result(self) -> str:
        """What comes back."""
        return "update" if self.manner is Manner.UPDATE else "weight"

    def gathers(self) -> dict[str, torch.dtype]:
        """What goes to the owner, and as what."""
        own = self.share.parameter
        return gathers(self.manner, self.whole, grad_dtype(own), own.dtype, self.wire)

    def coming(self, me: int) -> Iterator[Transit]:
        """The way to the owner."""
        for kind, dtype in self.gathers().items():
            yield from gathered(self.lot, me, kind, dtype)

    def going(self, me: int) -> Iterator[Transit]:
        """The way back."""
        dtype = _narrowed(self.dtype, self.wire) if self.manner is Manner.UPDATE else self.dtype
        yield from returned(self.lot, me, self.result, dtype)
