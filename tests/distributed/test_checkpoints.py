"""Saved on some ranks, resumed on others: the run goes on as if nothing had happened."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.tensor import DTensor

import stiefel
from stiefel.engine import transport
from stiefel.engine.transport import local, whole
from stiefel.errors import CheckpointError, DistributedError
from stiefel.recipes import REGISTRY, ROUTINGS
from tests.distributed.cases import Pair, random, spread_as
from tests.distributed.ranks import Ranks
from tests.distributed.test_wrappers import Model, batch, ddp, double, fsdp, loss_of, plain

WRAPS = {"ddp": ddp, "fsdp": fsdp, "plain": plain}
RECIPES = ["muon", "soap", "psgd_kron", "adamw"]


def built(kind: str, recipe: str) -> tuple[nn.Module, stiefel.Optimizer]:
    torch.manual_seed(0)
    model = WRAPS[kind](double(Model()))
    opt = stiefel.optimizer(model, recipe, lr=0.02)
    for group in opt.param_groups:
        if "refresh_every" in group:
            group["refresh_every"] = 3
    return model, opt


def train(model: nn.Module, opt: stiefel.Optimizer, steps: range) -> None:
    """Every rank sees the whole batch: the mean over ranks is that of one process."""
    for step in steps:
        opt.zero_grad()
        loss_of(model, *batch(step)).backward()
        opt.step()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {
        name.removeprefix("module."): whole(p.detach()).clone()
        for name, p in model.named_parameters()
    }


def check_uninterrupted(model: nn.Module, recipe: str, steps: int) -> None:
    other, opt = built("plain", recipe)
    train(other, opt, range(steps))
    expected = weights(other)
    for name, found in weights(model).items():
        assert torch.allclose(found, expected[name], rtol=0, atol=1e-11), name


def save(folder: str, kind: str, recipe: str) -> None:
    model, opt = built(kind, recipe)
    train(model, opt, range(4))
    weights_, state = get_state_dict(model, opt)
    dcp.save({"model": weights_, "optim": state}, checkpoint_id=folder)


def resume(folder: str, kind: str, recipe: str) -> None:
    model, opt = built(kind, recipe)
    train(model, opt, range(20, 22))  # whatever was there before is gone
    weights_, state = get_state_dict(model, opt)
    saved: dict[str, Any] = {"model": weights_, "optim": state}
    dcp.load(saved, checkpoint_id=folder)
    set_state_dict(model, opt, model_state_dict=saved["model"], optim_state_dict=saved["optim"])
    train(model, opt, range(4, 8))
    check_uninterrupted(model, recipe, 8)


# A mean over three ranks rounds otherwise than one process. Where a gradient is short of full rank,
# SOAP's basis of the rest is a matter of that rounding, on one process as well.
MOVES = [((2, "fsdp"), (4, "fsdp")), ((4, "fsdp"), (2, "ddp")), ((2, "ddp"), (1, "fsdp"))]
ODD_MOVES = [((3, "fsdp"), (2, "ddp")), ((2, "ddp"), (3, "fsdp")), ((1, "fsdp"), (3, "ddp"))]


@pytest.mark.parametrize(
    ("before", "after", "recipe"),
    [(*move, recipe) for move in MOVES for recipe in RECIPES]
    + [(*move, "muon") for move in ODD_MOVES],
)
def test_resume_on_another_number_of_ranks(
    ranks: Ranks, tmp_path: Path, before: Any, after: Any, recipe: str
) -> None:
    ranks.run(before[0], save, str(tmp_path), before[1], recipe)
    ranks.run(after[0], resume, str(tmp_path), after[1], recipe)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted({*REGISTRY, *ROUTINGS} - {*RECIPES}))
def test_every_kind_of_state(ranks: Ranks, tmp_path: Path, recipe: str) -> None:
    ranks.run(4, save, str(tmp_path), "fsdp", recipe)
    ranks.run(1, resume, str(tmp_path), "ddp", recipe)


def save_in_one_file(file: str, kind: str, recipe: str) -> None:
    model, opt = built(kind, recipe)
    train(model, opt, range(4))
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_optimizer_state_dict(model, opt, options=options)
    everything = weights(model)
    if dist.get_rank() == 0:
        torch.save({"model": everything, "optim": state}, file)


def resume_from_one_file(file: str, kind: str, recipe: str) -> None:
    model, opt = built(kind, recipe)
    saved = torch.load(file, weights_only=True)
    for name, p in model.named_parameters():
        full = saved["model"][name.removeprefix("module.")]
        if isinstance(p, DTensor):
            part = torch.distributed.tensor.distribute_tensor(
                full, p.device_mesh, p.placements, src_data_rank=None
            )
            p.data.copy_(part)
        else:
            p.data.copy_(full)
    options = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(model, opt, saved["optim"], options=options)
    train(model, opt, range(4, 8))
    check_uninterrupted(model, recipe, 8)


@pytest.mark.parametrize("recipe", ["muon", "soap"])
@pytest.mark.parametrize(
    ("before", "after"), [((2, "fsdp"), (1, "plain")), ((1, "plain"), (2, "ddp"))]
)
def test_one_file(ranks: Ranks, tmp_path: Path, before: Any, after: Any, recipe: str) -> None:
    file = str(tmp_path / "one.pt")
    ranks.run(before[0], save_in_one_file, file, before[1], recipe)
    ranks.run(after[0], resume_from_one_file, file, after[1], recipe)


def resume_from_what_one_rank_has_read(file: str, kind: str, recipe: str) -> None:
    model, opt = built(kind, recipe)
    first = dist.get_rank() == 0
    saved = torch.load(file, weights_only=True) if first else {"model": {}, "optim": {}}
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, saved["model"], options=options)
    set_optimizer_state_dict(model, opt, saved["optim"], options=options)
    train(model, opt, range(4, 8))
    check_uninterrupted(model, recipe, 8)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_only_one_rank_reads_the_file(ranks: Ranks, tmp_path: Path, kind: str) -> None:
    file = str(tmp_path / "one.pt")
    ranks.run(1, save_in_one_file, file, "plain", "soap")
    ranks.run(2, resume_from_what_one_rank_has_read, file, kind, "soap")


def exports_what_one_process_has(kind: str, recipe: str) -> None:
    """Names, shapes, dtypes and numbers; no rank holds more than its part of a matrix's state."""
    one, opt_one = built("plain", recipe)
    train(one, opt_one, range(4))
    several, opt = built(kind, recipe)
    train(several, opt, range(4))
    expected, found = opt_one.state_dict()["state"], opt.state_dict()["state"]
    assert found.keys() == expected.keys()
    for key, entry in expected.items():
        assert found[key].keys() == entry.keys()
        for name, tensor in entry.items():
            full = whole(found[key][name])
            assert full.shape == tensor.shape and full.dtype == tensor.dtype
            assert torch.allclose(full, tensor, rtol=0, atol=1e-10), (key, name)
            if kind == "fsdp" and tensor.ndim:
                sizes: list[Any] = [None] * dist.get_world_size()
                dist.all_gather_object(sizes, local(found[key][name]).numel())
                assert sum(sizes) == tensor.numel(), "replicated"


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("world", "kind"), [(4, "fsdp"), (2, "ddp")])
def test_exported_state(ranks: Ranks, world: int, kind: str, recipe: str) -> None:
    ranks.run(world, exports_what_one_process_has, kind, recipe)


SHAPES = {"heads": (12, 6), "experts": (5, 4, 6), "fused": (24, 8), "bias": (5,)}
VIEWS = {
    "heads": stiefel.views.heads(4),
    "experts": stiefel.views.stack,
    "fused": stiefel.views.qkv(4, 2, per_head=True),
}


def pair(kind: str) -> Pair:
    tensors = random(SHAPES, torch.float64, seed=0)
    recipe = stiefel.recipes.find("soap")
    return Pair(recipe, tensors, spread_as(kind), views=VIEWS, elementwise=["bias"], lr=0.02)


def stacks_go_through(kind: str, other: str) -> None:
    """What lies in a stack with several owners is saved as one tensor, and comes back."""
    made, fresh = pair(kind), pair(other)
    made.run(3)
    one, several = made.single.state_dict(), made.several.state_dict()
    for key, entry in one["state"].items():
        for name, tensor in entry.items():
            assert torch.allclose(whole(several["state"][key][name]), tensor, rtol=0, atol=1e-12)
    fresh.single.load_state_dict(one)
    fresh.several.load_state_dict(several)
    again = fresh.several.state_dict()
    for key, entry in one["state"].items():
        for name, tensor in entry.items():
            assert torch.allclose(whole(again["state"][key][name]), tensor, rtol=0, atol=1e-12)
    fresh.run(2)
    fresh.check(1e-12)


@pytest.mark.parametrize(
    ("world", "kind", "other"), [(2, "rows", "columns"), (4, "hybrid", "rows"), (3, "rows", "rows")]
)
def test_stacks(ranks: Ranks, world: int, kind: str, other: str) -> None:
    ranks.run(world, stacks_go_through, kind, other)


# -- what goes wrong on one rank -------------------------------------------------------------------


def save_all(opt: stiefel.Optimizer, state: Any) -> None:
    opt.state_dict()


def load_all(opt: stiefel.Optimizer, state: Any) -> None:
    opt.load_state_dict(state)


def load_nothing(opt: stiefel.Optimizer, state: Any) -> None:
    opt.load_state_dict(None)  # type: ignore[arg-type]


def load_without_state(opt: stiefel.Optimizer, state: Any) -> None:
    opt.load_state_dict({**state, "state": {}})


def hook(*_: Any) -> None:
    raise OSError("no disk")


def load_behind_a_hook(opt: stiefel.Optimizer, state: Any) -> None:
    opt.register_load_state_dict_pre_hook(hook)
    opt.load_state_dict(state)


def save_behind_a_hook(opt: stiefel.Optimizer, state: Any) -> None:
    opt.register_state_dict_pre_hook(hook)
    opt.state_dict()


def fails_on_the_last(call: Any, wrong: Any, words: str) -> None:
    """All ranks raise, nothing has changed, and training goes on."""
    model, opt = built("fsdp", "muon")
    train(model, opt, range(2))
    state, last = opt.state_dict(), dist.get_world_size() - 1
    if dist.get_rank() == last:
        with pytest.raises(Exception, match=words):
            wrong(opt, state)
    else:
        with pytest.raises(DistributedError, match=f"^rank {last}: .*{words}"):
            call(opt, state)
    train(model, opt, range(2, 4))
    check_uninterrupted(model, "muon", 4)


@pytest.mark.parametrize(
    ("call", "wrong", "words"),
    [
        (load_all, load_nothing, "'NoneType' object"),
        (load_all, load_without_state, "the checkpoint has nothing"),
        (load_all, load_behind_a_hook, "no disk"),
        (save_all, save_behind_a_hook, "no disk"),
    ],
)
def test_an_error_on_one_rank_reaches_all(ranks: Ranks, call: Any, wrong: Any, words: str) -> None:
    ranks.run(2, fails_on_the_last, call, wrong, words)


def only_one_loads() -> None:
    transport.PATIENCE = timedelta(seconds=1)
    opt = built("fsdp", "muon")[1]
    state = opt.state_dict()
    if dist.get_rank() == 0:
        opt.load_state_dict(state)
    else:
        time.sleep(2)


def test_a_lonely_load_state_dict_is_an_error(ranks: Ranks) -> None:
    with pytest.raises(AssertionError, match=r"load_state_dict\(\) was not called on every"):
        ranks.run(2, only_one_loads)


def test_an_error_names_wrapped_recipes_whole() -> None:
    a, b = (nn.Parameter(torch.ones(3, 2)) for _ in range(2))
    groups: list[Any] = [{"params": [a]}, {"params": [b], "recipe": stiefel.adamw()}]
    two = stiefel.Optimizer(groups, stiefel.averaged(stiefel.muon())).state_dict()
    one = stiefel.Optimizer([a], stiefel.lookahead(stiefel.muon()))
    words = r"2 param groups \(averaged\(muon\), adamw\), this optimiser 1 \(lookahead\(muon\)\)"
    with pytest.raises(CheckpointError, match=words):
        one.load_state_dict(two)
