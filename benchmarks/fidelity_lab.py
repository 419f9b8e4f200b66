"""How `fidelity.py` measures: the search for a learning rate, the log, the runs.

`race.py` keeps its runs in the same way.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np

import stiefel
from stiefel import recipes
from stiefel.bench.machine import describe_machine
from stiefel.bench.race import Record, finish
from stiefel.bench.settings import Settings
from stiefel.bench.text import Text
from stiefel.bench.training import Point, Run

START = (-2, 0, 2)  # rungs that every variant tries, whatever comes of them
LAST = 12  # no rung further from 0 is tried
ABOVE = (2, 3)  # rungs above the best that show what too high a learning rate costs
WARM_UP, ROUNDS = 3, 25  # steps that are timed, after some that choose kernels and fill caches
GUESSING = math.log(256)  # nats per byte of a model that has learned nothing

Line = dict[str, Any]
Variants = Mapping[str, Any]


def register(variants: Variants) -> None:
    """Make each variant a recipe that `Settings` can name."""
    made = {name: partial(stiefel.muon, **options) for name, options in variants.items()}
    recipes.REGISTRY.update(made)


# -- learning rates ------------------------------------------------------------------------------


def rate(rung: int) -> float:
    """The learning rate of a rung: two rungs double it, three multiply it by 2.8."""
    return float(f"{0.01 * 2 ** (rung / 2):.3g}")


def best_of(losses: Mapping[int, float]) -> int:
    """The rung of the lowest loss."""
    return min(losses, key=lambda rung: losses[rung])


def wanted(losses: Mapping[int, float]) -> list[int]:
    """Rungs still to be tried, so that the best is no edge of the grid and `ABOVE` it is known."""
    if missing := [rung for rung in START if rung not in losses]:
        return missing
    around = [best_of(losses) + offset for offset in (-1, 1, *ABOVE)]
    return [rung for rung in around if rung not in losses and abs(rung) <= LAST]


def search(loss: Callable[[int], float]) -> int:
    """The best rung of a grid that grows around it, one rung after another."""
    losses: dict[int, float] = {}
    while missing := wanted(losses):
        losses[missing[0]] = loss(missing[0])
    return best_of(losses)


# -- the log -------------------------------------------------------------------------------------


class Log:
    """Lines of JSON in a file, to which several processes may append."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = [json.loads(line) for line in path.open()] if path.exists() else []

    def find(self, key: Line) -> Line | None:
        """The newest line with these values."""
        found = (line for line in reversed(self.lines) if line.items() >= key.items())
        return next(found, None)

    def append(self, line: Line) -> None:
        """Add a line in one write, so that lines of several processes do not mix."""
        self.lines.append(line)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            file.write(json.dumps(line, allow_nan=False).encode() + b"\n")


def mend(path: Path) -> None:
    """Cut off a line that a crash left unfinished."""
    if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])


def to_line(record: Record) -> Line:
    """JSON has no NaN: the loss of a diverged run becomes null."""
    curve = [(at.step, at.loss if math.isfinite(at.loss) else None) for at in record.curve]
    return {**asdict(record), "curve": curve}


def from_line(line: Line) -> Record:
    """The record that `to_line` took apart."""
    curve = (Point(step, math.nan if loss is None else loss) for step, loss in line["curve"])
    return Record(**{**line, "curve": tuple(curve)})


def final_loss(record: Record) -> float:
    """The validation loss at the end; infinite where it is no better than guessing, or NaN."""
    return record.loss if record.loss < GUESSING else math.inf


@cache
def origin() -> Line:
    """Where and with what a line was measured; the code by a hash, for it may be unreleased."""
    sources = sorted(Path(stiefel.__file__).parent.rglob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    return {"machine": describe_machine("cpu"), "code": digest}


# -- runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lab:
    """A task, and what the log knows of it; without a text it can look up but not run.

    Attributes:
        task: its name.
        shared: the settings of all runs but for variant, learning rate, seed and equal time.
        variants: by name what tells one from another in the log, such as the keywords of
            `stiefel.muon`; the first variant is the baseline.
    """

    task: str
    shared: Settings
    variants: Variants
    log: Log
    text: Text | None = None

    @property
    def baseline(self) -> str:
        """The variant whose steps and time the others get."""
        return next(iter(self.variants))

    def study(self, variant: str, seeds: int) -> None:
        """Tune on seed 0; then every seed at the best learning rate, for equal steps and time."""
        own = replace(self.shared, optimizer=variant)
        best = search(lambda rung: self.loss(replace(own, lr=rate(rung))))
        for steps, seed in product((own.steps, self.affordable_steps(variant)), range(seeds)):
            self.loss(replace(own, lr=rate(best), seed=seed, steps=steps))

    def loss(self, settings: Settings) -> float:
        """The final loss of a run, which is done if it has not been."""
        known = self.known_loss(settings)
        return self._run(settings) if known is None else known

    def known_loss(self, settings: Settings) -> float | None:
        """The final loss of a run that has been done."""
        record = self.known(settings)
        return None if record is None else final_loss(record)

    def known(self, settings: Settings) -> Record | None:
        """What is left of a run that has been done."""
        line = self.log.find(self._key("run", settings))
        return None if line is None else from_line(line["record"])

    def time_steps(self, variants: Sequence[str]) -> None:
        """Log the pace of those that have none, relative to the baseline in the same process."""
        new = [name for name in variants if not self.pace(name)]
        if not new:
            return
        together = list(dict.fromkeys((self.baseline, *new)))
        medians = step_seconds(self.shared, self.text, together)
        for name in new:
            seconds, optimizer_seconds = medians[name]
            pace = {"seconds": seconds, "optimizer_seconds": optimizer_seconds}
            pace["relative"] = seconds / medians[self.baseline][0]
            key = self._key("pace", replace(self.shared, optimizer=name))
            self.log.append({**key, **pace, "together": together, **origin()})

    def pace(self, variant: str) -> Line | None:
        """What is known of the seconds that a step takes."""
        return self.log.find(self._key("pace", replace(self.shared, optimizer=variant)))

    def affordable_steps(self, variant: str) -> int:
        """As many steps as fit in the time of the baseline's run."""
        return max(1, round(self.shared.steps / self.pace(variant)["relative"]))

    def _run(self, settings: Settings) -> float:
        record = finish(Run(settings, self.text, time.process_time), lambda *_: None)
        self.log.append({**self._key("run", settings), "record": to_line(record), **origin()})
        print(
            f"{self.task}, {settings.optimizer}, lr {settings.lr:g}, seed {settings.seed}, "
            f"{settings.steps} steps: loss {record.loss:.4f} ({record.seconds:.0f} s)",
            flush=True,
        )
        return final_loss(record)

    def _key(self, kind: str, settings: Settings) -> Line:
        """What makes two lines the same measurement."""
        key = {"kind": kind, "task": self.task, "settings": asdict(settings)}
        key["recipe"] = self.variants[settings.optimizer]
        return {**key, "text": self.text.digest} if self.text else key


def step_seconds(
    shared: Settings, text: Text, variants: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Median seconds of a step and of its optimiser; the first variant is the yardstick.

    The variants train side by side, a step of each in turn, and an optimiser is compared with the
    yardstick's of the same turn, so that a busy machine is unkind to all alike. What is not the
    optimiser is the same work for all: one median serves them.
    """
    runs = [Run(replace(shared, optimizer=name), text, time.process_time) for name in variants]
    turns = islice(zip(*runs, strict=True), WARM_UP + ROUNDS)
    clocks = [[(run.seconds, run.optimizer_seconds) for run in runs] for _ in turns]
    whole, optimizer = np.moveaxis(np.diff(clocks[WARM_UP - 1 :], axis=0), -1, 0)
    ratios = np.median(optimizer / optimizer[:, :1], axis=0)
    own, rest = ratios * np.median(optimizer[:, 0]), np.median(whole - optimizer)
    return {
        name: (float(rest + mine), float(mine)) for name, mine in zip(variants, own, strict=True)
    }
