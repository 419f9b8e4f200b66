"""The race of `benchmarks/race.py`: how it tunes, what it remembers, what it reports."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stiefel import recipes
from stiefel.bench.race import Record
from stiefel.bench.settings import Settings
from stiefel.bench.text import Text
from stiefel.bench.training import Point

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # scripts, not a package

import fidelity_lab
import race
from fidelity_lab import Lab, Log

THREE = ["muon()", "averaged(muon())", 'soap(precision="bfloat16", block=192)']


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "REGISTRY", dict(recipes.REGISTRY))
    monkeypatch.setattr(recipes, "ROUTINGS", dict(recipes.ROUTINGS))


@pytest.fixture
def lab(tmp_path: Path, text: Text) -> Lab:
    return race.laboratory(THREE, Log(tmp_path / "runs.jsonl"), text)


def reopened(lab: Lab) -> Lab:
    return race.laboratory(THREE, Log(lab.log.path))


def formula(settings: Settings, *_: object) -> Record:
    """Training without training: the best learning rate depends on the method's name."""
    best = 0.01 * 2.0 ** (len(settings.optimizer) % 4)
    loss = 2 + abs(math.log(settings.lr / best)) / 9 + settings.seed / 10
    points = (Point(settings.steps, loss),)
    return Record(settings.optimizer, settings.lr, settings.seed, points, 60.0, 15.0, 10, 45, 0)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """From now on so many runs are formulas; the next is killed."""
    monkeypatch.setattr(fidelity_lab, "Run", lambda settings, *_: settings)

    def allow(runs: int) -> None:
        left = iter(range(runs))

        def until_killed(settings: Settings, _: object) -> Record:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return formula(settings)

        monkeypatch.setattr(fidelity_lab, "finish", until_killed)

    return allow


def test_every_method_is_one_that_settings_know() -> None:
    race.register(race.METHODS)
    for method in race.METHODS:
        Settings(optimizer=method)
    assert {method.split("(")[0] for method in race.METHODS} == {
        *recipes.ROUTINGS,
        *recipes.REGISTRY,
    } - {*race.METHODS} - {method for method in recipes.REGISTRY if "(" in method}


def test_a_call_makes_what_it_says() -> None:
    race.register(THREE)
    assert recipes.find("averaged(muon())").name == "averaged(muon)"
    assert recipes.REGISTRY["muon()"](weight_decay=0.0).live["weight_decay"].default == 0
    assert recipes.REGISTRY["averaged(muon())"]().live["weight_decay"].default > 0


@pytest.mark.parametrize("optimum", range(-race.FURTHEST, race.FURTHEST + 1))
def test_the_search_ends_between_two_worse_neighbours(optimum: int) -> None:
    tried: list[int] = []

    def loss(rung: int) -> float:
        tried.append(rung)
        return abs(rung - optimum)

    assert race.search(loss) == optimum
    assert len(tried) == len({*tried})
    assert max(map(abs, tried)) <= race.FURTHEST


def test_divergence_ends_the_search() -> None:
    assert race.search(lambda rung: math.inf if rung > 0 else 9 + rung) == -race.FURTHEST
    assert race.search(lambda rung: math.inf if rung > 1 else 9 - rung) == 1


@pytest.mark.parametrize("survived", [0, 3, 7])
def test_a_killed_race_goes_on_where_it_stopped(
    lab: Lab, tmp_path: Path, trained: Callable[[int], None], survived: int
) -> None:
    def compete(lab: Lab) -> None:
        for method in THREE:
            race.compete(lab, method, seeds=2)

    race.register(THREE)
    whole = replace(lab, log=Log(tmp_path / "whole.jsonl"))
    trained(100)
    compete(whole)
    trained(survived)
    with pytest.raises(KeyboardInterrupt):
        compete(lab)
    assert len(reopened(lab).log.lines) == survived
    trained(100)
    compete(replace(lab, log=Log(lab.log.path)))
    assert lab.log.path.read_text() == whole.log.path.read_text()


def test_what_is_not_finished_has_no_result(lab: Lab, trained: Callable[[int], None]) -> None:
    race.register(THREE)
    trained(100)
    for method, seeds in zip(THREE, (3, 3, 2), strict=True):
        race.compete(lab, method, seeds)
    found = {method: race.result(reopened(lab), method, seeds=3) for method in THREE}
    assert [method for method, result in found.items() if result is None] == [THREE[2]]
    best = found[THREE[0]]
    assert best.lr == pytest.approx(0.01 * 2.0 ** (len(THREE[0]) % 4))
    assert best.losses == pytest.approx({0: 2.0, 1: 2.1, 2: 2.2})
    assert best.state_bytes == 4.5


def test_the_table_has_the_best_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = race.Result("muon()", 0.02, {0: 2.0, 1: 2.1, 2: 2.2}, 4.5)
    worse = race.Result("worse()", 0.01, dict.fromkeys(range(3), 3.0), 8.0)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- race -->\nold\n<!-- end of race -->\nafter\n")
    monkeypatch.setattr(race, "PAGE", page)
    race.write({"worse()": worse, "muon()": best})
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert text.index("| `muon()` | 0.02 | 2.1") < text.index("| `worse()` | 0.01 | 3.0")
    assert "| +0.900 | 8.0 |" in text
