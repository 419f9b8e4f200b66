"""Whatever the parameters and whoever misses a gradient, stacked steps equal steps one by one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import stiefel
from stiefel.engine import bucket
from stiefel.engine.bucket import make_buckets, members_of
from tests.helpers import assert_close, copies, gradients, parameters, run

SHAPES = st.sampled_from([(3, 5), (5, 3), (4, 4), (1, 6), (6, 1), (2, 3, 2, 2)])


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(SHAPES, min_size=1, max_size=7),
    data=st.data(),
    muon=st.booleans(),
)
def test_stacked_equals_one_by_one(
    shapes: list[tuple[int, ...]], data: st.DataObject, muon: bool
) -> None:
    make = stiefel.Muon if muon else stiefel.AdamW
    params, steps = parameters(*shapes), 4
    alone = copies(params)
    grads = gradients(params, steps)
    present = data.draw(
        st.lists(
            st.lists(st.booleans(), min_size=len(shapes), max_size=len(shapes)),
            min_size=steps,
            max_size=steps,
        )
    )
    optimizer = make(params, lr=0.05)
    for step, here in zip(grads, present, strict=True):
        for p, g, yes in zip(params, step, here, strict=True):
            p.grad = g if yes else None
        optimizer.step()
    for i, p in enumerate(alone):
        run(
            make([p], lr=0.05),
            [p],
            [[s[i]] for s, here in zip(grads, present, strict=True) if here[i]],
        )
    assert_close(params, alone, 1e-11)


@settings(max_examples=20, deadline=None)
@given(limit=st.integers(1, 200))
def test_stack_limit_changes_nothing(limit: int) -> None:
    params = parameters(*[(4, 4)] * 5, *[(3, 5)] * 3)
    whole, grads = copies(params), gradients(params)
    run(stiefel.Muon(whole), whole, grads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucket, "LARGEST_STACK", limit)
        run(stiefel.Muon(params), params, grads)
    assert_close(params, whole, 1e-12)


def test_buckets_join_what_is_alike() -> None:
    """Small equal matrices share a bucket, across tensors and views; large ones stand alone."""
    small, fused, large = (
        parameters((8, 8)),
        parameters((24, 8)),
        parameters((512, 512), (512, 512)),
    )
    recipe = stiefel.muon()
    members = [
        *members_of(small[0], stiefel.views.matrix((8, 8)), recipe),
        *members_of(fused[0], stiefel.views.qkv()((24, 8)), recipe),
        *(m for p in large for m in members_of(p, stiefel.views.matrix(p.shape), recipe)),
    ]
    assert [len(b.members) for b in make_buckets(recipe, members)] == [4, 1, 1]


def test_small_vectors_of_any_length_share_a_bucket() -> None:
    params = parameters((3,), (5, 2), (), (1 << 17,))
    members = [m for p in params for m in members_of(p, None, stiefel.adamw())]
    assert [len(b.members) for b in make_buckets(stiefel.adamw(), members)] == [3, 1]


def test_state_has_the_shape_of_the_parameter_or_of_its_blocks() -> None:
    plain, fused, experts, kernel = parameters((6, 4), (32, 8), (3, 6, 4), (8, 3, 3, 3))
    views = [None, stiefel.views.qkv(4, 2), stiefel.views.stack, None]
    optimizer = stiefel.Muon([{"params": [plain, fused, experts, kernel], "views": views}])
    shapes = [{k: tuple(v.shape) for k, v in s.items()} for s in optimizer.state.values()]
    assert shapes == [
        {"momentum.m": (6, 4), "step": ()},
        {"q.momentum.m": (16, 8), "k.momentum.m": (8, 8), "v.momentum.m": (8, 8), "step": ()},
        {"momentum.m": (3, 6, 4), "step": ()},
        {"momentum.m": (8, 27), "step": ()},
    ]


@pytest.mark.parametrize("name", ["adamw", "schedule_free", "galore", "soap", "shampoo"])
def test_no_power_of_the_step_is_in_a_compiled_loop(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be taken for every few entries anew."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: object, **options: Any) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    params = parameters((4, 6), dtype=torch.float32)
    optimizer = stiefel.Optimizer(params, getattr(stiefel, name)(), compile=True)
    run(optimizer, params, gradients(params, 3))
    nodes = [node for graph in graphs for node in graph.graph.nodes]
    names = [node.name for node in nodes if len(node.all_input_nodes) == 2 and "pow" in node.name]
    assert names and all("one_minus_power" in name for name in names)


@pytest.mark.parametrize("name", ["adamuon", "hyperball"])
def test_a_stack_of_two_compiles(name: str) -> None:
    """Inductor failed on these two."""
    torch._dynamo.reset()
    params = parameters((6, 4), (6, 4), dtype=torch.float32)
    before, grads = copies(params), gradients(params, 2)
    run(stiefel.Optimizer(params, getattr(stiefel, name)(), compile=True), params, grads)
    run(stiefel.Optimizer(before, getattr(stiefel, name)()), before, grads)
    assert_close(params, before, 1e-2)


@pytest.mark.slow
def test_compilation_does_not_grow_with_depth_and_has_no_limit_of_shapes() -> None:
    """Twice the layers compile the same plans, and more shapes than torch's limit of 8 compile."""
    for shapes in ([(8 + i, 8) for i in range(10)], [(8 + i, 8) for i in range(10)] * 2):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        params = parameters(*shapes, dtype=torch.float32)
        optimizer = stiefel.Optimizer(params, stiefel.muon(ns_steps=1), compile=True)
        run(optimizer, params, gradients(params, 2))
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 10
    assert not torch._dynamo.utils.counters["graph_break"]
