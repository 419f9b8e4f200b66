"""Whole steps of every recipe beside those of other packages, on the same work in one run.

    python benchmarks/step.py [--quick] [--layers 4] [--width 768] [--steps 21] [--every 10]
                              [--rank 128] [--methods soap muon] [--compile] [--device cuda]
    python benchmarks/step.py [--layers 4] --report [PAGE.md]     (the last results, into the page)

The parameters are the matrices of GPT-2: for each layer qkv, projection and two of the MLP. In
every step all optimisers take their turn on the same weights and the same new gradient, in an order
that is drawn anew, so that a noisy machine disturbs all alike. On the CPU with one thread the time
is that thread's own.

median, mean   of the steps after the first that compile nothing, over torch.optim.Muon's
worst          the longest of these steps over the median one: what a refresh costs at once
state          bytes in memory for each parameter
compilation    wall time of the first step and of others that compile, beyond a usual step

One layer takes about 4 GB and 15 minutes, four take four times as much. Other packages take part
where they can be imported, see `peers.py`; the PSGD of both also needs opt_einsum.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

import torch
from pages import insert
from polar import stopwatch
from step_optimizers import BASELINE, Contestant, Work, contestants, methods
from step_report import Race, Result, table
from step_stage import QUICK, Size, Stage, state_bytes
from torch.optim import Optimizer

from stiefel.bench.machine import describe_machine

HERE = Path(__file__).parent
FOLDER, PAGE = HERE / "results" / "step", HERE.parent / "docs" / "optimizers.md"


# -- race ----------------------------------------------------------------------------------------


@dataclass
class Lane:
    """A contestant on its way: ``failure`` says why it is out."""

    contestant: Contestant
    optimizer: Optimizer | None = None
    start_seconds: float = 0.0
    milliseconds: list[float] = field(default_factory=list)
    graphs: int = 0
    moved: bool = False
    failure: str = ""

    def turn(self, stage: Stage) -> None:
        """The next step; what a package raises ends its own race and nobody else's."""
        if self.failure:
            return
        stage.reset()
        before, start = graphs_so_far(), time.perf_counter()
        try:
            self._step(stage)
            self.moved |= stage.moved()
        except Exception as error:
            self.optimizer, self.failure = None, f"{type(error).__name__}: {error}"
        made = graphs_so_far() - before
        self.graphs += made
        if made and self.milliseconds:  # not only first steps compile: refreshes begin later
            self.milliseconds.pop()
            self.start_seconds += time.perf_counter() - start

    def _step(self, stage: Stage) -> None:
        if self.optimizer is not None:
            self.milliseconds.append(stopwatch(self.optimizer.step, stage.device))
            return
        before = time.perf_counter()
        self.optimizer = self.contestant.build(stage.params)
        stopwatch(self.optimizer.step, stage.device)
        self.start_seconds = time.perf_counter() - before

    def finish(self, stage: Stage) -> Result | None:
        """What was measured, unless the contestant is out."""
        if not self.failure and not self.moved:
            self.failure = "it never moved the weights"
        if not self.failure and not self.milliseconds:
            self.failure = "it compiled something in every step: give it more --steps"
        if self.failure or self.optimizer is None:
            return None
        return Result(
            self.contestant.method,
            self.contestant.label,
            self.contestant.settings,
            state_bytes(self.optimizer) / stage.count,
            self.start_seconds,
            self.milliseconds,
            self.graphs,
        )


def graphs_so_far() -> int:
    """How many graphs torch.compile has made in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo else 0


def race(
    found: Sequence[Contestant], stage: Stage, steps: int
) -> tuple[list[Result], dict[str, str]]:
    """Everybody takes every step, in turn; results, and who dropped out for which reason."""
    lanes = [Lane(contestant) for contestant in found]
    for index in range(steps):
        start = time.perf_counter()
        stage.draw()
        for lane in random.Random(index).sample(lanes, len(lanes)):
            lane.turn(stage)
        print(f"step {index + 1}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    results = [result for lane in lanes if (result := lane.finish(stage))]
    return results, {lane.contestant.label: lane.failure for lane in lanes if lane.failure}


def make_compilation_comparable() -> None:
    """Nobody finds his graphs in a cache on disk, and nobody pays for the compiler's own start."""
    torch.compiler.config.force_disable_caches = True
    torch.compile(torch.sin)(torch.ones(1))


# -- command -------------------------------------------------------------------------------------


def measure(
    size: Size, wanted: Sequence[str] | None = None, compile: bool = False, device: str = "cpu"
) -> Race:
    """One run: the wanted methods, by default all, of all packages at hand."""
    if compile:
        make_compilation_comparable()
    work = Work(size.every, size.rank)
    found, absent = contestants(wanted or methods(work), work, compile)
    stage = Stage(size, device)
    results, failed = race(found, stage, size.steps)
    return Race(facts(size, stage, device, compile), BASELINE, results, absent | failed)


def facts(size: Size, stage: Stage, device: str, compile: bool) -> dict[str, str]:
    """Where and how it was measured."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": ", ".join(f"{k} {v}" for k, v in describe_machine(device).items()),
        "packages": ", ".join(f"{name} {version}" for name, version in versions()),
        "parameters": f"{stage.count:,} in float32: {size.layers} layers of width {size.width}",
        "steps": f"{size.steps - 1} after the first, all in one process and in turn",
        "refresh": f"every {size.every} steps; subspaces of rank {size.rank}",
        "compiled": "stiefel and heavyball" if compile else "nothing, heavyball neither",
    }


def versions() -> Iterator[tuple[str, str]]:
    """Of the other packages that are installed."""
    for name in ("pytorch_optimizer", "heavyball"):
        with suppress(metadata.PackageNotFoundError):
            yield name, metadata.version(name)


def file_name(size: Size, device: str, compile: bool) -> str:
    """One file for each kind of run."""
    return f"{device}-{size.layers}x{size.width}{'-compiled' if compile else ''}.json"


def chosen_size(args: argparse.Namespace) -> Size:
    """That of ``--quick`` or the full one, with what the command line says otherwise."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    fields = Size.__dataclass_fields__
    return replace(
        QUICK if args.quick else Size(), **{k: v for k, v in given.items() if k in fields}
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in Size.__dataclass_fields__:
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--quick", action="store_true", help="one narrow layer and few steps")
    parser.add_argument("--methods", nargs="+", choices=methods(Work(1, 1)))
    parser.add_argument("--compile", action="store_true", help="stiefel and heavyball compile")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the results")
    parser.add_argument("--report", nargs="?", type=Path, const=PAGE, metavar="PAGE.md")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    size = chosen_size(args)
    file = args.folder / file_name(size, args.device, args.compile)
    if args.report:
        measured = Race.from_json(json.loads(file.read_text()))
        insert(args.report, f"step {file.stem}", table(measured))
        return
    torch.set_num_threads(args.threads)
    measured = measure(size, args.methods, args.compile, args.device)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(measured.as_json(), indent=1))
    print(table(measured))
    if ours := [label for label in measured.absent if label.startswith("stiefel")]:
        sys.exit(f"failed: {', '.join(ours)}")


if __name__ == "__main__":
    main()
