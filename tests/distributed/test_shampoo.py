"""Shampoo's other ways to a root on every layout; its defaults are in `test_equality.py`."""

from __future__ import annotations

import pytest
import torch

from stiefel.recipes import shampoo
from tests.distributed.cases import Pair, random, spread_as
from tests.distributed.ranks import Ranks
from tests.distributed.test_equality import SHAPES, VIEWS
from tests.recipes.test_shampoo_qr import VARIANTS


def equal(kind: str) -> None:
    for options in VARIANTS.values():
        pair = Pair(
            shampoo(**options),
            random(SHAPES, torch.float64, seed=0),
            spread_as(kind),
            views=VIEWS,
            elementwise=["bias"],
            numbers={"refresh_every": 3},
            lr=0.02,
        )
        pair.run(steps=10)
        pair.check(1e-12)


@pytest.mark.parametrize(("world", "kind"), [(2, "rows"), (3, "columns"), (4, "hybrid")])
def test_every_way(ranks: Ranks, world: int, kind: str) -> None:
    ranks.run(world, equal, kind)
