"""What may be given to one rank: a tensor cut into slabs of whole matrices.

A matrix recipe needs whole matrices, so the smallest thing that one rank can own is a matrix: an
expert of a stack, a head, the q of a fused projection. In the tensor such a matrix is a slab
whenever a batch axis of the view, or the axis that the view cuts into blocks, comes first within
its axis of the tensor. Otherwise (a plain matrix, an interleaved layout) the tensor is one unit.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby, pairwise

from stiefel.engine.distributed.layout import Box, Layout
from stiefel.views import View

__all__ = ["Unit", "units"]


@dataclass(frozen=True)
class Unit:
    """A rectangle of a tensor that holds whole matrices.

    Attributes:
        box: where it lies in the tensor.
        view: the matrices in it.
        batch_axis: the axis of every block's batch along which the tensor was cut; None if none.
        first: for each block of ``view`` where it starts along that axis in the whole parameter.
        holders: the ranks that have all of it.
    """

    box: Box
    view: View
    batch_axis: int | None
    first: tuple[int, ...]
    holders: tuple[int, ...]

    @property
    def cost(self) -> int:
        """FLOPs of ``X X^T X`` for every matrix, up to a factor: what most recipes are made of."""
        return sum(block.numel * min(block.m, block.n) for block in self.view.blocks)

    def region(self, block: int, shape: Sequence[int]) -> Box:
        """Where a state tensor of a block lies in that of the whole parameter.

        Args:
            block: place of the block in ``view``.
            shape: shape of the unit's state at rest, ``(*batch, ...)``.
        """
        start = [0] * len(shape)
        if self.batch_axis is not None:
            start[self.batch_axis] = self.first[block]
        return Box(tuple(start), tuple(shape))


@dataclass(frozen=True)
class _Axis:
    """An axis of the tensor that may be cut.

    Attributes:
        axis: of the tensor.
        factor: its outermost factor in the view.
        inner: entries of the axis in one step of that factor.
        edges: the steps at which a cut leaves matrices whole, both ends included.
    """

    axis: int
    factor: int
    inner: int
    edges: tuple[int, ...]

    def box(self, whole: Box, first: int, last: int) -> Box:
        start, shape = list(whole.start), list(whole.shape)
        start[self.axis], shape[self.axis] = first * self.inner, (last - first) * self.inner
        return Box(tuple(start), tuple(shape))

    def inside(self, box: Box, whole: Box) -> range:
        """The slabs, counted edge by edge, that lie in a box."""
        others = (a for a in range(len(whole.shape)) if a != self.axis)
        if any(box.shape[a] != whole.shape[a] for a in others):
            return range(0)
        start, stop = box.start[self.axis], box.start[self.axis] + box.shape[self.axis]
        first = bisect_left(self.edges, -(-start // self.inner))
        return range(first, bisect_right(self.edges, stop // self.inner) - 1)


@cache
def units(view: View, layout: Layout) -> tuple[Unit, ...]:
    """The units of a tensor that is seen as ``view`` and lies as ``layout`` says.

    The axis to cut is the one along which most slabs are whole on some rank already: those stay
    where they are. Neighbours that the same ranks hold are one unit, or as many as there are ranks
    to share them.
    """
    if not layout.whole.numel:
        return ()
    whole = Unit(layout.whole, view, None, (0,) * len(view.blocks), _holders(layout))
    axes = list(_axes(view))
    if not axes:
        return (whole,)
    slabs = [_slabs(axis, layout) for axis in axes]
    best = max(range(len(axes)), key=lambda i: sum(bool(holders) for _, holders in slabs[i]))
    return tuple(_unit(view, layout, axes[best], *part) for part in _shared(slabs[best], layout))


def _axes(view: View) -> Iterator[_Axis]:
    factor = 0
    for axis, size in enumerate(view.shape):
        of_axis, product = [], 1
        while product < size:
            of_axis.append(factor)
            product *= view.factors[factor]
            factor += 1
        outer = next((f for f in of_axis if view.factors[f] > 1), None)
        edges = () if outer is None else _edges(view, outer)
        if outer is not None and len(edges) > 2:
            yield _Axis(axis, outer, size // view.factors[outer], edges)


def _edges(view: View, factor: int) -> tuple[int, ...]:
    """Where the outermost factor of an axis may be cut."""
    place = view.order.index(factor)
    if place < view.batch:
        return tuple(range(view.factors[factor] + 1))
    if view.cuts and place == view.cut:
        return (*(block.start for block in view.blocks), view.factors[factor])
    return ()


Slab = tuple[tuple[int, int], tuple[int, ...]]  # first and last step, and who holds it whole


def _slabs(axis: _Axis, layout: Layout) -> list[Slab]:
    holders: list[list[int]] = [[] for _ in axis.edges[1:]]
    for rank in layout.ranks:
        for patch in layout.patches(rank):
            for slab in axis.inside(patch.whole, layout.whole):
                holders[slab].append(rank)
    return list(zip(pairwise(axis.edges), map(tuple, holders), strict=True))


def _holders(layout: Layout) -> tuple[int, ...]:
    """Who has all of a tensor."""
    return tuple(r for r in layout.ranks if any(p.whole == layout.whole for p in layout.patches(r)))


def _shared(slabs: Sequence[Slab], layout: Layout) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Runs of slabs with the same holders, cut into as many parts as ranks may own them."""
    for holders, run in groupby(slabs, key=lambda slab: slab[1]):
        steps = [edge for edge, _ in run]
        parts = min(len(steps), len(holders) or len(layout.ranks))
        for i in range(parts):
            first, last = len(steps) * i // parts, len(steps) * (i + 1) // parts
            yield steps[first][0], steps[last - 1][1], holders


def _unit(
    view: View, layout: Layout, axis: _Axis, first: int, last: int, holders: tuple[int, ...]
) -> Unit:
    box = axis.box(layout.whole, first, last)
    place = view.order.index(axis.factor)
    if view.cuts and place == view.cut:
        spans = [(b.name, max(first, b.start), min(last, b.start + b.size)) for b in view.blocks]
        cuts = tuple((name, high - low) for name, low, high in spans if low < high)
        starts = {block.name: block.start for block in view.blocks}
        begins = tuple(low - starts[name] for name, low, high in spans if low < high)
    else:  # every block goes through the whole of this axis
        cuts, begins = view.cuts, (first,) * len(view.blocks)
    factors = list(view.factors)
    factors[axis.factor] = last - first
    narrow = replace(view, shape=box.shape, factors=tuple(factors), cuts=cuts)
    batch_axis = place if place < view.batch else None
    return Unit(box, narrow, batch_axis, begins, holders)
