"""The plan of every model of the zoo against the one written out in ``expected/``.

One line for every parameter, the numbers of layers hidden: name, role, recipe, view.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from torch import nn

import stiefel
from stiefel.plan import Plan
from tests.roles import zoo

EXPECTED = {file.stem: file for file in sorted((Path(__file__).parent / "expected").glob("*.txt"))}


def model_of(name: str) -> nn.Module:
    return zoo.published(name) if name in zoo.PUBLISHED else zoo.OWN[name]()


def lines(plan: Plan) -> list[list[str]]:
    """The words of every line; equal lines once."""
    found = (
        (
            re.sub(r"(?<=[.])\d+(?=[.])", "#", entry.name),
            entry.role,
            entry.recipe.name,
            *str(entry.view or "-").split(),
        )
        for entry in plan.values()
    )
    return [list(line) for line in dict.fromkeys(found)]


def test_every_model_has_an_expectation() -> None:
    assert EXPECTED.keys() == zoo.PUBLISHED.keys() | zoo.OWN.keys()


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_plan(name: str) -> None:
    plan = stiefel.plan(model_of(name), "muon")
    assert lines(plan) == [line.split() for line in EXPECTED[name].read_text().splitlines()]


@pytest.mark.parametrize("name", sorted(zoo.PUBLISHED.keys() - {"mamba"}))
def test_everything_in_a_published_transformer_is_recognised(name: str) -> None:
    plan = stiefel.plan(zoo.published(name), "muon")
    assert "Not recognised" not in str(plan)
    assert not plan.warning


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "bert", "t5", "falcon"])
def test_tied_weights_appear_once(name: str) -> None:
    model = zoo.published(name)
    plan = stiefel.plan(model, "muon")
    table = model.get_input_embeddings().weight
    (entry,) = (e for e in plan.values() if e.parameter is table)
    assert entry.role == "embedding"
    assert "tied with" in entry.reason
    assert all(plan[other] is entry for other in entry.tied)
    assert len(plan) == len(list(model.parameters()))
