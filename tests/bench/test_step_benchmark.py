"""The benchmark of whole steps: its gradients, its fairness, its numbers, its table."""

import itertools
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import stiefel
from stiefel.recipes import REGISTRY

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # scripts, not a package
import pages
import step
import step_optimizers
import step_report
from step_optimizers import BASELINE, Contestant, Peer, Work
from step_report import Race, Result
from step_stage import QUICK, Size, Stage, shapes, state_bytes

TINY = Size(layers=1, width=16, steps=4, every=2, rank=4)


@pytest.fixture(scope="module")
def race() -> Race:
    return step.measure(TINY, ["adamw", "muon"])


# -- the run -------------------------------------------------------------------------------------


def test_every_contestant_has_every_number(race: Race) -> None:
    labels = [r.label for r in race.results]
    assert {"stiefel.adamw", "stiefel.muon", BASELINE, "torch.optim.AdamW"} <= set(labels)
    assert not [label for label in race.absent if label.startswith(("stiefel", "torch"))]
    for result in race.results:
        assert len(result.milliseconds) == TINY.steps - 1 and min(result.milliseconds) > 0
        assert result.start_seconds > 0 and result.graphs == 0 and result.worst >= 1
    state = {r.label: r.state_bytes for r in race.results}
    assert state[BASELINE] == pytest.approx(4, abs=0.1)
    assert state["stiefel.muon"] == pytest.approx(4, abs=0.1)
    assert state["stiefel.adamw"] == pytest.approx(8, abs=0.1)
    assert race.numbers(race.results[labels.index(BASELINE)])["median_ratio"] == 1


def test_survives_json(race: Race) -> None:
    fields = json.loads(json.dumps(race.as_json()))
    assert Race.from_json(fields) == race
    wanted = {
        "median_ratio",
        "mean_ratio",
        "worst_over_median",
        "state_bytes",
        "settings",
        "graphs",
    }
    assert all(wanted <= row.keys() for row in fields["results"])
    assert {"machine", "packages", "refresh", "parameters"} <= fields["facts"].keys()


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n{}old\n{}after\n".format(*pages.marks("step cpu-1x16")))
    options = ["--quick", "--width", "16", "--steps", "2", "--methods", "adamw", "--folder"]
    monkeypatch.setattr(sys, "argv", ["step.py", *options, str(tmp_path)])
    step.main()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--report", str(page)])
    step.main()
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| stiefel.adamw |" in text and f"{BASELINE} | 1 | 1 |" in text
    with pytest.raises(ValueError, match="at least 2"):
        Size(steps=1)


@pytest.mark.parametrize(("compiling", "timed"), [((1,), 3), ((1, 2, 4), 1), ((1, 2, 3, 4), 0)])
def test_steps_that_compile_are_compilation(
    compiling: tuple[int, ...], timed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refresh compiles when it comes: no step that trains for long takes that time."""
    stage = Stage(TINY, "cpu")
    contestant = Contestant("sgd", "sgd", {}, lambda params: torch.optim.SGD(params, 1e-2))
    lane, made = (
        step.Lane(contestant),
        itertools.accumulate(
            number for index in range(1, 5) for number in (0, 3 * (index in compiling))
        ),
    )
    monkeypatch.setattr(step, "graphs_so_far", lambda: next(made))
    starts = []
    for _ in range(4):
        stage.draw()
        lane.turn(stage)
        starts.append(lane.start_seconds)
    grew = [index for index, (a, b) in enumerate(itertools.pairwise([0.0, *starts]), 1) if b > a]
    assert grew == list(compiling)
    assert len(lane.milliseconds) == timed and lane.graphs == 3 * len(compiling)
    result = lane.finish(stage)
    assert (result is None) == (timed == 0) and ("--steps" in lane.failure) == (timed == 0)


# -- who takes part ------------------------------------------------------------------------------


def test_every_recipe_takes_part_with_equal_refreshes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refreshed(*, lr: None = None, rank: int = 1, refresh_every: int = 2) -> stiefel.Recipe:
        return stiefel.adamw(lr=lr)

    monkeypatch.setitem(REGISTRY, "refreshed", refreshed)
    work = Work(refresh_every=7, rank=3)
    found, _ = step_optimizers.contestants(step_optimizers.methods(work), work, compile=False)
    ours = {c.method: c for c in reversed(found) if c.label.startswith("stiefel")}
    assert set(ours) == set(REGISTRY)
    assert ours["refreshed"].settings == {"refresh_every": 7, "rank": 3}
    for contestant in ours.values():
        group = contestant.build([torch.zeros(4, 6, requires_grad=True)]).param_groups[0]
        assert group.get("refresh_every", 7) == 7
    blocks = [method for method, _ in itertools.groupby(c.method for c in found)]
    assert len(blocks) == len(set(blocks))


def test_absent_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        step_optimizers,
        "peers",
        lambda work: [
            Peer("muon", "torch.optim", "Muon"),
            Peer("adamw", "no_such_package", "AdamW"),
            Peer("adamw", "torch.optim", "NoSuchOptimizer"),
        ],
    )
    found, absent = step_optimizers.contestants(["adamw"], Work(1, 1), compile=False)
    assert [c.label for c in found] == [BASELINE, "stiefel.adamw"]
    assert set(absent) == {"no_such_package.AdamW", "torch.optim.NoSuchOptimizer"}
    assert "no_such_package" in absent["no_such_package.AdamW"]


class Troubled(torch.optim.SGD):
    """Writes where it should not, and fails in its third step."""

    def step(self, closure: Any = None) -> Any:
        for p in self.param_groups[0]["params"]:
            count = self.state[p]["count"] = self.state[p].get("count", 0) + 1
            if count == 3:
                raise ArithmeticError("no further")
            p.grad.mul_(1e3)
            p.grad = None
            p.data.fill_(float(count))


class Idle(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        return None


class Watcher(torch.optim.SGD):
    """Notes what it was given."""

    nobodys_state = torch.zeros(7)

    def step(self, closure: Any = None) -> Any:
        self.seen = getattr(self, "seen", [])
        self.seen += [(p.detach().clone(), p.grad.clone()) for p in self.param_groups[0]["params"]]
        return super().step()


def test_nobody_disturbs_anybody() -> None:
    watchers: list[Watcher] = []

    def watch(params: list[Tensor]) -> Watcher:
        watchers.append(Watcher(params, lr=1.0))
        return watchers[-1]

    named = {"a": watch, "troubled": Troubled, "idle": Idle, "b": watch}
    found = [Contestant("sgd", label, {}, build) for label, build in named.items()]
    results, failed = step.race(found, Stage(TINY, "cpu"), 4)
    assert [r.label for r in results] == ["a", "b"]
    assert failed == {
        "troubled": "ArithmeticError: no further",
        "idle": "it never moved the weights",
    }
    first, second = (watcher.seen for watcher in watchers)
    assert len(first) == 4 * len(shapes(TINY))
    for (W, G), (other_W, other_G) in zip(first, second, strict=True):
        assert torch.equal(W, other_W) and torch.equal(G, other_G)
    assert torch.equal(first[0][0], first[-4][0]) and not torch.equal(first[0][1], first[-4][1])


def test_weights_must_stay_finite() -> None:
    found = [Contestant("sgd", "far", {}, lambda params: torch.optim.SGD(params, lr=float("nan")))]
    results, failed = step.race(found, Stage(TINY, "cpu"), 2)
    assert not results and "not finite" in failed["far"]


# -- the stage -----------------------------------------------------------------------------------


def test_gradients_are_new_heavy_tailed_and_reproducible() -> None:
    stages = [Stage(QUICK, "cpu") for _ in range(2)]
    for stage in stages:
        stage.draw()
        stage.reset()
        torch.randn(3)  # torch's own generator is not the stage's
    grads = [[p.grad.clone() for p in stage.params] for stage in stages]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    for G in grads[0]:
        S = torch.linalg.svdvals(G)
        assert S.norm() == pytest.approx(1, rel=0.02)
        assert S[:8].norm() > 0.7 and 1e-4 < S.median() < 1e-2
    stages[0].draw()
    stages[0].reset()
    again = [p.grad for p in stages[0].params]
    for a, b in zip(grads[0], again, strict=True):
        assert abs(torch.sum(a * b)) < 0.5  # another matrix ...
        U, V = (torch.linalg.svd(G, full_matrices=False).U[:, :64] for G in (a, b))
        assert torch.linalg.matrix_norm(U.T @ V) > 7  # ... in the same 64 directions


def test_state_is_counted_once() -> None:
    p = torch.zeros(10, requires_grad=True)
    optimizer = torch.optim.SGD([p])
    stack = torch.zeros(100)
    optimizer.state[p] = {
        "alias": [stack[:50], stack[50:]],
        "nested": {0: (torch.zeros(5, dtype=torch.bfloat16), SimpleNamespace(root=torch.zeros(3)))},
        "itself": p,
        "number": 3,
        "class": Watcher,
    }
    assert state_bytes(optimizer) == 400 + 10 + 12


def test_the_list_is_gpt2s() -> None:
    assert sum(m * n for m, n in shapes(Size(layers=12))) == 84_934_656
    optimizer = stiefel.Muon(Stage(TINY, "cpu").params)
    assert [tuple(p.shape) for p in optimizer.param_groups[0]["params"]] == shapes(TINY)


# -- the table -----------------------------------------------------------------------------------


def result(label: str, milliseconds: list[float], **other: Any) -> Result:
    fields = {"method": "muon", "settings": {}, "state_bytes": 4.0, "graphs": 0}
    return Result(
        **fields | {"label": label, "milliseconds": milliseconds, "start_seconds": 2} | other
    )


def test_table() -> None:
    ours = result("stiefel.soap", [10.0, 10, 10, 50], method="soap", state_bytes=38.666, graphs=4)
    race = Race({"machine": "a 386"}, "base", [result("base", [20.0]), ours], {"x.Y": "no x"})
    text = step_report.table(race)
    assert "| `soap` | stiefel.soap | 0.5 | 1 | 5.00 | 38.67 | 2.0 | 4 |" in text
    assert "| `muon` | base | 1 | 1 | 1.00 | 4.00 | 0.0 | 0 |" in text
    assert "- machine: a 386\n" in text and "x.Y: no x" in text and "20 ms" in text
    assert "graphs" not in step_report.table(Race({}, "base", [result("base", [20.0])], {}))
