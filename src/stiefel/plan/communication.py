"""What a plan costs on many ranks: bytes, work and state, told without running anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TypeAlias

import torch

from stiefel.engine.bucket import compute_dtype, initial_state
from stiefel.engine.distributed.layout import Cut, Layout
from stiefel.engine.distributed.lots import Lot, deal
from stiefel.engine.distributed.orders import Manner, checked_wire, gathers, manner
from stiefel.errors import HyperparameterError
from stiefel.plan.entry import Entry

__all__ = ["Communication", "Cuts", "communication"]

# For every axis of the mesh the axis of the tensor that it shards; None where it holds replicas.
Cuts: TypeAlias = Sequence[int | None] | Callable[[Entry], Sequence[int | None]]


@dataclass(frozen=True)
class Communication:
    """A step on many ranks; all sums are over all of them.

    Attributes:
        gathered: bytes that go to the owners.
        returned: bytes that come back to the shards.
        work: FLOPs of ``X X^T X`` for the matrices of every rank, the unit of a Newton-Schulz step.
        state: bytes of optimiser state on every rank.
        all_gather: bytes if every rank gathered every gradient that a matrix recipe steps instead.
        matrices: how many those are.
        at_home: how many of them lie whole on their owner, and move nowhere.
    """

    gathered: int
    returned: int
    work: tuple[int, ...]
    state: tuple[int, ...]
    all_gather: int
    matrices: int
    at_home: int

    @property
    def bytes(self) -> int:
        """Of a whole step."""
        return self.gathered + self.returned

    def __str__(self) -> str:
        """Per rank, in MiB and TFLOP, the largest and the mean."""
        ranks = len(self.work)
        mebi = 2**20 * ranks
        return (
            f"{ranks} ranks, each on average: {self.gathered / mebi:,.1f} MiB to owners, "
            f"{self.returned / mebi:,.1f} back (an all-gather: {self.all_gather / mebi:,.1f}), "
            f"state {sum(self.state) / mebi:,.1f} MiB (largest {_over(self.state)}), "
            f"work {sum(self.work) / ranks / 1e12:,.3f} TFLOP (largest {_over(self.work)}); "
            f"{self.at_home:,} of {self.matrices:,} matrices stay where they are"
        )


def _over(parts: Sequence[int]) -> str:
    """How far the largest is above the mean."""
    mean = sum(parts) / len(parts)
    return f"{max(parts) / mean - 1:+.0%}" if mean else "+0%"


def communication(
    groups: Iterable[Sequence[Entry]], mesh: Sequence[int], cuts: Cuts, wire: torch.dtype | None
) -> Communication:
    """See `stiefel.plan.Plan.communication`; ``groups`` are the optimiser's, in its order."""
    ranks, wire = _ranks(mesh), checked_wire(wire)
    loads, state = [0] * ranks, [0] * ranks
    dealt: list[tuple[Entry, tuple[Lot, ...]]] = []
    for group in groups:
        layouts = [_layout(entry, tuple(mesh), cuts) for entry in group]
        if group[0].by_matrix:
            dealt.extend(zip(group, _deal(group, layouts, loads), strict=True))
        else:
            _spread(group, layouts, state)
    for entry, lots in dealt:
        _add_state(entry, lots, state)
    moved = [_bytes(entry, lots, wire) for entry, lots in dealt]
    every = [lot for _, lots in dealt for lot in lots]
    return Communication(
        gathered=sum(there for there, _ in moved),
        returned=sum(back for _, back in moved),
        work=tuple(4 * load for load in loads),
        state=tuple(state),
        all_gather=sum(_all_gather(entry, lot) for entry, lots in dealt for lot in lots),
        matrices=sum(_matrices(lot) for lot in every),
        at_home=sum(_matrices(lot) for lot in every if lot.at_home),
    )


def _ranks(mesh: Sequence[int]) -> int:
    if not isinstance(mesh, Sequence) or not mesh or min(mesh) < 1:
        raise HyperparameterError(
            f"mesh={mesh!r} is none: give the number of ranks along each axis, such as (2, 8)"
        )
    return prod(mesh)


def _layout(entry: Entry, mesh: tuple[int, ...], cuts: Cuts) -> Layout:
    chosen = tuple(cuts(entry) if callable(cuts) else cuts)
    if len(chosen) != len(mesh):
        raise HyperparameterError(
            f"cuts {chosen} of {entry.name} do not fit the mesh {mesh}: give for each of its axes "
            "the axis of the tensor that it shards, or None"
        )
    last = len(entry.shape) - 1
    found = (None if axis is None or last < 0 else Cut(min(axis, last)) for axis in chosen)
    return Layout(entry.shape, mesh, tuple(found))


def _deal(
    group: Sequence[Entry], layouts: Sequence[Layout], loads: list[int]
) -> list[tuple[Lot, ...]]:
    seen = zip(group, layouts, strict=True)
    return deal(((entry.view, layout) for entry, layout in seen if entry.view), loads)


def _bytes(entry: Entry, lots: Sequence[Lot], wire: torch.dtype | None) -> tuple[int, int]:
    """Of a parameter, there and back; what an owner holds anyway does not travel."""
    alike = {lot.at_home: lot for lot in lots}
    rates = {at_home: _rates(entry, lot, wire) for at_home, lot in alike.items()}
    there = back = 0
    for lot in lots:
        met = (patch.meets(lot.unit.box) for patch in lot.layout.patches(lot.owner))
        own, numel = sum(patch.whole.numel for patch in met if patch), lot.unit.box.numel
        there += rates[lot.at_home][0] * (numel - own)
        back += rates[lot.at_home][1] * (numel * lot.layout.copies - own)
    return there, back


def _all_gather(entry: Entry, lot: Lot) -> int:
    lacking = len(lot.layout.ranks) - lot.layout.copies
    return lacking * lot.unit.box.numel * entry.parameter.itemsize


def _matrices(lot: Lot) -> int:
    return sum(prod(block.batch) for block in lot.unit.view.blocks)


def _rates(entry: Entry, lot: Lot, wire: torch.dtype | None) -> tuple[int, int]:
    """Bytes of an entry on its way to the owner, and back."""
    how, dtype = manner(lot, entry.recipe, first=False), entry.parameter.dtype
    to = sum(d.itemsize for d in gathers(how, entry.recipe, dtype, dtype, wire).values())
    result = compute_dtype(dtype) if how is Manner.UPDATE else dtype
    if how is Manner.UPDATE and wire:
        result = min(result, wire, key=lambda d: d.itemsize)
    return to, result.itemsize


def _add_state(entry: Entry, lots: Sequence[Lot], state: list[int]) -> None:
    """An owner has the state of its lots; lots that are seen alike have as much."""
    alike = {lot.unit.view: lot for lot in lots}
    sizes = {view: _state(entry, lot) for view, lot in alike.items()}
    for lot in lots:
        state[lot.owner] += sizes[lot.unit.view]


def _state(entry: Entry, lot: Lot) -> int:
    blank = torch.empty((), dtype=entry.parameter.dtype, device="meta").expand(lot.unit.box.shape)
    return _size(initial_state(blank, lot.unit.view, entry.recipe, "meta"))


def _spread(group: Sequence[Entry], layouts: Sequence[Layout], state: list[int]) -> None:
    """Elementwise state lies where the entries lie."""
    for entry, layout in zip(group, layouts, strict=True):
        whole = _size(initial_state(entry.parameter, entry.view, entry.recipe, "meta"))
        for rank, entries in enumerate(_entries(layout)):
            state[rank] += whole * entries // max(1, prod(layout.shape))


@cache
def _entries(layout: Layout) -> tuple[int, ...]:
    """How many every rank holds."""
    return tuple(prod(layout.local_shape(rank)) for rank in layout.ranks)


def _size(state: dict[str, torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for name, t in state.items() if name != "step")
