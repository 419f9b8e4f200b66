"""OneCycleLR and CyclicLR write a momentum into every group, whatever its recipe reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch.optim import lr_scheduler

from stiefel import Optimizer, adafactor, adamw, muon
from stiefel.recipe import Recipe
from stiefel.recipes import REGISTRY, schedule_free
from tests.helpers import gradients, parameters, run

SCHEDULERS: list[Callable[[Any], Any]] = [
    lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=6, max_momentum=0.77),
    lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2, max_momentum=0.77),
]
every_scheduler = pytest.mark.parametrize("schedule", SCHEDULERS, ids=["OneCycleLR", "CyclicLR"])


def momenta(optimizer: Optimizer, recipes: list[Recipe]) -> list[float]:
    """What the groups hold of it; nothing of a recipe that has none."""
    found = []
    for group, recipe in zip(optimizer.param_groups, recipes, strict=True):
        found += [group["momentum"]] if "momentum" in recipe.live else []
        found += [group["betas"][0]] if "betas" in recipe.live else []
    return found


@every_scheduler
@pytest.mark.parametrize("cycled", [adamw(), muon()], ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("name", REGISTRY)
def test_any_recipe_steps_beside_a_cycled_one(
    name: str, cycled: Recipe, schedule: Callable[[Any], Any]
) -> None:
    for recipes in ([REGISTRY[name](), cycled], [cycled, REGISTRY[name]()]):
        params = parameters((6, 4), (6, 4))
        groups = [{"params": [p], "recipe": r} for p, r in zip(params, recipes, strict=True)]
        optimizer = Optimizer(groups, recipes[0])
        scheduler = schedule(optimizer)
        run(optimizer, params, gradients(params, 1))
        assert set(momenta(optimizer, recipes)) == {0.77}
        scheduler.step()
        run(optimizer, params, gradients(params, 1))
        (now,) = set(momenta(optimizer, recipes))
        assert now != 0.77


@every_scheduler
def test_without_any_momentum_there_is_nothing_to_cycle(schedule: Callable[[Any], Any]) -> None:
    """Not even where the recipe of no group has one."""
    a, b = parameters((6, 4), (6, 4))
    groups = [{"params": [a], "recipe": adafactor()}, {"params": [b], "recipe": schedule_free()}]
    with pytest.raises(ValueError, match="cycle_momentum"):
        schedule(Optimizer(groups, adamw()))
    lr_scheduler.OneCycleLR(Optimizer(groups, adamw()), 0.1, total_steps=6, cycle_momentum=False)
