"""Does the fidelity of the polar factor matter for the loss? Muon with each way to compute it.

    python benchmarks/fidelity.py [--task large] [--variants jordan,exact] [--seeds 3] [--workers 2]
    python benchmarks/fidelity.py --report

Every variant is tuned with the same effort, then trained at its best learning rate with several
seeds: for as many steps as the baseline, and for as many as fit in the baseline's time. Each run
appends a line to `results/fidelity/runs.jsonl`; what stands there is not run again, so a killed
study goes on where it stopped. `--report` renders the lines into `docs/fidelity.md`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from fidelity_lab import (
    ABOVE,
    LAST,
    Lab,
    Line,
    Log,
    best_of,
    from_line,
    mend,
    rate,
    register,
    wanted,
)
from fidelity_report import Result, Study, write

from stiefel.bench.settings import Settings
from stiefel.bench.text import read_text

# What is compared: keywords of `stiefel.muon`. The first is the baseline.
VARIANTS: dict[str, dict[str, Any]] = {
    "jordan": {"polar": "jordan", "ns_steps": 5},
    "polar_express": {"polar": "polar_express", "ns_steps": 5},
    "polar_express-8": {"polar": "polar_express", "ns_steps": 8},
    "fast": {"polar": "fast"},
    "faithful": {"polar": "faithful"},
    "exact": {"polar": "eigh"},  # in float64; "exact" itself takes three times as long
}
# The demo's task, and one with eleven times the parameters.
TASKS = {"demo": Settings(), "large": Settings(layers=6, width=384, steps=100)}

ROOT = Path(__file__).parent.parent
LOG = ROOT / "benchmarks/results/fidelity/runs.jsonl"
PAGE, PICTURE = ROOT / "docs/fidelity.md", ROOT / "docs/assets/fidelity.png"


# -- runs ----------------------------------------------------------------------------------------


def run(lab: Lab, variants: Sequence[str], seeds: int, workers: int) -> None:
    """Study the variants, `workers` at a time, each in a process of its own."""
    lab.time_steps(variants)  # while nothing else of ours runs
    study = partial(_study, lab, seeds)
    if workers == 1:  # no second process, which would outlive a killed first
        for variant in variants:
            study(variant)
    else:
        with get_context("spawn").Pool(workers) as pool:
            pool.map(study, variants, chunksize=1)


def _study(lab: Lab, seeds: int, variant: str) -> None:
    register(lab.variants)
    lab.study(variant, seeds)


# -- results -------------------------------------------------------------------------------------


def studies(log: Log, seeds: int) -> Iterator[Study]:
    """What the log knows of each task, finished or not."""
    for task, shared in TASKS.items():
        lab = Lab(task, shared, VARIANTS, log)
        seen = {line["settings"]["optimizer"] for line in log.lines}
        names = [name for name in VARIANTS if name in seen]
        if results := [found for name in names if (found := result(lab, name, seeds))]:
            yield Study(task, facts(lab), results)


def result(lab: Lab, variant: str, seeds: int) -> Result | None:
    """What the log knows of a variant; None where that is too little."""
    own = replace(lab.shared, optimizer=variant)
    known = _known(lab, {rung: replace(own, lr=rate(rung)) for rung in range(-LAST, LAST + 1)})
    pace = lab.pace(variant)
    if not known or not pace:
        return None
    best, steps = best_of(known), lab.affordable_steps(variant)
    repeats = {seed: replace(own, lr=rate(best), seed=seed) for seed in range(seeds)}
    affordable = {seed: replace(settings, steps=steps) for seed, settings in repeats.items()}
    return Result(
        variant=variant,
        lr=rate(best),
        tuned=not wanted(known),
        losses={rate(rung): loss for rung, loss in known.items()},
        above=[known.get(best + offset) for offset in ABOVE],
        equal_steps=_known(lab, repeats),
        equal_time=_known(lab, affordable),
        affordable_steps=steps,
        relative_time=pace["relative"],
    )


def _known(lab: Lab, runs: dict[int, Settings]) -> dict[int, float]:
    losses = {name: lab.known_loss(settings) for name, settings in runs.items()}
    return {name: loss for name, loss in losses.items() if loss is not None}


def facts(lab: Lab) -> dict[str, str]:
    """How a task was measured."""
    lines = [line for line in lab.log.lines if line["task"] == lab.task]
    runs = [from_line(line["record"]) for line in lines if line["kind"] == "run"]
    machines, task = [line["machine"] for line in lines], lab.shared
    return {
        "model": f"GPT on bytes, {runs[0].parameters:,} parameters: "
        f"{task.layers} layers of width {task.width}; bf16 autocast, float32 weights",
        "budget": f"{task.steps} steps of {task.batch} x {task.context} bytes",
        "text": f"Python standard library; sha256 {_distinct(lines, 'text')}",
        "runs": f"{len(runs)}, {sum(run.seconds for run in runs) / 3600:.1f} hours of CPU time",
        "machine": f"{_distinct(machines, 'processor')}; {_distinct(machines, 'threads')} thread",
        "versions": f"torch {_distinct(machines, 'torch')}, Python {_distinct(machines, 'python')},"
        f" stiefel {_distinct(machines, 'stiefel')} (sources: {_distinct(lines, 'code')})",
    }


def _distinct(lines: Sequence[Line], name: str) -> str:
    return ", ".join(dict.fromkeys(line[name] for line in lines))


# -- the command line ----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, default="demo")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="render what the log knows")
    args = parser.parse_args(arguments)
    register(VARIANTS)
    mend(LOG)
    if args.report:
        write(list(studies(Log(LOG), args.seeds)), PAGE, PICTURE)
    else:
        shared = TASKS[args.task]
        text = read_text(None, shared.context + 1)
        lab = Lab(args.task, shared, VARIANTS, Log(LOG), text)
        run(lab, args.variants.split(","), args.seeds, args.workers)


if __name__ == "__main__":
    main()
