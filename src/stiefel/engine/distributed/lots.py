"""Which rectangles go where: from the shards of a gradient to the owners of its matrices and back.

A rank takes every rectangle from its own replica: that spreads the senders evenly, and keeps the
traffic of the gradients inside a replica. What the owner made of them goes to all replicas.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch

from stiefel.engine.distributed.layout import Box, Layout
from stiefel.engine.distributed.owners import owners
from stiefel.engine.distributed.routes import Place, Transit
from stiefel.engine.distributed.units import Unit, units
from stiefel.views import View

__all__ = ["Lot", "LotKey", "deal", "gathered", "returned"]

LotKey: TypeAlias = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Lot:
    """A unit of a parameter, and the rank that owns it.

    Attributes:
        parameter: number of the parameter.
        place: number of the unit in it.
        layout: how the parameter lies on its ranks.
        unit: the rectangle and its matrices.
        owner: the rank that steps it and keeps its state.
    """

    parameter: int
    place: int
    layout: Layout
    unit: Unit
    owner: int

    @property
    def key(self) -> LotKey:
        """Its name among all lots."""
        return self.parameter, self.place

    @property
    def at_home(self) -> bool:
        """Whether its owner holds all of it already."""
        return self.owner in self.unit.holders

    @property
    def home(self) -> Box:
        """Where it lies in the tensor of an owner who holds all of it."""
        met = (patch.meets(self.unit.box) for patch in self.layout.patches(self.owner))
        return next(m.local for m in met if m and m.whole == self.unit.box)


def deal(
    matrices: Iterable[tuple[View, Layout]], loads: list[int], first: int = 0
) -> list[tuple[Lot, ...]]:
    """The lots of parameters with their owners, found for all at once: that balances best.

    Args:
        matrices: how each parameter is seen, and how it lies.
        loads: see `stiefel.engine.distributed.owners.owners`.
        first: number of the first parameter.
    """
    cuts = [(layout, units(view, layout)) for view, layout in matrices]
    chosen = iter(owners([unit for _, cut in cuts for unit in cut], loads))
    return [
        tuple(Lot(number, i, layout, unit, next(chosen)) for i, unit in enumerate(cut))
        for number, (layout, cut) in enumerate(cuts, first)
    ]


def gathered(lot: Lot, me: int, kind: str, dtype: torch.dtype) -> Iterator[Transit]:
    """What rank ``me`` has to do with bringing a lot's shards to its owner.

    Args:
        lot: the lot; nothing moves to an owner who holds it already.
        me: the rank.
        kind: shards are called ``(kind, parameter)``, the whole ``(kind, lot.key)``.
        dtype: on the wire.
    """
    replica = lot.layout.replica(lot.owner)
    for rank, shard, box in _overlaps(lot, me):
        if lot.layout.replica(rank) == replica and not lot.at_home:
            source = Place(rank, (kind, lot.parameter), shard)
            yield Transit(source, Place(lot.owner, (kind, lot.key), box), dtype)


def returned(lot: Lot, me: int, kind: str, dtype: torch.dtype) -> Iterator[Transit]:
    """What rank ``me`` has to do with bringing an owner's result to every shard; see `gathered`."""
    for rank, shard, box in _overlaps(lot, me):
        if not (lot.at_home and rank == lot.owner):
            target = Place(rank, (kind, lot.parameter), shard)
            yield Transit(Place(lot.owner, (kind, lot.key), box), target, dtype)


def _overlaps(lot: Lot, me: int) -> Iterator[tuple[int, Box, Box]]:
    """Rank, place in its shard, place in the lot: for the owner of all ranks, else of me."""
    for rank in lot.layout.ranks if me == lot.owner else (me,):
        for patch in lot.layout.patches(rank):
            if met := patch.meets(lot.unit.box):
                yield rank, met.local, met.whole.within(lot.unit.box)
