"""opt.evaluating() where matrices are dealt out: one process's weights inside, ours afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from stiefel import Optimizer, muon
from stiefel.engine.transport import local
from stiefel.errors import DistributedError
from stiefel.pieces import Averaged
from stiefel.recipe import Recipe
from stiefel.recipes import adamw, averaged, lookahead, schedule_free
from tests.distributed.cases import Pair, agree_on, random, spread_as
from tests.distributed.ranks import Ranks
from tests.distributed.test_equality import SHAPES, VIEWS

RECIPES: dict[str, Recipe] = {
    "averaged": averaged(muon(), ema_decay=0.5),
    "lookahead": lookahead(muon(), sync_every=3),
    "schedule_free": schedule_free(muon()),
    "on shards": averaged(adamw(), ema_decay=0.5),
    "nothing to show": muon(),
}


def pair_of(recipe: Recipe, kind: str, dtype: torch.dtype = torch.float64) -> Pair:
    return Pair(recipe, random(SHAPES, dtype, seed=0), spread_as(kind), VIEWS, ["bias"], lr=0.02)


def local_bits(pair: Pair) -> list[torch.Tensor]:
    return [local(p.detach()).clone() for p in pair.twins.values()]


def shows_the_same(recipe: str, kind: str) -> None:
    """Before the first step, after some, and training afterwards is not disturbed."""
    pair = pair_of(RECIPES[recipe], kind)
    for steps in (0, 4, 3):
        pair.run(steps, seed=steps)
        before = local_bits(pair)
        for _ in range(2):
            with pair.single.evaluating(), pair.several.evaluating():
                pair.check(1e-12)
                changed = any(
                    not torch.equal(*both) for both in zip(local_bits(pair), before, strict=True)
                )
            assert all(torch.equal(*both) for both in zip(local_bits(pair), before, strict=True))
        some = torch.tensor(changed)
        dist.all_reduce(some, op=dist.ReduceOp.MAX)
        assert bool(some) == (steps > 0 and recipe != "nothing to show")
    pair.check(1e-12)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    ("world", "kind"), [(1, "rows"), (2, "rows"), (3, "columns"), (4, "hybrid")]
)
def test_the_same_weights_as_on_one_process(
    ranks: Ranks, world: int, kind: str, recipe: str
) -> None:
    ranks.run(world, shows_the_same, recipe, kind)


def low_precision(kind: str) -> None:
    pair = pair_of(RECIPES["averaged"], kind, torch.bfloat16)
    pair.run(3)
    with pair.several.evaluating():
        for name, twin in pair.twins.items():
            assert twin.dtype is torch.bfloat16
            assert local(twin).isfinite().all()
            agree_on(twin, name)
    pair.run(1)


@pytest.mark.parametrize("kind", ["rows", "replicas"])
def test_replicas_of_16_bit_weights_agree(ranks: Ranks, kind: str) -> None:
    ranks.run(2, low_precision, kind)


def leaves_state_where_it_is() -> None:
    """No copy of the state is made, which would hold memory until the next step."""
    pair = pair_of(RECIPES["averaged"], "rows")
    pair.run(2)
    shares = pair.several._sharing.shares.values()
    places = [t.data_ptr() for s in shares for state in s.state.values() for t in state.values()]
    with pair.several.evaluating():
        pass
    now = [t.data_ptr() for s in shares for state in s.state.values() for t in state.values()]
    assert now == places


def test_the_state_stays_where_it_is(ranks: Ranks) -> None:
    ranks.run(2, leaves_state_where_it_is)


class Broken(Averaged):
    """Fails on the last rank."""

    def evaluation(self, *args: Any) -> torch.Tensor:
        if dist.get_rank() == dist.get_world_size() - 1:
            raise MemoryError("no room for the average")
        return super().evaluation(*args)


def fails_on_one_rank() -> None:
    whole = averaged(muon(), ema_decay=0.5)
    broken = replace(whole, apply=Broken(*vars(whole.apply).values()))
    pair = pair_of(whole, "rows")
    optimizer = Optimizer(pair.groups(pair.twins, broken), broken, lr=0.02)
    before = local_bits(pair)
    error = MemoryError if dist.get_rank() == 1 else DistributedError
    with pytest.raises(error, match="no room for the average"), optimizer.evaluating():
        pytest.fail("it must not get here")
    assert all(torch.equal(*both) for both in zip(local_bits(pair), before, strict=True))
    for twin in pair.twins.values():
        twin.grad = torch.ones_like(twin)
    optimizer.step()


def test_what_fails_on_one_rank_fails_on_all_and_brings_the_weights_back(ranks: Ranks) -> None:
    ranks.run(2, fails_on_one_rank)
