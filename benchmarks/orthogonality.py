"""How orthogonal is a step, and what does it cost? The table and the picture of one docs page.

    python benchmarks/momentum.py         (once: collects the real matrices)
    python benchmarks/orthogonality.py    (writes into docs/orthogonality.md, and its picture)

Every method of stiefel.linalg.polar on synthetic matrices with known spectra and on real ones. The
cost is the time of a call over that of Jordan's five steps on the same stack.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from momentum import load
from pages import insert
from polar import Effort, milliseconds
from torch import Tensor
from yardstick import cosine, defect, exact_polar, gaussian, log_spaced, rank_deficient

from stiefel.bench.figure import tidy
from stiefel.linalg import METHODS, polar

DOCS = Path(__file__).parent.parent / "docs"
BASE = "jordan"
REAL = 12

Method = Callable[[Tensor], Tensor]

KINDS: dict[str, Callable[[], Tensor]] = {
    "gaussian": partial(gaussian, 1, 512, 512),
    "condition 1000": partial(log_spaced, 1, 512, 512),
    "rank 1/4 + noise": partial(rank_deficient, 1, 512, 512),
    "real 1:4": partial(load, 512, 2048, REAL),
    "real square": partial(load, 512, 512, REAL),
}


@dataclass(frozen=True)
class Score:
    """A method on one kind of matrix: means over the matrices, and time over Jordan's."""

    cost: float
    cosine: float
    defect: float


def methods(names: Iterable[str]) -> dict[str, Method]:
    """Jordan's and those methods with their own numbers of steps, and Polar Express with more."""
    named: dict[str, Method] = {name: partial(polar, method=name) for name in (BASE, *names)}
    return named | {"polar_express, 8 steps": partial(polar, method="polar_express", steps=8)}


def scores(X: Tensor, tried: Mapping[str, Method], effort: Effort) -> dict[str, Score]:
    """Every method on a stack; timed on its matrices one at a time, in turn."""
    exact, singles = exact_polar(X), [matrix.unsqueeze(0) for matrix in X]
    times = milliseconds(list(tried.values()), singles, effort)
    costs = dict(zip(tried, times, strict=True))
    return {
        name: Score(costs[name] / costs[BASE], *judged(method(X), exact))
        for name, method in tried.items()
    }


def median_singular_value(X: Tensor) -> float:
    """Of matrices of norm 1; the mean over the stack of each one's median."""
    S = torch.linalg.svdvals(X.double())
    medians: Tensor = S.median(-1).values / S.norm(dim=-1)
    return medians.mean().item()


def judged(U: Tensor, exact: Tensor) -> tuple[float, float]:
    """Mean cosine and mean defect."""
    return cosine(U, exact).mean().item(), defect(U).mean().item()


# -- table ---------------------------------------------------------------------------------------

Scores = Mapping[str, Mapping[str, Score]]


def table(found: Scores, medians: Mapping[str, float]) -> str:
    """Markdown: a row for each method, from cheap to dear on real squares, and one for spectra."""
    kinds = list(found)
    timed = kinds[-2:]
    head = ["method", *(f"cost, {kind}" for kind in timed), *kinds]
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    for name in sorted(found[kinds[-1]], key=lambda name: found[kinds[-1]][name].cost):
        costs = [f"{found[kind][name].cost:.2f}" for kind in timed]
        lines.append([f"`{name}`", *costs, *(cell(found[kind][name]) for kind in kinds)])
    lines.append(["*median singular value*", "", "", *(f"*{medians[kind]:.2g}*" for kind in kinds)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(score: Score) -> str:
    """``cosine / defect``."""
    return f"{score.cosine:.3f} / {score.defect:.2g}"


# -- picture -------------------------------------------------------------------------------------

# Okabe and Ito's colours stay apart for all common kinds of colour blindness. Seven colours and six
# markers: a pair comes back after 42 methods.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP"
FLOOR = 1e-4  # closer to the exact direction than this does not show
TICKS = (0.5, 1, 2, 4, 8, 16)


def draw(found: Scores) -> Figure:
    """A panel for each kind of matrix: one minus cosine against cost, both on log axes."""
    figure = Figure(figsize=(11, 6.6), dpi=150, layout="constrained")
    *panels, legend = figure.subplots(2, 3, sharex=True, sharey=True).flat
    for axes, (kind, by_method) in zip(panels, found.items(), strict=True):
        draw_panel(axes, kind, by_method)
    for axes in (panels[0], panels[3]):
        axes.set_ylabel("1 - cosine to the exact factor")
    for axes in panels[2:]:
        axes.set_xlabel("time over that of Jordan's five steps")
        axes.tick_params(labelbottom=True)  # the third panel has no other below it
    legend.axis("off")
    labelled, columns = panels[0].get_legend_handles_labels(), 1 + len(METHODS) // 16
    legend.legend(*labelled, loc="center", ncols=columns, frameon=False)
    return figure


def draw_panel(axes: Axes, kind: str, by_method: Mapping[str, Score]) -> None:
    """The methods, and a line through those that no other beats in both time and direction."""
    axes.plot(*front(by_method.values()), color="#b0b0b0", linewidth=1.5, zorder=0)
    styles = zip(by_method.items(), cycle(COLOURS), cycle(MARKERS), strict=False)
    for (name, score), colour, marker in styles:
        axes.plot(score.cost, height(score), marker, color=colour, label=name, markersize=7)
    axes.set(title=kind, xscale="log", yscale="log", ylim=(FLOOR / 1.5, 1))
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    tidy(axes)


def height(score: Score) -> float:
    """``1 - cosine``, but FLOOR at least, for a log axis."""
    return max(FLOOR, 1 - score.cosine)


def front(found: Iterable[Score]) -> tuple[list[float], list[float]]:
    """Costs and heights of the scores that nothing cheaper equals, from cheap to dear."""
    best: list[Score] = []
    for score in sorted(found, key=lambda s: s.cost):
        if not best or height(score) < height(best[-1]):
            best.append(score)
    return [s.cost for s in best], [height(s) for s in best]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--docs", type=Path, default=DOCS)
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=[*METHODS])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    effort, tried = Effort(args.rounds, least=3, seconds=3.0), methods(args.methods)
    matrices = {kind: make() for kind, make in KINDS.items()}
    found = {kind: scores(X, tried, effort) for kind, X in matrices.items()}
    rows = table(found, {kind: median_singular_value(X) for kind, X in matrices.items()})
    insert(args.docs / "orthogonality.md", "table", rows)
    draw(found).savefig(args.docs / "assets" / "orthogonality.png")
    print(rows)


if __name__ == "__main__":
    main()
