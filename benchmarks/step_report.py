"""What `step.py` measured, as JSON for machines and a table for people."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Result:
    """One optimiser.

    Args:
        method: the name of our recipe for what it does.
        label: the optimiser's name with its package.
        settings: keywords beside the learning rate.
        state_bytes: of state for each parameter.
        start_seconds: wall time to build it and take the first step, and of later steps in which
            something was compiled.
        milliseconds: of each other step.
        graphs: how many torch.compile made.
    """

    method: str
    label: str
    settings: dict[str, Any]
    state_bytes: float
    start_seconds: float
    milliseconds: list[float]
    graphs: int

    @cached_property
    def median(self) -> float:
        """Milliseconds of a usual step."""
        return statistics.median(self.milliseconds)

    @cached_property
    def mean(self) -> float:
        """Milliseconds of a step, refreshes paid."""
        return statistics.mean(self.milliseconds)

    @property
    def worst(self) -> float:
        """The longest step over the median one: how far a refresh sticks out."""
        return max(self.milliseconds) / self.median

    @property
    def compile_seconds(self) -> float:
        """Wall time of those steps beyond a usual one; 0 where nothing was compiled."""
        return max(0.0, self.start_seconds - self.median / 1e3) if self.graphs else 0.0


@dataclass(frozen=True)
class Race:
    """One run: all that took part, where, and how.

    Args:
        facts: date, machine, versions and settings, in words.
        baseline: label of the result whose time is 1.
        results: in the order of the table.
        absent: labels of those that could not take part, and why.
    """

    facts: dict[str, str]
    baseline: str
    results: list[Result]
    absent: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Everything, with the numbers of the table beside the times that they come from."""
        rows = [asdict(result) | self.numbers(result) for result in self.results]
        return asdict(self) | {"results": rows}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Race:
        """The inverse of `as_json`."""
        names = Result.__dataclass_fields__
        rows = [Result(**{name: row[name] for name in names}) for row in fields["results"]]
        return cls(**{**fields, "results": rows})

    def numbers(self, result: Result) -> dict[str, float]:
        """What the table shows of a result."""
        base = next(r for r in self.results if r.label == self.baseline)
        return {
            "median_ratio": result.median / base.median,
            "mean_ratio": result.mean / base.mean,
            "worst_over_median": result.worst,
            "compile_seconds": result.compile_seconds,
        }


# -- table ---------------------------------------------------------------------------------------


def table(race: Race) -> str:
    """Markdown: a block of rows for each method, ours first, and the facts below."""
    compiled = any(result.graphs for result in race.results)
    head = ["method", "optimiser", "median", "mean", "worst / median", "state, bytes"]
    head += ["compilation, s", "graphs"] if compiled else []
    lines = [head, ["---", "---", *["--:"] * (len(head) - 2)]]
    previous = None
    for result in race.results:
        name = "" if result.method == previous else f"`{result.method}`"
        lines.append([name, *cells(race, result, compiled)])
        previous = result.method
    rows = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{rows}\n{footnotes(race)}"


def cells(race: Race, result: Result, compiled: bool) -> list[str]:
    numbers = race.numbers(result)
    ratios = [f"{numbers[key]:.3g}" for key in ("median_ratio", "mean_ratio")]
    shown = [result.label, *ratios, f"{result.worst:.2f}", f"{result.state_bytes:.2f}"]
    return shown + ([f"{result.compile_seconds:.1f}", f"{result.graphs}"] if compiled else [])


def footnotes(race: Race) -> str:
    base = next(r for r in race.results if r.label == race.baseline)
    lines = [
        f"Times are over those of {race.baseline}, whose median step took {base.median:.0f} ms."
    ]
    lines += [f"{key}: {value}" for key, value in race.facts.items()]
    lines += [f"not measured, {label}: {reason}" for label, reason in race.absent.items()]
    return "".join(f"- {line}\n" for line in lines)
