"""The study of `benchmarks/fidelity.py`: what it runs, what it remembers, what it reports."""

import json
import math
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from stiefel import recipes
from stiefel.bench.race import Record
from stiefel.bench.settings import Settings
from stiefel.bench.text import Text
from stiefel.bench.training import Point

from .conftest import TINY

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # scripts, not a package

import fidelity
import fidelity_lab
import fidelity_report
from fidelity_lab import ABOVE, LAST, START, Lab, Log, rate, search, wanted
from fidelity_report import Study

VARIANTS = {"jordan": {"polar": "jordan", "ns_steps": 5}, "exact": {"polar": "exact"}}
NAN, INF = math.nan, math.inf


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two variants, as recipes for this test alone."""
    monkeypatch.setattr(fidelity, "VARIANTS", VARIANTS)
    monkeypatch.setattr(recipes, "REGISTRY", dict(recipes.REGISTRY))
    fidelity_lab.register(VARIANTS)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "results" / "runs.jsonl"


@pytest.fixture
def lab(log: Path, text: Text) -> Lab:
    short = Text(None, 1, "short", text.training, text.held_out[: 2 * (TINY.context + 1)])
    return Lab("tiny", replace(TINY, steps=4), VARIANTS, Log(log), short)


def reopened(lab: Lab, **changes: Any) -> Lab:
    return replace(lab, log=Log(lab.log.path), **changes)


def identity(line: dict) -> str:
    return json.dumps({key: line[key] for key in ("kind", "task", "settings", "recipe", "text")})


# -- learning rates ------------------------------------------------------------------------------


def test_two_rungs_double_the_learning_rate() -> None:
    rates = [rate(rung) for rung in range(-LAST, LAST + 1)]
    assert rates == sorted(set(rates))
    assert rates[LAST] == 0.01
    for low, high in zip(rates, rates[2:], strict=False):
        assert high / low == pytest.approx(2, rel=5e-3)


@pytest.mark.parametrize("optimum", range(-LAST, LAST + 1))
def test_the_grid_grows_until_the_best_is_inside(optimum: int) -> None:
    tried: list[int] = []

    def loss(rung: int) -> float:
        tried.append(rung)
        return 2 + (rung - optimum) ** 2

    assert search(loss) == optimum
    assert len(tried) == len(set(tried))
    assert {*START} <= {*tried} <= {*range(-LAST, LAST + 1)}
    around = {optimum + offset for offset in (-1, 0, 1, *ABOVE)}
    assert {rung for rung in around if abs(rung) <= LAST} <= {*tried}


def test_no_rung_is_tried_that_nothing_asks_for() -> None:
    tried: list[int] = []
    search(lambda rung: tried.append(rung) or abs(rung))
    assert sorted(tried) == [-2, -1, 0, 1, 2, 3]


def test_divergence_is_above_every_loss_and_ends_the_search() -> None:
    assert search(lambda rung: INF if rung > 1 else -rung) == 1
    assert search(lambda rung: INF) in START


def test_an_unfinished_search_knows_what_it_wants() -> None:
    assert wanted({}) == list(START)
    assert wanted({-4: 4.0, -2: 3.0, 0: 2.0, 2: 1.0}) == [1, 3, 4, 5]
    assert wanted({rung: abs(rung) for rung in range(-4, 4)}) == []


# -- the log -------------------------------------------------------------------------------------


def record(losses: Sequence[float], **changes: Any) -> Record:
    curve = tuple(Point(step, loss) for step, loss in enumerate(losses, start=1))
    return replace(Record("jordan", 0.01, 0, curve, 60.0, 15.0, 1000, 4500, 0), **changes)


def test_a_record_survives_strict_json() -> None:
    before = record([3.0, 2.5, NAN, INF])
    line = json.dumps(fidelity_lab.to_line(before), allow_nan=False)
    after = fidelity_lab.from_line(json.loads(line))
    assert after.curve[:2] == before.curve[:2]
    assert [math.isnan(point.loss) for point in after.curve] == [False, False, True, True]
    assert replace(after, curve=()) == replace(before, curve=())


@pytest.mark.parametrize(
    ("loss", "final"), [(2.0, 2.0), (5.5, 5.5), (5.6, INF), (NAN, INF), (INF, INF)]
)
def test_no_better_than_guessing_is_diverged(loss: float, final: float) -> None:
    assert fidelity_lab.final_loss(record([3.0, loss])) == final


def test_the_newest_line_is_found(log: Path) -> None:
    book = Log(log)
    for value in (1, 2):
        book.append({"kind": "pace", "settings": {"lr": 0.1}, "value": value})
    book.append({"kind": "pace", "settings": {"lr": 0.2}, "value": 3})
    for known in (book, Log(log)):
        assert known.find({"kind": "pace", "settings": {"lr": 0.1}})["value"] == 2
        assert known.find({"kind": "run", "settings": {"lr": 0.1}}) is None


@pytest.mark.parametrize("rest", ["", '{"value": 2', '{"value": 2}'])
def test_a_line_cut_off_by_a_crash_is_forgotten(log: Path, rest: str) -> None:
    log.parent.mkdir()
    log.write_text('{"value": 1}\n' + rest)
    fidelity_lab.mend(log)
    Log(log).append({"value": 3})
    assert [line["value"] for line in Log(log).lines] == [1, 3]


def test_nothing_to_mend(log: Path) -> None:
    fidelity_lab.mend(log)
    assert not log.exists()


# -- runs ----------------------------------------------------------------------------------------


def test_a_study_is_done_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    paces = {"jordan": (2.0, 1.0), "exact": (4.0, 3.0)}
    monkeypatch.setattr(fidelity_lab, "step_seconds", lambda *_: paces)
    fidelity.run(lab, ["exact"], seeds=2, workers=1)
    lines = Log(lab.log.path).lines
    runs = [Settings(**line["settings"]) for line in lines if line["kind"] == "run"]
    assert len({identity(line) for line in lines}) == len(lines)
    assert {run.optimizer for run in runs} == {"exact"}
    assert {rate(rung) for rung in START} <= {run.lr for run in runs}
    repeated = [run for run in runs if run.seed == 1]
    assert sorted(run.steps for run in repeated) == [2, 4]
    assert len({run.lr for run in repeated}) == 1

    monkeypatch.setattr(fidelity_lab, "finish", lambda *_: pytest.fail("a run was repeated"))
    monkeypatch.setattr(fidelity_lab, "step_seconds", lambda *_: pytest.fail("timed again"))
    fidelity.run(reopened(lab), ["exact"], seeds=2, workers=1)
    assert Log(lab.log.path).lines == lines


@pytest.mark.parametrize("survived", range(0, 12, 3))
def test_a_killed_study_goes_on_where_it_stopped(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    """Training is a formula here: what counts is which runs are done."""
    budget = iter(())

    def until_killed(settings: Settings, _: object) -> Record:
        if next(budget, None) is None:
            raise KeyboardInterrupt
        return record([abs(math.log(settings.lr / 0.03)) + settings.seed / 10])

    monkeypatch.setattr(fidelity_lab, "Run", lambda settings, *_: settings)
    monkeypatch.setattr(fidelity_lab, "finish", until_killed)
    monkeypatch.setattr(fidelity_lab, "step_seconds", lambda *_: dict.fromkeys(VARIANTS, (2, 1)))
    whole = replace(lab, log=Log(tmp_path / "whole.jsonl"))
    budget = iter(range(100))
    fidelity.run(whole, list(VARIANTS), seeds=2, workers=1)
    budget = iter(range(survived))
    with pytest.raises(KeyboardInterrupt):
        fidelity.run(lab, list(VARIANTS), seeds=2, workers=1)
    assert len(Log(lab.log.path).lines) == len(VARIANTS) + survived
    budget = iter(range(100))
    fidelity.run(reopened(lab), list(VARIANTS), seeds=2, workers=1)
    assert lab.log.path.read_text() == whole.log.path.read_text()


def test_a_run_is_known_by_all_that_decides_its_result(lab: Lab) -> None:
    settings = replace(lab.shared, optimizer="jordan")
    loss = lab.loss(settings)
    assert lab.known_loss(settings) == reopened(lab).known_loss(settings) == loss
    assert reopened(lab, text=None).known_loss(settings) == loss
    for change in ({"lr": 0.02}, {"seed": 1}, {"steps": 7}, {"optimizer": "exact"}, {"batch": 3}):
        assert lab.known_loss(replace(settings, **change)) is None
    other = Text(None, 1, "another", lab.text.training, lab.text.held_out)
    assert reopened(lab, text=other).known_loss(settings) is None
    eight = {"jordan": {"polar": "jordan", "ns_steps": 8}}
    assert reopened(lab, variants=eight).known_loss(settings) is None
    assert reopened(lab, task="another").known_loss(settings) is None


def test_variants_differ_in_the_polar_factor(lab: Lab) -> None:
    few = {"rough": {"polar": "jordan", "ns_steps": 1}}
    fidelity_lab.register(few)
    both = replace(lab, variants=VARIANTS | few)
    losses = {both.loss(replace(lab.shared, optimizer=name)) for name in both.variants}
    assert len(losses) == 3


class Clockwork:
    """A run whose step takes 10 s and its optimiser 2 s (jordan) or 8 s; some turns are slow."""

    def __init__(self, settings: Settings, *_: object) -> None:
        self.own = 2.0 if settings.optimizer == "jordan" else 8.0
        self.seconds = self.optimizer_seconds = 0.0

    def __iter__(self) -> Iterator[None]:
        for step in range(100):
            slow = 50.0 if step < fidelity_lab.WARM_UP or step % 3 == 0 else 1.0
            self.seconds += slow * (10 + self.own)
            self.optimizer_seconds += slow * self.own
            yield


def test_the_median_turn_is_reported(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity_lab, "Run", Clockwork)
    assert fidelity_lab.step_seconds(TINY, lab.text, ["jordan", "exact"]) == {
        "jordan": (12.0, 2.0),
        "exact": (18.0, 8.0),
    }
    lab.time_steps(["exact"])
    assert lab.pace("jordan") is None
    pace = lab.pace("exact")
    assert (pace["seconds"], pace["optimizer_seconds"]) == (18.0, 8.0)
    assert pace["together"] == ["jordan", "exact"]
    assert reopened(lab).affordable_steps("exact") == round(4 * 12 / 18)
    lab.time_steps(["jordan", "exact"])
    assert lab.pace("jordan")["relative"] == 1.0
    assert len(lab.log.lines) == 2


@pytest.mark.slow
def test_workers_write_one_log(lab: Lab) -> None:
    fidelity.run(lab, list(VARIANTS), seeds=1, workers=2)
    lines = Log(lab.log.path).lines
    assert {line["settings"]["optimizer"] for line in lines} == {*VARIANTS}
    assert len({identity(line) for line in lines}) == len(lines)
    for variant in VARIANTS:
        assert fidelity.result(reopened(lab), variant, seeds=1).tuned


# -- results -------------------------------------------------------------------------------------

LOSSES = {
    "jordan": {-4: 2.4, -2: 2.2, -1: 2.1, 0: 2.0, 1: 2.1, 2: 2.3, 3: INF},
    "exact": {-4: 2.5, -2: 2.1, 0: 1.9, 1: 1.8, 2: 1.95, 3: 2.05, 4: INF},
}
SEEDS = {"jordan": (2.0, 2.2, 2.4), "exact": (1.8, 2.1, 2.1)}
IN_TIME = {"exact": (2.05, 2.25, NAN)}


def synthetic(log: Path) -> Log:
    """A study with round numbers: exact takes twice the time of jordan and is better at 0.0141."""
    book = Log(log)

    def add(kind: str, settings: Settings, **found: Any) -> None:
        head = {"kind": kind, "task": "demo", "settings": asdict(settings)}
        tail = {"text": "abcd", **fidelity_lab.origin()}
        book.append({**head, "recipe": VARIANTS[settings.optimizer], **found, **tail})

    def add_run(settings: Settings, loss: float) -> None:
        add("run", settings, record=fidelity_lab.to_line(record([3.0, loss])))

    for variant, relative, best in (("jordan", 1.0, 0), ("exact", 2.0, 1)):
        own = Settings(optimizer=variant)
        add("pace", own, optimizer_seconds=0.02 * relative, relative=relative)
        for rung, loss in LOSSES[variant].items():
            add_run(replace(own, lr=rate(rung)), loss)
        for seed, loss in enumerate(SEEDS[variant][1:], start=1):
            add_run(replace(own, lr=rate(best), seed=seed), loss)
        for seed, loss in enumerate(IN_TIME.get(variant, ())):
            add_run(replace(own, lr=rate(best), seed=seed, steps=180), loss)
    return book


def test_the_table_of_a_synthetic_log(log: Path) -> None:
    (study,) = fidelity.studies(synthetic(log), seeds=3)
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in fidelity_report.table(study).splitlines()
    ]
    assert rows[0][3] == "vs jordan"
    assert rows[2:] == [
        ["`jordan`", "0.01", "2.200 ± 0.200", "", "2.200 ± 0.200 (360)", "", "+0.300", "diverged",
         "1.00"],
        ["`exact`", "0.0141", "2.000 ± 0.173", "-0.200", "diverged (1 of 3) (180)", "+0.050",
         "+0.250", "diverged", "2.00"],
    ]  # fmt: skip
    assert {len(row) for row in rows} == {9}


def test_facts_come_from_the_log(log: Path) -> None:
    (study,) = fidelity.studies(synthetic(log), seeds=3)
    assert study.facts["model"].startswith("GPT on bytes, 1,000 parameters: 2 layers of width 192")
    assert study.facts["budget"] == "360 steps of 8 x 128 bytes"
    assert study.facts["runs"] == "21, 0.3 hours of CPU time"
    assert "abcd" in study.facts["text"]


def test_an_unfinished_study_is_reported_as_such(log: Path) -> None:
    book = synthetic(log)
    book.lines[:] = [line for line in book.lines if line["settings"]["lr"] != rate(3)]
    (study,) = fidelity.studies(book, seeds=3)
    jordan, exact = study.results
    assert (jordan.tuned, exact.tuned) == (False, False)
    assert jordan.above == [2.3, None]
    assert "0.01 (search unfinished)" in fidelity_report.table(study)
    book.lines[:] = [line for line in book.lines if line["kind"] == "run"]
    assert list(fidelity.studies(book, seeds=3)) == []


def test_noise_is_pooled_from_paired_differences(log: Path) -> None:
    # (0, 2) has variance 2 and one degree of freedom, (1, 1, 4) has 3 and two; n is at least 2.
    assert fidelity_report.detectable([[0, 2], [1, 1, 4], [5]]) == pytest.approx(
        2 * math.sqrt((2 * 1 + 3 * 2) / 3 / 2)
    )
    assert math.isnan(fidelity_report.detectable([[1.0]]))
    (study,) = fidelity.studies(synthetic(log), seeds=3)
    # Differences: -0.2, -0.1, -0.3 at equal steps; 0.05, 0.05 and a divergence in equal time.
    assert "below 0.115 (equal steps) or 0.000 (equal time)" in fidelity_report.noise(study)


def test_seeds_without_a_partner_have_no_difference() -> None:
    assert fidelity_report.gaps({0: 2.0, 1: 3.0, 2: INF}, {1: 2.5, 2: 2.0, 3: 1.0}) == [0.5]
    assert fidelity_report.gaps({}, {0: 1.0}) == []


# -- the page ------------------------------------------------------------------------------------


def test_the_report_goes_between_the_marks(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, picture = tmp_path / "page.md", tmp_path / "picture.png"
    page.write_text("Before.\n\n<!-- results -->\nold\n<!-- end of results -->\n\nAfter.\n")
    synthetic(log)
    monkeypatch.setattr(fidelity, "LOG", log)
    monkeypatch.setattr(fidelity, "PAGE", page)
    monkeypatch.setattr(fidelity, "PICTURE", picture)
    fidelity.main(["--report"])
    first = page.read_text()
    assert first.startswith("Before.\n\n<!-- results -->\n\n### demo\n")
    assert first.endswith("<!-- end of results -->\n\nAfter.\n")
    assert "old" not in first
    assert "| `exact` | 0.0141 |" in first
    fidelity.main(["--report"])
    assert page.read_text() == first
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    assert (width, height) == (1650, 720)


def test_the_picture_shows_losses_in_view_and_divergence_at_the_top(log: Path) -> None:
    (study,) = fidelity.studies(synthetic(log), seeds=3)
    (axes,) = fidelity_report.draw([study]).axes
    bottom, top = axes.get_ylim()
    assert bottom < 1.8 < top == pytest.approx(1.8 + fidelity_report.ABOVE_BEST)
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[rate(3)], [rate(4)]]
    assert all(bottom < y <= top for line in crosses for y in line.get_ydata())
    rings = [line for line in axes.lines if line.get_fillstyle() == "none"]
    assert [float(line.get_xdata()[0]) for line in rings] == [rate(0), rate(1)]


def test_a_variant_looks_the_same_in_both_panels(log: Path) -> None:
    (study,) = fidelity.studies(synthetic(log), seeds=3)
    second = Study("large", study.facts, study.results[1:])
    left, right = fidelity_report.draw([study, second]).axes
    colour = {axes: [line.get_color() for line in axes.lines] for axes in (left, right)}
    assert colour[right][0] == colour[left][3] != colour[left][0]
