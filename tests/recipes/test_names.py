"""What a name stands for, and what an unknown one is told."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

import stiefel
from stiefel.errors import HyperparameterError, RecipeError, StiefelError, check_choice
from stiefel.recipes import REGISTRY, ROUTINGS, find, muon, named


def choices(error: pytest.ExceptionInfo[StiefelError]) -> list[str]:
    return str(error.value).split("choose one of ")[1].split(", ")


@pytest.mark.parametrize("value", ["three", 3, None, ["one"], {"one": 1}])
def test_an_unknown_value_is_named_with_the_choices(value: Any) -> None:
    with pytest.raises(HyperparameterError, match="size=.* is unknown: choose one of 1, 2") as told:
        check_choice("size", value, iter((1, 2)), HyperparameterError)
    assert repr(value) in str(told.value)
    check_choice("size", 2, {1: "one", 2: "two"}, HyperparameterError)


def test_names() -> None:
    recipe = muon(momentum=0.5)
    assert find(recipe) is recipe
    assert all(find(name) == named(name) == REGISTRY[name]() for name in REGISTRY)
    assert all(named(name) == ROUTINGS[name]() for name in ROUTINGS)


def test_a_role_has_recipes_to_choose_from_and_a_model_routings_too() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(RecipeError, match="recipe='moun'") as told:
        stiefel.plan(model, "moun")
    assert choices(told) == [*REGISTRY, *ROUTINGS]
    for wrong in ("moun", *ROUTINGS, muon):
        with pytest.raises(RecipeError, match="recipe=.* is unknown") as told:
            stiefel.plan(model, {"hidden": wrong})  # type: ignore[dict-item]
        assert choices(told) == [*REGISTRY]
