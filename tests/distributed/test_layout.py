"""Layouts, units and owners, against torch.chunk on the tensor's own indices."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset

from stiefel import views
from stiefel.engine.distributed.layout import Box, Cut, Layout
from stiefel.engine.distributed.lots import deal
from stiefel.engine.distributed.owners import owners
from stiefel.engine.distributed.units import Unit, units
from stiefel.views import View


@st.composite
def layouts(draw: Any, shapes: Any = None) -> Layout:
    sizes = st.integers(0, 7)
    shape = draw(
        shapes if shapes is not None else st.lists(sizes, min_size=1, max_size=3).map(tuple)
    )
    mesh = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple))
    cut = st.builds(Cut, st.integers(0, len(shape) - 1), st.integers(1, 3))
    cuts = [draw(st.one_of(st.none(), cut)) for _ in mesh]
    return Layout(shape, mesh, tuple(cuts))


def textbook(tensor: Tensor, layout: Layout, rank: int) -> Tensor:
    """The rank's shard, mesh axis by mesh axis, as DTensor's placements define it."""
    coordinate = torch.unravel_index(torch.tensor(rank), layout.mesh)
    for cut, size, place in zip(layout.cuts, layout.mesh, coordinate, strict=True):
        if cut is not None:
            pieces = tensor.chunk(cut.pieces, cut.axis)
            parts = [p.chunk(size, cut.axis)[int(place) :][:1] for p in pieces]
            empty = tensor.narrow(cut.axis, 0, 0)
            tensor = torch.cat([*(part[0] for part in parts if part), empty], cut.axis)
    return tensor


def numbered(shape: tuple[int, ...]) -> Tensor:
    return torch.arange(math.prod(shape)).view(shape)


@given(layouts())
def test_patches_are_the_shard(layout: Layout) -> None:
    tensor = numbered(layout.shape)
    for rank in layout.ranks:
        expected = textbook(tensor, layout, rank)
        assert layout.local_shape(rank) == tuple(expected.shape)
        found = torch.full_like(expected, -1)
        for patch in layout.patches(rank):
            patch.local.of(found).copy_(patch.whole.of(tensor))
        assert torch.equal(found, expected)


@given(layouts())
def test_ranks_of_a_replica_tile_the_tensor(layout: Layout) -> None:
    for replica in {layout.replica(rank) for rank in layout.ranks}:
        count = torch.zeros(layout.shape, dtype=torch.int64)
        for rank in layout.ranks:
            if layout.replica(rank) == replica:
                for patch in layout.patches(rank):
                    patch.whole.of(count).add_(1)
        assert bool((count == 1).all())


@given(layouts())
def test_plain_shards_agree_with_torch(layout: Layout) -> None:
    if any(cut and cut.pieces > 1 for cut in layout.cuts):
        return
    placements = [Shard(cut.axis) if cut else Replicate() for cut in layout.cuts]
    for rank in layout.ranks:
        coordinate = [int(c) for c in torch.unravel_index(torch.tensor(rank), layout.mesh)]
        shape, offset = _compute_local_shape_and_global_offset(
            layout.shape, layout.mesh, coordinate, placements
        )
        assert layout.local_shape(rank) == shape
        for patch in layout.patches(rank):
            assert (patch.whole.start, patch.whole.shape) == (offset, shape)


@given(layouts(), st.data())
def test_meeting_a_box(layout: Layout, data: Any) -> None:
    start = tuple(data.draw(st.integers(0, size)) for size in layout.shape)
    shape = tuple(
        data.draw(st.integers(0, n - s)) for n, s in zip(layout.shape, start, strict=True)
    )
    box, tensor = Box(start, shape), numbered(layout.shape)
    for rank in layout.ranks:
        shard = textbook(tensor, layout, rank)
        inside = set(box.of(tensor).flatten().tolist()) & set(shard.flatten().tolist())
        met = [m for p in layout.patches(rank) if (m := p.meets(box))]
        found = [i for m in met for i in m.local.of(shard).flatten().tolist()]
        assert sorted(found) == sorted(inside)
        for m in met:
            assert torch.equal(m.whole.within(box).of(box.of(tensor)), m.local.of(shard))


# -- units -----------------------------------------------------------------------------------------

VIEWS: dict[str, View] = {
    "matrix": views.matrix((6, 4)),
    "transposed stack": views.transposed((3, 4, 5)),
    "stack": views.stack((6, 3, 4)),
    "layers of experts": views.stack((2, 3, 3, 4)),
    "conv": views.conv()((4, 2, 3, 3)),
    "grouped conv": views.conv(2)((4, 2, 3, 3)),
    "conv_transpose": views.conv_transpose(2)((4, 3, 2, 2)),
    "row heads": views.heads(3)((6, 4)),
    "column heads": views.heads(4, side="cols")((3, 8)),
    "qkv": views.qkv(4, 2)((16, 5)),
    "qkv heads": views.qkv(4, 2, per_head=True)((16, 5)),
    "qkv interleaved": views.qkv(4, 2, interleaved=True)((16, 5)),
    "qkv heads interleaved": views.qkv(4, 2, interleaved=True, per_head=True)((16, 5)),
    "qkv columns": views.qkv(4, 2, stored="cols")((5, 16)),
    "gate_up": views.gate_up()((6, 4)),
    "gate_up interleaved": views.gate_up(interleaved=True)((6, 4)),
    "gate_up experts": views.gate_up()((4, 6, 3)),
    "gate_up expert columns": views.gate_up(stored="cols")((4, 3, 6)),
    "one batch": views.stack((1, 3, 4)),
}

views_and_layouts = st.sampled_from(list(VIEWS)).flatmap(
    lambda name: st.tuples(st.just(VIEWS[name]), layouts(st.just(VIEWS[name].shape)))
)


@given(views_and_layouts)
@settings(max_examples=200)
def test_units_hold_every_matrix_once(case: tuple[View, Layout]) -> None:
    """The unit's blocks, laid into the regions that they claim, are the blocks of the tensor."""
    view, layout = case
    tensor = numbered(view.shape)
    whole = {b.name: s for b, s in zip(view.blocks, view.split(tensor), strict=True)}
    found = {name: torch.full_like(matrices, -1) for name, matrices in whole.items()}
    for unit in units(view, layout):
        stacks = unit.view.split(unit.box.of(tensor))
        for place, (block, values) in enumerate(zip(unit.view.blocks, stacks, strict=True)):
            region = unit.region(place, values.shape).of(found[block.name])
            assert bool((region == -1).all())
            region.copy_(values)
    assert all(torch.equal(found[name], whole[name]) for name in whole)


@given(views_and_layouts)
def test_holders_have_the_whole_unit(case: tuple[View, Layout]) -> None:
    view, layout = case
    tensor = numbered(view.shape)
    for unit in units(view, layout):
        inside = set(unit.box.of(tensor).flatten().tolist())
        expected = [r for r in layout.ranks if inside <= held(tensor, layout, r)]
        assert set(unit.holders) <= set(expected)
        if not any(cut and cut.pieces > 1 for cut in layout.cuts):
            assert list(unit.holders) == expected


def held(tensor: Tensor, layout: Layout, rank: int) -> set[int]:
    return set(textbook(tensor, layout, rank).flatten().tolist())


def sizes(name: str, layout: Layout) -> list[tuple[int, ...]]:
    return [unit.box.shape for unit in units(VIEWS[name], layout)]


def test_experts_stay_on_their_ranks() -> None:
    on_two = Layout((6, 3, 4), (2,), (Cut(0),))
    assert [(u.box.start[0], u.holders) for u in units(VIEWS["stack"], on_two)] == [
        (0, (0,)),
        (3, (1,)),
    ]


def test_an_uneven_cut_moves_only_what_it_cuts() -> None:
    """Three heads of two rows on two ranks of 4 and 2 rows: no head moves; of 5 and 1: one."""
    assert [u.holders for u in units(views.heads(3)((6, 4)), Layout((6, 4), (4,), (Cut(0),)))] == [
        (0,),
        (1,),
        (2,),
    ]
    cut = [u.holders for u in units(views.heads(3)((9, 4)), Layout((9, 4), (2,), (Cut(0),)))]
    assert cut == [(0,), (), (1,)]


def test_replicas_share_a_stack() -> None:
    assert sizes("stack", Layout((6, 3, 4), (4,), (None,))) == [
        (1, 3, 4),
        (2, 3, 4),
        (1, 3, 4),
        (2, 3, 4),
    ]


def test_q_k_and_v_have_three_owners() -> None:
    assert sizes("qkv", Layout((16, 5), (4,), (Cut(1),))) == [(8, 5), (4, 5), (4, 5)]


def test_the_axis_that_is_sharded_is_cut() -> None:
    """Layers of experts with the experts over ranks: a rank keeps its experts of all layers."""
    layout = Layout((2, 3, 3, 4), (3,), (Cut(1),))
    assert [u.holders for u in units(VIEWS["layers of experts"], layout)] == [(0,), (1,), (2,)]


# -- owners ----------------------------------------------------------------------------------------


def transformer(ranks: int, layers: int = 12, d: int = 768) -> list[Unit]:
    layout = {
        s: Layout(s, (ranks,), (Cut(0),)) for s in [(3 * d, d), (d, d), (4 * d, d), (d, 4 * d)]
    }
    made = [views.qkv() if shape == (3 * d, d) else views.matrix for shape in layout]
    of_layer = [
        u for v, (s, one) in zip(made, layout.items(), strict=True) for u in units(v(s), one)
    ]
    return of_layer * layers


@pytest.mark.parametrize("ranks", [2, 3, 4, 7, 8])
def test_owners_share_a_transformer_evenly(ranks: int) -> None:
    """Work, and with it momentum, within a tenth of even."""
    every = transformer(ranks)
    loads = [0] * ranks
    chosen = owners(every, loads)
    assert max(loads) <= 1.1 * sum(loads) / ranks
    assert loads == [
        sum(u.cost for u, o in zip(every, chosen, strict=True) if o == r) for r in range(ranks)
    ]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.integers(1, 4))
def test_no_rank_has_more_than_grahams_bound(sizes: list[int], ranks: int) -> None:
    """4/3 - 1/(3 ranks) of the best possible, which is at least the mean and the largest."""
    layout = Layout((1, 1), (ranks,), (None,))
    (one,) = units(views.matrix((1, 1)), layout)
    every = [Unit(one.box, views.matrix((1, s)), None, (0,), ()) for s in sizes]
    loads = [0] * ranks
    owners(every, loads)
    best = _best(sizes, ranks)
    assert max(loads) <= (4 / 3 - 1 / (3 * ranks)) * best + 1e-9


def _best(sizes: list[int], ranks: int) -> int:
    """The smallest possible maximum, by trying all."""
    reachable = {(0,) * ranks}
    for size in sizes:
        reachable = {
            tuple(sorted((*s[:i], s[i] + size, *s[i + 1 :])))
            for s in reachable
            for i in range(ranks)
        }
    return min(max(loads) for loads in reachable)


def test_what_is_whole_stays() -> None:
    layout = Layout((6, 3, 4), (2,), (Cut(0),))
    experts = units(VIEWS["stack"], layout)
    assert owners(experts, [10**9, 0]) == [0, 1]


def test_later_parameters_even_out_earlier_ones() -> None:
    layout = Layout((6, 4), (2,), (Cut(0),))
    loads = [1000, 0]
    assert owners(units(VIEWS["matrix"], layout), loads) == [1]
    assert loads == [1000, 96]


def test_the_largest_matrix_goes_first_whichever_parameter_it_is_in() -> None:
    """Costs 8, 8 and 16 on two ranks: even, where one after the other would give 8 and 24."""
    shapes = [(2, 2), (2, 2), (4, 2)]
    loads = [0, 0]
    lots = deal([(views.matrix(s), Layout(s, (2,), (Cut(0),))) for s in shapes], loads)
    assert loads == [16, 16]
    assert [lot.owner for of_one in lots for lot in of_one] == [1, 1, 0]
    assert [lot.key for of_one in lots for lot in of_one] == [(0, 0), (1, 0), (2, 0)]
