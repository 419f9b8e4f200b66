"""The picture of a race: loss against steps, loss against seconds, loss against learning rate."""

import itertools
from collections.abc import Iterator, Sequence
from io import BytesIO
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stiefel.bench.race import Race, Record
from stiefel.bench.standings import Standing, losses_by_lr, standings

# Okabe and Ito's colours stay apart for all common kinds of colour blindness; the markers do so
# in print without colour.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = "osD^vP"
_INK, _FAINT = "#333333", "#8a8a8a"
_HELPER: dict[str, Any] = {"color": _FAINT, "linewidth": 1, "linestyle": (0, (4, 3)), "zorder": 0}
RING: dict[str, Any] = {"marker": "o", "markersize": 13, "fillstyle": "none"}


def draw(race: Race, records: Sequence[Record]) -> bytes:
    """The picture as PNG."""
    results = standings(race, records)
    figure = Figure(figsize=(13.5, 4.6), dpi=150, layout="constrained")
    by_step, by_second, by_lr = figure.subplots(1, 3, width_ratios=(1.15, 1.15, 1))
    _draw_curves(by_step, results, "steps")
    _draw_curves(by_second, results, "seconds")
    _draw_grid(by_lr, race, records, results)
    by_step.set_ylabel("validation loss (nats per byte)")
    for axes in (by_step, by_second, by_lr):
        tidy(axes)
    png = BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def styles() -> Iterator[dict[str, Any]]:
    """How to draw the first, the second, ... line of a picture."""
    for colour, marker in itertools.cycle(zip(_COLOURS, _MARKERS, strict=True)):
        yield {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 2}


def _draw_curves(axes: Axes, results: Sequence[Standing], unit: str) -> None:
    """Validation loss along the run: the mean of the seeds, and a band from least to most."""
    for standing, style in zip(results, styles(), strict=False):
        scale = standing.seconds_per_step if unit == "seconds" else 1.0
        x = [point.step * scale for point in standing.curves[0]]
        y = np.array([[point.loss for point in curve] for curve in standing.curves])
        label = f"{standing.optimizer}, lr {standing.lr:g}"
        axes.plot(x, y.mean(axis=0), label=label, **style)
        axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=style["color"], alpha=0.18, lw=0)
    axes.set_title(f"Loss against training {unit}")
    axes.set_xlabel(f"training {unit}")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, loc="upper right")
    _mark_baseline(axes, results, unit)


def _mark_baseline(axes: Axes, results: Sequence[Standing], unit: str) -> None:
    """A level line at the baseline's final loss, with the place where each other reaches it."""
    baseline, *others = results
    target = mean(baseline.losses)
    bottom = axes.get_ylim()[0]
    axes.axhline(target, **_HELPER)
    _note(axes, f"{baseline.optimizer}'s final loss", (0, target), (4, -11), size="small")
    for standing in others:
        reached = standing.seconds_to_baseline if unit == "seconds" else standing.steps_to_baseline
        values = [value for value in reached if value is not None]
        if len(values) == len(reached):
            at = mean(values)
            axes.vlines(at, bottom, target, **_HELPER)
            _note(axes, f"{at:.3g} {unit}", (at, bottom), (4, 5), weight="bold")
    axes.set_ylim(bottom=bottom)


def _note(
    axes: Axes, text: str, place: tuple[float, float], offset: tuple[int, int], **font: Any
) -> None:
    axes.annotate(text, place, offset, textcoords="offset points", color=_INK, **font)


def _draw_grid(
    axes: Axes, race: Race, records: Sequence[Record], results: Sequence[Standing]
) -> None:
    """Final loss at each learning rate of the grid; a ring marks the best."""
    for standing, style in zip(results, styles(), strict=False):
        losses = losses_by_lr(race, records, standing.optimizer)
        axes.plot(list(losses), list(losses.values()), **style)
        axes.plot(standing.lr, losses[standing.lr], color=style["color"], **RING)
    axes.set_xscale("log")
    axes.set_xticks(sorted(race.lrs), [f"{lr:g}" for lr in sorted(race.lrs)])
    axes.minorticks_off()
    axes.set_title("Final loss against learning rate")
    axes.set_xlabel("learning rate (ring: best)")


def tidy(axes: Axes) -> None:
    """Keep no ink that says nothing."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(colors=_INK)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
