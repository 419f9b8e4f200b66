"""What differs or fails on one rank only, and copies of what lies on several."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import stiefel
from stiefel.engine.distributed.rounds import Round
from stiefel.engine.transport import local, whole
from stiefel.errors import DistributedError, HyperparameterError, ParameterError
from tests.distributed.ranks import Ranks
from tests.distributed.test_wrappers import Model, batch, ddp, double, fsdp, loss_of


def sharded() -> nn.Parameter:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    made = nn.Parameter(distribute_tensor(torch.ones(6, 4), mesh, [Shard(0)], src_data_rank=None))
    made.grad = torch.ones_like(made)
    return made


OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.5},
    {"momentum": 0.5},
    {"maximize": True},
    {"guard": False},
    {"stagger": False},
    {"wire": torch.bfloat16},
]


def options_differ() -> None:
    for options in OPTIONS:
        with pytest.raises(ParameterError, match="ranks hold different parameters"):
            stiefel.Muon([("w", sharded())], **(options if dist.get_rank() else {}))


def a_group_is_refused_on_one() -> None:
    opt = stiefel.Muon([sharded()])
    kind = HyperparameterError if dist.get_rank() else DistributedError
    with pytest.raises(kind, match="out of range"):
        opt.add_param_group({"params": [sharded()], "lr": -1.0 if dist.get_rank() else 1.0})
    opt.step()


def a_number_is_spoilt_on_one() -> None:
    opt = stiefel.Muon([sharded()])
    opt.param_groups[0]["momentum"] = 7.0 if dist.get_rank() else 0.9
    kind = HyperparameterError if dist.get_rank() else DistributedError
    with pytest.raises(kind, match="momentum=7.0 is out of range"):
        opt.step()


def a_round_fails_on_one(part: str) -> None:
    opt = stiefel.Muon([sharded()])
    opt.step()

    def fail(*_: Any) -> None:
        raise MemoryError("no room")

    with pytest.MonkeyPatch.context() as patch:
        if dist.get_rank():
            patch.setattr(Round, part, fail)
        with pytest.raises(MemoryError if dist.get_rank() else DistributedError, match="no room"):
            opt.step()


@pytest.mark.parametrize(
    "case", [options_differ, a_group_is_refused_on_one, a_number_is_spoilt_on_one]
)
def test_all_ranks_hear_of_it(ranks: Ranks, case: Any) -> None:
    ranks.run(2, case)


@pytest.mark.parametrize("part", ["_room", "_step_owned", "_take_results"])
def test_all_ranks_hear_of_a_round_that_fails(ranks: Ranks, part: str) -> None:
    ranks.run(2, a_round_fails_on_one, part)


def no_group() -> None:
    for wrong in ("nccl", init_device_mesh("cpu", (2,)), dist.new_group([1 - dist.get_rank()])):
        with pytest.raises(ParameterError, match="is no process group of this rank"):
            stiefel.Muon([nn.Parameter(torch.ones(3, 3))], process_group=wrong)


def test_what_is_no_group_is_refused(ranks: Ranks) -> None:
    ranks.run(2, no_group)


def switched(wrap: Any) -> None:
    """As accelerate does: the optimiser first, then FSDP2, whose parameters it puts into it."""
    model, plain = double(Model()), double(Model())
    plain.load_state_dict(model.state_dict())
    early, usual = stiefel.optimizer(model, "soap"), stiefel.optimizer(plain, "soap")
    names = {parameter: name for name, parameter in model.named_parameters()}
    wrapped = dict(wrap(model).named_parameters())
    for group in early.param_groups:
        group["params"] = [wrapped[names[parameter]] for parameter in group["params"]]
    early.load_state_dict(copy.deepcopy(early.state_dict()))
    for step in range(3):
        for opt, trained in ((early, model), (usual, plain)):
            opt.zero_grad()
            loss_of(trained, *batch(step)).backward()
            opt.step()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(whole(wrapped[name].detach()), parameter.detach())
    early.state_dict()


def test_parameters_that_were_switched_after_construction(ranks: Ranks) -> None:
    ranks.run(2, switched, fsdp)


def copies(wrap: Any) -> None:
    """Vectors of one recipe lie in one stack; each is a DTensor somewhere in it."""
    model = wrap(double(Model()))
    opt = stiefel.optimizer(model, "muon", lr=0.02)
    loss_of(model, *batch(0)).backward()
    opt.step()
    assert len(opt.effective_lr()) == len(list(model.parameters()))
    live, kept = opt.state_dict(), copy.deepcopy(opt.state_dict())
    for key, entry in live["state"].items():
        for name, tensor in entry.items():
            assert torch.equal(local(tensor), local(kept["state"][key][name]))
    opt.zero_grad()  # torch cannot copy the gradients of fully_shard
    copy.deepcopy(opt).step()


@pytest.mark.parametrize("wrap", [ddp, fsdp])
def test_copies(ranks: Ranks, wrap: Any) -> None:
    ranks.run(2, copies, wrap)
