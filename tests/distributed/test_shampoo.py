"""Shampoo's other ways to a root on every layout; its defaults are in `test_equality.py`."""

from __future__ import annotations

import pytest
import torch

from stiefel.recipes import shampoo
from tests.distributed.ranks import Ranks
from tests.distributed.test_equality import check
from tests.recipes.test_shampoo_qr import VARIANTS


def equal(kind: str) -> None:
    for options in VARIANTS.values():
        check(shampoo(**options), kind, torch.float64, 1e-12, {})


@pytest.mark.parametrize(("world", "kind"), [(2, "rows"), (3, "columns"), (4, "hybrid")])
def test_every_way(ranks: Ranks, world: int, kind: str) -> None:
    ranks.run(world, equal, kind)
