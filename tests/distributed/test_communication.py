"""What a plan says of a step's traffic is what a step sends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

import stiefel
from stiefel.engine.transport import Team
from stiefel.errors import HyperparameterError
from tests.distributed.cases import MESHES, spread_as
from tests.distributed.ranks import Ranks

CUTS: dict[str, tuple[int | None, ...]] = {
    "rows": (0,),
    "columns": (1,),
    "replicas": (None,),
    "hybrid": (None, 0),
    "rows of columns": (0, 1),
}


def model(layers: int = 2, d: int = 16) -> nn.Sequential:
    """Sizes such that every rectangle fills its room in a buffer."""
    made = nn.Sequential(nn.Embedding(32, d))
    for _ in range(layers):
        made.extend([nn.Linear(d, 4 * d, bias=False), nn.Linear(4 * d, d, bias=False)])
    return made.append(nn.Linear(d, 32, bias=False))


def sends_what_was_said(kind: str, recipe: Any, wire: torch.dtype | None) -> None:
    torch.manual_seed(0)
    several, sent = model(), [0]
    spread, real = spread_as(kind), Team.wire
    for module in several:
        module.weight = nn.Parameter(spread(module.weight.detach()))
    opt = stiefel.optimizer(several, recipe, wire=wire)

    def counting(team: Team, arriving: Any, buffer: Any, *sizes: Any) -> Any:
        sent[0] += buffer.numel()
        return real(team, arriving, buffer, *sizes)

    for _ in range(2):  # the first step also moves weights
        for module in several:
            module.weight.grad = spread(torch.randn(module.weight.shape))
        sent[0], Team.wire = 0, counting  # type: ignore[method-assign]
        opt.step()
        Team.wire = real  # type: ignore[method-assign]
    counts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(counts, (sent[0], state_here(opt)))
    mesh = (dist.get_world_size(),) if len(CUTS[kind]) == 1 else MESHES[dist.get_world_size()]
    said = stiefel.plan(model(), recipe).communication(mesh, CUTS[kind], wire=wire)
    assert sum(count for count, _ in counts) == said.bytes
    assert tuple(size for _, size in counts) == said.state


def state_here(opt: stiefel.Optimizer) -> int:
    own = [state for share in opt._sharing.shares.values() for state in share.state.values()]
    every = [t for state in (*own, *opt.state.values()) for k, t in state.items() if k != "step"]
    parts = [t.to_local() if isinstance(t, DTensor) else t for t in every]
    return sum(part.numel() * part.element_size() for part in parts)


@pytest.mark.parametrize("wire", [None, torch.bfloat16])
@pytest.mark.parametrize("kind", CUTS)
def test_bytes_are_those_that_are_sent(ranks: Ranks, kind: str, wire: Any) -> None:
    ranks.run(4, sends_what_was_said, kind, "muon", wire)


def test_bytes_of_two_recipes(ranks: Ranks) -> None:
    """Owners are chosen group by group, not in the model's order."""
    ranks.run(3, sends_what_was_said, "rows", {"hidden": "muon", "head": "soap"}, None)


def test_bytes_of_soap(ranks: Ranks) -> None:
    ranks.run(2, sends_what_was_said, "rows", "soap", None)


@pytest.mark.parametrize("ranks_", [2, 3, 4, 8])
@pytest.mark.parametrize("recipe", ["muon", "soap"])
def test_state_and_work_are_even(ranks_: int, recipe: str) -> None:
    """Within a tenth for a transformer's matrices, embedding included."""
    with torch.device("meta"):
        said = stiefel.plan(model(layers=12, d=64), recipe).communication((ranks_,))
        memory = stiefel.plan(model(layers=12, d=64), recipe).memory((ranks_,))
    for parts in (said.state, said.work):
        assert max(parts) <= 1.1 * sum(parts) / ranks_
    assert memory.ranks == said.state and f"on {ranks_} ranks at most" in str(memory)
    counts = 4 * len(memory.bytes)
    assert sum(memory.ranks) == pytest.approx(memory.total - counts, rel=1e-3)


def test_a_step_moves_less_than_an_all_gather() -> None:
    with torch.device("meta"):
        plan = stiefel.plan(model(layers=12, d=64), "muon")
    said = plan.communication((64,))
    assert said.bytes < said.all_gather / 25
    halved = plan.communication((64,), wire=torch.bfloat16)
    assert halved.bytes == said.bytes // 2
    assert "64 ranks" in str(said)


def test_heads_that_no_boundary_cuts_stay() -> None:
    """Four heads of 4 rows: two ranks have two each, on three one head is cut."""
    with torch.device("meta"):
        plan = stiefel.plan(
            nn.Sequential(nn.Linear(16, 16, bias=False)),
            "muon",
            roles={"0.weight": "hidden"},
            views={"0.weight": stiefel.views.heads(4)},
        )
    said = plan.communication((2,))
    assert (said.at_home, said.matrices, said.bytes) == (4, 4, 0)
    assert "4 of 4 matrices stay where they are" in str(said)
    assert plan.communication((3,)).at_home == 3


def test_thousands_of_ranks() -> None:
    """Experts over 64 ranks, each matrix over 64 others: told in a moment, and even."""
    with torch.device("meta"):
        model = nn.Module()
        model.up = nn.Parameter(torch.empty(384, 256, 128))
        model.down = nn.Parameter(torch.empty(384, 128, 128))
    views, roles = {"*": stiefel.views.stack}, {"*": "expert"}
    said = stiefel.plan(model, "muon", views=views, roles=roles).communication((64, 64), (0, 1))
    assert len(said.work) == 4096 and said.matrices == 768 and said.at_home == 0
    assert max(said.work) == 4 * 256 * 128 * 128


@pytest.mark.parametrize("mesh", [(), 4, (2, 0)])
def test_a_mesh_that_is_none_is_refused(mesh: Any) -> None:
    with pytest.raises(HyperparameterError, match="mesh=.* give the number of ranks"):
        stiefel.plan(model(), "muon").communication(mesh)


def test_cuts_that_do_not_fit_the_mesh_are_refused() -> None:
    with pytest.raises(HyperparameterError, match=r"cuts \(0, 1\) of .*weight do not fit"):
        stiefel.plan(model(), "muon").communication((4,), (0, 1))
