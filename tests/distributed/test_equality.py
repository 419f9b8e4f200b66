"""Every recipe on every layout ends where one process ends."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from stiefel import Optimizer, Recipe, views
from stiefel.engine.distributed import rounds
from stiefel.engine.transport import whole
from stiefel.recipes import REGISTRY
from tests.distributed.cases import MESHES, PLACEMENTS, Pair, random, spread_as
from tests.distributed.ranks import Ranks
from tests.distributed.test_layout import VIEWS as EVERY_VIEW

# Uneven over 2, 3 and 4 ranks, one with fewer rows than ranks, one that is smaller than the world.
SHAPES = {
    "wide": (7, 12),
    "tall": (13, 5),
    "flat": (2, 9),
    "row": (1, 6),
    "qkv": (24, 8),
    "experts": (5, 8, 10),
    "conv": (6, 3, 2, 2),
    "bias": (11,),
}
VIEWS = {"qkv": views.qkv(4, 2, per_head=True), "experts": views.stack}


def equal(name: str, kind: str, dtype: torch.dtype, tolerance: float, options: Any) -> None:
    check(REGISTRY[name](), kind, dtype, tolerance, options)


def check(recipe: Recipe, kind: str, dtype: torch.dtype, tolerance: float, options: Any) -> None:
    pair = Pair(
        recipe,
        random(SHAPES, dtype, seed=0),
        spread_as(kind),
        views=VIEWS,
        elementwise=["bias"],
        numbers={"refresh_every": 3},
        lr=0.02,
        **options,
    )
    pair.run(steps=10)
    pair.check(tolerance)


@pytest.mark.parametrize("kind", PLACEMENTS)
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_muon_on_every_layout(ranks: Ranks, world: int, kind: str) -> None:
    ranks.run(world, equal, "muon", kind, torch.float64, 1e-13, {})


# Experts are so large that those of one rank are refreshed in other steps than those of the next.
@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize(("world", "kind"), [(2, "rows"), (3, "columns"), (4, "hybrid")])
def test_every_recipe(ranks: Ranks, world: int, kind: str, name: str) -> None:
    ranks.run(world, equal, name, kind, torch.float64, 1e-12, {})


def in_single_precision(kind: str) -> None:
    """Gradients have the same bits on every layout, and so has what is made of whole matrices."""
    for name in REGISTRY:
        equal(name, kind, torch.float32, 1e-6, {})


SLOW = [pytest.param(*at, marks=pytest.mark.slow) for at in ((3, "rows"), (4, "hybrid"))]


@pytest.mark.parametrize(("world", "kind"), [(2, "columns"), *SLOW])
def test_every_recipe_in_single_precision(ranks: Ranks, world: int, kind: str) -> None:
    ranks.run(world, in_single_precision, kind)


def anything(seed: int, layouts: int) -> None:
    """Random shapes on random meshes with random placements, all parameters in one optimiser."""
    dice = Random(seed)
    world = dist.get_world_size()
    for number in range(layouts):
        ndim = dice.choice([1, 2])
        sizes = (world,) if ndim == 1 else dice.choice([(1, world), (world, 1), MESHES[world]])
        mesh = init_device_mesh("cpu", sizes)
        shapes = {
            "matrix": (dice.randint(1, 9), dice.randint(1, 9)),
            "stack": (dice.randint(1, 5), dice.randint(1, 5), dice.randint(1, 5)),
            "heads": (4 * dice.randint(1, 3), dice.randint(1, 6)),
        }
        placements = {
            shape: [dice.choice([Replicate(), *map(Shard, range(len(shape)))]) for _ in sizes]
            for shape in shapes.values()
        }

        def spread(tensor: Tensor, mesh: Any = mesh, placements: Any = placements) -> Tensor:
            return distribute_tensor(
                tensor, mesh, placements[tuple(tensor.shape)], src_data_rank=None
            )

        recipe = REGISTRY[dice.choice(["muon", "soap", "psgd_kron", "normuon"])]()
        given = {"stack": views.stack, "heads": views.heads(4)}
        pair = Pair(recipe, random(shapes, torch.float64, number), spread, views=given, lr=0.02)
        pair.run(steps=3, seed=number)
        pair.check(1e-12)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_random_layouts(ranks: Ranks, world: int) -> None:
    ranks.run(world, anything, 0, 4)


def every_view(seed: int) -> None:
    """One parameter for every view there is, each with a placement of its own."""
    dice, mesh = Random(seed), init_device_mesh("cpu", (dist.get_world_size(),))
    shapes = {name: view.shape for name, view in EVERY_VIEW.items()}
    placements = {
        name: dice.choice([Replicate(), *map(Shard, range(len(shape)))])
        for name, shape in shapes.items()
    }

    def spread(name: str, tensor: Tensor) -> Tensor:
        return distribute_tensor(tensor, mesh, [placements[name]], src_data_rank=None)

    def stepped(spread: Any) -> dict[str, Tensor]:
        start = random(shapes, torch.float64, seed)
        params = {name: torch.nn.Parameter(spread(name, t)) for name, t in start.items()}
        groups = [{"params": list(params.items()), "views": list(EVERY_VIEW.values())}]
        opt = Optimizer(groups, REGISTRY["soap"](), lr=0.02)
        for step in range(3):
            for name, grad in random(shapes, torch.float64, seed + step + 1).items():
                params[name].grad = spread(name, grad)
            opt.step()
        return {name: whole(p.detach()) for name, p in params.items()}

    ours, theirs = stepped(spread), stepped(lambda _, tensor: tensor)
    distances = {n: float((ours[n] - theirs[n]).norm() / theirs[n].norm()) for n in ours}
    assert max(distances.values()) < 1e-12, (placements, distances)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_every_view(ranks: Ranks, world: int) -> None:
    ranks.run(world, every_view, 0)


def in_many_rounds(kind: str, name: str) -> None:
    """The gradients of one round travel while another computes."""
    rounds.ROUND_BYTES, usual = 256, rounds.ROUND_BYTES
    try:
        equal(name, kind, torch.float64, 1e-12, {})
    finally:
        rounds.ROUND_BYTES = usual


@pytest.mark.parametrize(
    ("world", "kind", "name"),
    [(2, "rows", "muon"), (3, "replicas", "soap"), (4, "hybrid", "muon"), (3, "rows", "averaged")],
)
def test_many_rounds(ranks: Ranks, world: int, kind: str, name: str) -> None:
    ranks.run(world, in_many_rounds, kind, name)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
@pytest.mark.parametrize("world", [2, 3, 4])
def test_many_random_layouts(ranks: Ranks, world: int, seed: int) -> None:
    ranks.run(world, anything, seed, 10)
