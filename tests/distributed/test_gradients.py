"""Gradients that are missing, partial, or not finite."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import stiefel
from stiefel.engine.transport import local, whole
from stiefel.errors import GradientError
from tests.distributed.cases import Pair, random, spread_as
from tests.distributed.ranks import Ranks

SHAPES = {"a": (7, 6), "b": (5, 6), "c": (4, 3, 2), "bias": (9,)}
VIEWS = {"c": stiefel.views.stack}


def pair(kind: str, recipe: str = "muon", **options: Any) -> Pair:
    return Pair(
        stiefel.recipes.find(recipe),
        random(SHAPES, torch.float64, seed=0),
        spread_as(kind),
        views=VIEWS,
        elementwise=["bias"],
        lr=0.02,
        **options,
    )


def replicas() -> Pair:
    """Plain tensors that are equal on all ranks, as under DistributedDataParallel."""
    return Pair(
        stiefel.muon(),
        random(SHAPES, torch.float64, seed=0),
        torch.Tensor.clone,
        views=VIEWS,
        elementwise=["bias"],
        process_group=dist.group.WORLD,
        lr=0.02,
    )


# -- missing ---------------------------------------------------------------------------------------


def steps_without(made: Pair, missing: dict[int, list[str]], zero_rows: bool) -> None:
    """Leave the gradient of some parameters out on some ranks in the second of four steps."""
    absent = missing.get(dist.get_rank(), [])
    for step in range(4):
        grads = random(SHAPES, torch.float64, seed=step)
        names = {n for names in missing.values() for n in names} if step == 1 else set()
        for name, plain in made.plain.items():
            plain.grad = grads[name].clone()
            made.twins[name].grad = made.spread(grads[name].clone())
            if name in names and zero_rows:
                plain.grad = without_parts(made, name, missing)
            if step == 1 and name in absent:
                made.twins[name].grad = None
        made.single.step()
        made.several.step()
    made.check(1e-13)


def without_parts(made: Pair, name: str, missing: dict[int, list[str]]) -> Tensor:
    """The gradient with zeros where the ranks that lack it would have theirs."""
    twin: Any = made.twins[name]
    part = local(twin.grad).clone()
    if name in missing.get(dist.get_rank(), []):
        part.zero_()
    return whole(
        DTensor.from_local(
            part, twin.device_mesh, twin.placements, shape=twin.shape, stride=twin.stride()
        )
    )


def shards_missing(missing: dict[int, list[str]]) -> None:
    steps_without(pair("rows"), missing, zero_rows=True)


def replicas_missing(missing: dict[int, list[str]]) -> None:
    steps_without(replicas(), missing, zero_rows=False)


def hybrids_missing(missing: dict[int, list[str]]) -> None:
    steps_without(pair("hybrid"), missing, zero_rows=False)


@pytest.mark.parametrize("missing", [{1: ["a"]}, {0: ["a", "bias"], 1: ["c"]}])
@pytest.mark.parametrize("world", [2, 3])
def test_a_shard_without_a_gradient_counts_as_zero(ranks: Ranks, world: int, missing: Any) -> None:
    ranks.run(world, shards_missing, missing)


@pytest.mark.parametrize("missing", [{1: ["a"]}, {0: ["a", "bias"], 1: ["c"]}])
@pytest.mark.parametrize("world", [2, 3])
def test_a_replica_without_a_gradient_gets_it(ranks: Ranks, world: int, missing: Any) -> None:
    ranks.run(world, replicas_missing, missing)


def test_a_hybrid_shard_gets_it_from_the_other_replica(ranks: Ranks) -> None:
    ranks.run(4, hybrids_missing, {1: ["a", "bias"], 2: ["b"]})


def wider_than_the_parameter() -> None:
    """Gradients in float32 of 16-bit replicas: who lacks one gets it as the others have it."""
    weight = nn.Parameter(torch.ones(4, 6, dtype=torch.bfloat16))
    weight.grad_dtype = torch.float32
    alone = nn.Parameter(weight.detach().clone())
    grad = random({"": (4, 6)}, torch.float32, seed=0)[""]
    alone.grad_dtype = torch.float32
    alone.grad = grad.clone()
    weight.grad = grad.clone() if dist.get_rank() else None
    stiefel.Optimizer([weight], stiefel.sgd(), process_group=dist.group.WORLD).step()
    stiefel.Optimizer([alone], stiefel.sgd()).step()
    assert torch.equal(weight, alone)


def test_a_gradient_wider_than_its_parameter(ranks: Ranks) -> None:
    ranks.run(2, wider_than_the_parameter)


def nobody_has_it() -> None:
    made = pair("rows")
    grads = random(SHAPES, torch.float64, seed=5)
    for names in (["a", "b", "c", "bias"], ["a", "bias"], [], ["b"], ["a", "b", "c", "bias"]):
        made.step({name: grads[name] for name in names})
    made.check(1e-13)


def test_parameters_without_a_gradient_anywhere(ranks: Ranks) -> None:
    ranks.run(3, nobody_has_it)


def only_its_own(value: float) -> None:
    """A rank has a gradient of a tensor of its own, the others have none at all."""
    mesh = init_device_mesh("cpu", (2,))
    shared = nn.Parameter(distribute_tensor(torch.eye(6), mesh, [Shard(0)], src_data_rank=None))
    own = nn.Parameter(torch.ones(3, 3))
    opt = stiefel.Muon([shared, own])
    if dist.get_rank() == 0:
        own.grad = torch.full((3, 3), value)
    opt.step()
    assert opt.skipped_steps == (0 if value == 1.0 else 1)
    assert torch.equal(own, torch.ones(3, 3)) == (dist.get_rank() == 1 or value != 1.0)
    assert torch.equal(whole(shared.detach()), torch.eye(6))


@pytest.mark.parametrize("value", [1.0, float("inf")])
def test_a_gradient_on_one_rank_only(ranks: Ranks, value: float) -> None:
    ranks.run(2, only_its_own, value)


# -- partial, accumulated --------------------------------------------------------------------------


def partial_sums() -> None:
    """As sequence parallelism leaves them; the rank's own part times the world is the sum."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    plain, replicated = (nn.Parameter(torch.ones(5, 3, dtype=torch.float64)) for _ in range(2))
    twin = nn.Parameter(distribute_tensor(replicated.detach(), mesh, [Replicate()]))
    opts = [stiefel.Muon([p], lr=0.02) for p in (plain, twin)]
    for step in range(3):
        parts = [random({"g": (5, 3)}, torch.float64, seed=10 * step + r)["g"] for r in range(2)]
        plain.grad = sum(parts)
        twin.grad = DTensor.from_local(parts[dist.get_rank()], mesh, [Partial()])
        for opt in opts:
            opt.step()
    assert torch.allclose(whole(twin.detach()), plain.detach(), rtol=0, atol=1e-13)


def test_partial_gradients_are_summed(ranks: Ranks) -> None:
    ranks.run(2, partial_sums)


def partial_and_missing() -> None:
    mesh = init_device_mesh("cpu", (2,))
    twin = nn.Parameter(distribute_tensor(torch.ones(5, 3), mesh, [Replicate()]))
    opt = stiefel.Muon([("w", twin)])
    if dist.get_rank() == 0:
        twin.grad = DTensor.from_local(torch.ones(5, 3), mesh, [Partial()])
    with pytest.raises(GradientError, match="parameter w is a partial sum on 1 ranks"):
        opt.step()


def test_a_partial_gradient_that_others_lack_is_refused(ranks: Ranks) -> None:
    ranks.run(2, partial_and_missing)


# -- the guard -------------------------------------------------------------------------------------


def one_rank_is_not_finite(value: float) -> None:
    made = pair("rows")
    made.run(2)
    before = {name: whole(p.detach()).clone() for name, p in made.twins.items()}
    grads = random(SHAPES, torch.float64, seed=7)
    grads["a"][-1, -1] = value
    made.step(grads)
    assert made.several.skipped_steps == made.single.skipped_steps == 1
    for name, p in made.twins.items():
        assert torch.equal(whole(p.detach()), before[name])
    made.run(2, seed=3)
    made.check(1e-13)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_bad_entry_skips_the_step_everywhere(ranks: Ranks, value: float) -> None:
    ranks.run(3, one_rank_is_not_finite, value)


def huge(kind: str) -> None:
    made = pair(kind)
    limit = torch.finfo(torch.float64).max ** 0.5 / 16
    for step, times in enumerate([1e3, 1.5, 0.5, 1.5]):  # 1.5 is beyond it for all ranks together
        grads = random(SHAPES, torch.float64, seed=step)
        norm = sum(float(grad.norm()) ** 2 for grad in grads.values()) ** 0.5
        made.step({name: grad / norm * limit * times for name, grad in grads.items()})
    made.check(1e-12)


@pytest.mark.parametrize("kind", ["rows", "hybrid"])
def test_gradients_whose_squares_overflow(ranks: Ranks, kind: str) -> None:
    ranks.run(4, huge, kind)


def idle() -> None:
    made = pair("rows", "soap")
    made.run(2)
    for opt in (made.single, made.several):
        for group in opt.param_groups:
            group["lr"] = 0.0
    made.step({name: torch.zeros_like(p) for name, p in made.plain.items()})
    steps = {float(made.several.state[p]["step"]) for p in made.twins.values()}
    assert steps == {2.0}


def test_a_step_that_only_looks_changes_nothing(ranks: Ranks) -> None:
    ranks.run(2, idle)
