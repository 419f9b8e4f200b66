"""An optimiser on several ranks: who may enter, who is told of failures, and what else it does."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import stiefel
from stiefel.engine import transport
from stiefel.engine.transport import local
from stiefel.errors import DistributedError, HyperparameterError, ParameterError
from stiefel.piece import MATRIX, Now, State
from stiefel.recipe import Recipe
from tests.distributed.cases import agree_on, random
from tests.distributed.ranks import Ranks
from tests.distributed.test_gradients import SHAPES, VIEWS, pair

# -- failures --------------------------------------------------------------------------------------


def fails_on(rank: int, step: int) -> Recipe:
    """A direction that gives up on one rank."""

    @dataclasses.dataclass(frozen=True)
    class GivesUp:
        scope = MATRIX

        def init(self, like: Tensor) -> State:
            return {}

        def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
            if dist.get_rank() == rank and now.step == step:
                raise RuntimeError("no convergence")
            return x

    return dataclasses.replace(stiefel.muon(), direction=GivesUp())


def an_owner_fails() -> None:
    made = pair("rows")
    params = list(made.twins.values())
    views = [VIEWS.get(name) for name in made.twins]
    opt = stiefel.Optimizer([{"params": params[:3], "views": views[:3]}], fails_on(1, 2))
    for step in range(2):
        grads = random(SHAPES, torch.float64, seed=step)
        for name, p in made.twins.items():
            p.grad = made.spread(grads[name])
        if step == 0:
            opt.step()
            continue
        kind, message = (
            (RuntimeError, "^no convergence")
            if dist.get_rank() == 1
            else (DistributedError, "^rank 1: RuntimeError: no convergence")
        )
        with pytest.raises(kind, match=message):
            opt.step()
    dist.barrier()


def test_an_owner_that_fails_stops_all(ranks: Ranks) -> None:
    ranks.run(3, an_owner_fails)


def a_closure_fails() -> None:
    made = pair("rows")

    def closure() -> float:
        assert dist.get_rank() != 0, "out of data"
        return 0.0

    kind = AssertionError if dist.get_rank() == 0 else DistributedError
    with pytest.raises(kind, match="out of data"):
        made.several.step(closure)


def test_a_closure_that_fails_stops_all(ranks: Ranks) -> None:
    ranks.run(2, a_closure_fails)


def different_models() -> None:
    mesh = init_device_mesh("cpu", (2,))
    shape = (6, 4) if dist.get_rank() == 0 else (6, 5)
    w = nn.Parameter(distribute_tensor(torch.ones(shape), mesh, [Shard(0)], src_data_rank=None))
    with pytest.raises(ParameterError, match=r"rank 0 has w: \[6, 4\].*rank 1 has w: \[6, 5\]"):
        stiefel.Muon([("w", w)])


def different_recipes() -> None:
    mesh = init_device_mesh("cpu", (2,))
    w = nn.Parameter(distribute_tensor(torch.ones(6, 4), mesh, [Shard(0)], src_data_rank=None))
    with pytest.raises(ParameterError, match="ranks hold different parameters"):
        stiefel.Muon([("w", w)], polar="jordan" if dist.get_rank() else "polar_express")


def one_builds_nothing() -> None:
    mesh = init_device_mesh("cpu", (2,))
    w = nn.Parameter(distribute_tensor(torch.ones(6, 4), mesh, [Shard(0)], src_data_rank=None))
    bad = {"views": [stiefel.views.heads(5)]} if dist.get_rank() else {}
    kind = stiefel.errors.ViewError if dist.get_rank() else DistributedError
    with pytest.raises(kind, match="does not divide into 5 parts"):
        stiefel.Optimizer([{"params": [("w", w)], **bad}], stiefel.muon())


@pytest.mark.parametrize("case", [different_models, different_recipes, one_builds_nothing])
def test_ranks_that_differ_are_noticed(ranks: Ranks, case: Any) -> None:
    ranks.run(2, case)


def one_builds_alone() -> None:
    transport.PATIENCE = timedelta(seconds=1)
    mesh = init_device_mesh("cpu", (2,))
    if dist.get_rank() == 0:
        w = distribute_tensor(torch.ones(6, 4), mesh, [Shard(0)], src_data_rank=None)
        stiefel.Muon([nn.Parameter(w)])
    else:
        time.sleep(2)


def test_a_rank_that_builds_alone_is_an_error(ranks: Ranks) -> None:
    with pytest.raises(AssertionError, match="the optimiser was not called on every rank of"):
        ranks.run(2, one_builds_alone)


def only_one_saves() -> None:
    made = pair("rows")
    transport.PATIENCE = timedelta(seconds=1)
    if dist.get_rank() == 0:
        made.several.state_dict()
    else:
        time.sleep(2)


def test_a_lonely_state_dict_is_an_error(ranks: Ranks) -> None:
    with pytest.raises(AssertionError, match=r"state_dict\(\) was not called on every rank of"):
        ranks.run(2, only_one_saves)


def partial_parameter() -> None:
    mesh = init_device_mesh("cpu", (2,))
    w = nn.Parameter(DTensor.from_local(torch.ones(4, 4), mesh, [Partial()]))
    with pytest.raises(ParameterError, match=r"parameter w has placements \(Partial\(sum\),\)"):
        stiefel.Muon([("w", w)])


def test_unsupported_placements_are_named(ranks: Ranks) -> None:
    ranks.run(2, partial_parameter)


def on_a_mesh_of_others() -> None:
    """Everybody hears of it, although only one rank may not have the parameter."""
    everyone = init_device_mesh("cpu", (3,))
    part = torch.ones(3 if dist.get_rank() < 2 else 0, 4)
    shape = torch.Size((6, 4))
    theirs = DTensor.from_local(
        part, DeviceMesh("cpu", [0, 1]), [Shard(0)], shape=shape, stride=(4, 1)
    )
    ours = distribute_tensor(torch.ones(6, 4), everyone, [Shard(0)], src_data_rank=None)
    with pytest.raises(stiefel.StiefelError, match=r"parameter w lies on a mesh of ranks \[0, 1\]"):
        stiefel.Muon([("w", nn.Parameter(theirs)), ("v", nn.Parameter(ours))])


def test_a_mesh_of_others_is_refused(ranks: Ranks) -> None:
    ranks.run(3, on_a_mesh_of_others)


@pytest.mark.parametrize("wire", [torch.float16, torch.int8, "bf16"])
def test_a_wire_must_have_the_range_of_float32(wire: Any) -> None:
    """An overflow on the way would be an Inf that the guard does not see."""
    weight = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(HyperparameterError, match="wire=.* give one of torch.bfloat16"):
        stiefel.Optimizer([weight], stiefel.muon(), wire=wire)


def refused_then_good() -> None:
    """A group that only rank 0 refuses leaves no trace in who owns what on rank 1."""
    made = pair("rows")
    large, small = random({"x": (90, 40), "y": (3, 11)}, torch.float64, seed=5).values()
    refused = stiefel.views.heads(4) if dist.get_rank() == 0 else None
    group = {"params": [("x", nn.Parameter(made.spread(large)))], "views": [refused]}
    with pytest.raises(stiefel.StiefelError, match="does not divide into 4 parts"):
        made.several.add_param_group(group)
    made.plain["y"], made.twins["y"] = nn.Parameter(small), nn.Parameter(made.spread(small.clone()))
    made.single.add_param_group({"params": [("y", made.plain["y"])]})
    made.several.add_param_group({"params": [("y", made.twins["y"])]})
    made.run(3)
    made.check(1e-12)


def test_a_refused_group_leaves_no_trace(ranks: Ranks) -> None:
    ranks.run(2, refused_then_good)


def given_twice() -> None:
    found = []
    mesh = init_device_mesh("cpu", (2,))
    start = random({"p": (6, 4), "q": (5, 7)}, torch.float64, seed=0)
    for spread in (torch.clone, lambda t: distribute_tensor(t, mesh, [Shard(0)])):
        p, q = (nn.Parameter(spread(t)) for t in start.values())
        with pytest.warns(UserWarning, match="duplicate parameters"):
            opt = stiefel.Muon([p, p, q], lr=0.02)
        p.grad, q.grad = (spread(t.flip(0)) for t in start.values())
        opt.step()
        found.append([transport.whole(t.detach()) for t in (p, q)])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-13)


def test_a_parameter_given_twice_is_stepped_once(ranks: Ranks) -> None:
    ranks.run(2, given_twice)


def left_alone_by_ddp() -> None:
    """An expert of this rank's own, which DistributedDataParallel was told to ignore."""
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)).double()
    nn.init.constant_(model[1].weight, float(dist.get_rank()))
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ["1.weight"])
    wrapped = DistributedDataParallel(model)
    opt = stiefel.optimizer(wrapped, "muon", lr=1e-3, roles={"1.weight": "hidden"})
    wrapped(torch.eye(6, dtype=torch.float64)).sum().backward()
    opt.step()
    assert torch.allclose(model[1].weight, torch.full((6, 6), dist.get_rank()).double(), atol=0.1)


def test_what_ddp_leaves_alone_is_the_ranks_own(ranks: Ranks) -> None:
    ranks.run(2, left_alone_by_ddp)


# -- what else an optimiser does -------------------------------------------------------------------


def measures_alike() -> None:
    made = pair("rows", "soap")
    made.run(2)
    grads = random(SHAPES, torch.float64, seed=9)
    for name, p in made.plain.items():
        p.grad = grads[name].clone()
        made.twins[name].grad = made.spread(grads[name].clone())
    one, several = made.single.effective_lr(), made.several.effective_lr()
    for name, expected in one.items():
        assert abs(several[name].rms / expected.rms - 1) < 1e-9
        assert abs(several[name].spectral / expected.spectral - 1) < 1e-9
    assert made.several.faults() == {}


def test_effective_lr(ranks: Ranks) -> None:
    ranks.run(2, measures_alike)


def copies_step_alike() -> None:
    made = pair("rows", "soap")
    made.run(2)
    twin = copy.deepcopy(made.several)
    grads = random(SHAPES, torch.float64, seed=9)
    for opt in (made.several, twin):
        for group in opt.param_groups:
            for name, p in zip(group["param_names"], group["params"], strict=True):
                p.grad = made.spread(grads[name].clone())
        opt.step()
    for ours, theirs in zip(made.several.param_groups, twin.param_groups, strict=True):
        for a, b in zip(ours["params"], theirs["params"], strict=True):
            assert a is not b and torch.equal(local(a), local(b))


def test_copies_step_alike(ranks: Ranks) -> None:
    ranks.run(2, copies_step_alike)


def sixteen_bits_on_the_wire(kind: str) -> None:
    made = pair(kind, wire=torch.bfloat16)
    made.run(5)
    distances = made.distance()
    assert 1e-6 < max(distances.values()) < 1e-2, distances
    for name in ("a", "b", "c"):
        agree_on(made.twins[name], name)


@pytest.mark.parametrize(("world", "kind"), [(2, "rows"), (4, "hybrid")])
def test_sixteen_bits_on_the_wire(ranks: Ranks, world: int, kind: str) -> None:
    ranks.run(world, sixteen_bits_on_the_wire, kind)


def compiled() -> None:
    made = pair("rows", compile=True)
    made.run(3)
    made.check(1e-12)


@pytest.mark.slow
def test_compiled(ranks: Ranks) -> None:
    ranks.run(2, compiled, patience=600.0)  # ten plans to compile on each


def sharded(model: nn.Module) -> nn.Module:
    return fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))


def trained_once(wrap: Callable[[nn.Module], nn.Module]) -> stiefel.Optimizer:
    model = wrap(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)))
    opt = stiefel.optimizer(model, "muon")
    model(torch.ones(2, 5)).sum().backward()
    assert len(opt.effective_lr()) == 4
    opt.step()
    opt.zero_grad()
    return opt


def copies_and_pickles(wrap: Callable[[nn.Module], nn.Module]) -> None:
    opt = trained_once(wrap)
    for twin in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert twin.state_dict()["state"].keys() == opt.state_dict()["state"].keys()


@pytest.mark.parametrize("wrap", [DistributedDataParallel, sharded])
def test_under_the_wrappers(ranks: Ranks, wrap: Any) -> None:
    """A process group cannot be copied, nor the gradients that fully_shard leaves."""
    ranks.run(2, copies_and_pickles, wrap)
