"""What `fidelity.py` measured as a table and a picture; knows nothing of how it was measured."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, variance
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pages import insert

from stiefel.bench.figure import RING, styles, tidy
from stiefel.bench.report import spread

COLUMNS = (
    "polar",
    "best lr",
    "equal steps",
    "vs {baseline}",
    "equal time (steps)",
    "vs {baseline}",
    "at 2x lr",
    "at 2.8x lr",
    "time of a step",
)
ABOVE_BEST = 0.2  # the picture shows losses up to this much (nats) above the lowest


@dataclass(frozen=True)
class Result:
    """One variant on one task; a diverged run has an infinite loss.

    Attributes:
        variant: its name.
        lr: the best learning rate so far.
        tuned: whether the search for it came to its end.
        losses: final loss by learning rate, on the first seed.
        above: loss at 2 and at 2.8 times the best learning rate; None where it was not run.
        equal_steps, equal_time: final loss by seed, with the baseline's steps and in its time.
        affordable_steps: the steps that fit in that time.
        relative_time: of a training step, over the baseline's in the same process.
    """

    variant: str
    lr: float
    tuned: bool
    losses: dict[float, float]
    above: list[float | None]
    equal_steps: dict[int, float]
    equal_time: dict[int, float]
    affordable_steps: int
    relative_time: float


@dataclass(frozen=True)
class Study:
    """One task: how it was measured, and what came out, the baseline first."""

    task: str
    facts: dict[str, str]
    results: list[Result]


# -- the table -----------------------------------------------------------------------------------


def table(study: Study) -> str:
    """The results in Markdown."""
    baseline = study.results[0]
    heads = [column.format(baseline=baseline.variant) for column in COLUMNS]
    rows = [heads, ["---"] * len(heads), *(_cells(result, baseline) for result in study.results)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cells(result: Result, baseline: Result) -> list[str]:
    best = result.losses[result.lr]
    return [
        f"`{result.variant}`",
        f"{result.lr:g}{'' if result.tuned else ' (search unfinished)'}",
        _loss(result.equal_steps.values()),
        _signed(gaps(result.equal_steps, baseline.equal_steps)),
        f"{_loss(result.equal_time.values())} ({result.affordable_steps})",
        _signed(gaps(result.equal_time, baseline.equal_time)),
        *("" if loss is None else _rise(loss, best) for loss in result.above),
        f"{result.relative_time:.2f}",
    ]


def gaps(losses: dict[int, float], baseline: dict[int, float]) -> list[float]:
    """Differences seed by seed: the same weights to start from, the same bytes in the same order.

    So what a seed does to both cancels. Seeds on which one diverged have no difference.
    """
    pairs = [(losses[seed], baseline[seed]) for seed in losses.keys() & baseline.keys()]
    return [loss - other for loss, other in pairs if math.isfinite(loss - other)]


def noise(study: Study) -> str:
    """The sentence that says which differences mean something."""
    baseline, *others = study.results
    steps = detectable([gaps(other.equal_steps, baseline.equal_steps) for other in others])
    time = detectable([gaps(other.equal_time, baseline.equal_time) for other in others])
    if math.isnan(steps):
        return "Too few runs yet to tell a difference from noise.\n"
    return (
        f"Differences to `{baseline.variant}` below {steps:.3f} (equal steps) or {time:.3f} (equal "
        "time) are noise: twice the standard error of a mean over the seeds, their scatter pooled "
        "over the variants.\n"
    )


def detectable(samples: Sequence[Sequence[float]]) -> float:
    """Twice the standard error of a sample's mean; NaN where no sample has two values.

    The variance is pooled: that of three values alone would be hardly more than a guess.
    """
    repeated = [sample for sample in samples if len(sample) > 1]
    if not repeated:
        return math.nan
    squares = sum(variance(sample) * (len(sample) - 1) for sample in repeated)
    freedom = sum(len(sample) - 1 for sample in repeated)
    return 2 * math.sqrt(squares / freedom / min(map(len, repeated)))


def _loss(losses: Collection[float]) -> str:
    if diverged := sum(map(math.isinf, losses)):
        return f"diverged ({diverged} of {len(losses)})"
    return spread(list(losses), 3) if losses else "not run"


def _signed(values: Sequence[float]) -> str:
    return f"{mean(values):+.3f}" if any(values) else ""


def _rise(loss: float, best: float) -> str:
    return _signed([loss - best]) if math.isfinite(loss) else "diverged"


# -- the picture ---------------------------------------------------------------------------------


def draw(studies: Sequence[Study]) -> Figure:
    """Final loss against learning rate, a panel for each task."""
    names = dict.fromkeys(result.variant for study in studies for result in study.results)
    looks = dict(zip(names, styles(), strict=False))
    figure = Figure(figsize=(11, 4.8), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(studies), squeeze=False)[0]
    for axes, study in zip(panels, studies, strict=True):
        _draw_study(axes, study, looks)
        tidy(axes)
    panels[0].set_ylabel("validation loss (nats per byte)")
    handles = [Line2D([], [], label=name, **look) for name, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _draw_study(axes: Axes, study: Study, looks: Mapping[str, dict[str, Any]]) -> None:
    lowest = min(min(result.losses.values()) for result in study.results)
    top = lowest + ABOVE_BEST
    for row, result in enumerate(study.results):
        look = looks[result.variant]
        axes.plot(*zip(*sorted(result.losses.items()), strict=True), **look)
        axes.plot(result.lr, result.losses[result.lr], color=look["color"], **RING)
        lost = [lr for lr, loss in result.losses.items() if math.isinf(loss)]
        height = [top - row * ABOVE_BEST / 60] * len(lost)
        axes.plot(lost, height, "x", color=look["color"])
    axes.set_ylim(lowest - ABOVE_BEST / 12, top)
    rates = sorted({lr for result in study.results for lr in result.losses})
    axes.set_xscale("log")
    axes.set_xticks(rates, [f"{lr:g}" for lr in rates])
    axes.minorticks_off()
    axes.set_title(f"{study.task}: {study.facts['model'].split(':')[0]}")
    axes.set_xlabel("learning rate (ring: best, cross: diverged)")


# -- the page ------------------------------------------------------------------------------------


def render(study: Study) -> str:
    """The section of the page about one task."""
    lines = [f"- {name}: {fact}" for name, fact in study.facts.items()]
    return "\n".join([f"### {study.task}", "", *lines, "", table(study), noise(study)])


def write(studies: Sequence[Study], page: Path, picture: Path) -> None:
    """Put the results between the marks of the page, and draw the picture beside it."""
    sections = "\n".join(map(render, studies))
    insert(page, "results", sections)
    draw(studies).savefig(picture)
    print(sections)
