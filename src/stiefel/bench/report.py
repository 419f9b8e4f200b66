"""What a race is reported as: a table for the terminal, a picture, a page and numbers."""

import base64
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from jinja2 import Environment
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stiefel.bench.figure import draw
from stiefel.bench.race import Race, Record
from stiefel.bench.settings import Settings
from stiefel.bench.standings import Standing, caveats, losses_by_lr, standings
from stiefel.bench.text import Text
from stiefel.bench.training import EVALUATIONS

_SHARED = [
    field.name for field in fields(Settings) if field.name not in ("optimizer", "lr", "seed")
]


@dataclass(frozen=True)
class Report:
    """A finished race and where it was run; `elapsed` counts everything, in seconds."""

    race: Race
    records: tuple[Record, ...]
    text: Text
    machine: dict[str, str]
    elapsed: float

    @property
    def standings(self) -> list[Standing]:
        """How each optimiser did, the baseline first."""
        return standings(self.race, self.records)

    @property
    def grid(self) -> dict[str, dict[float, float]]:
        """Final validation loss by optimiser and learning rate, averaged over the seeds."""
        return {name: losses_by_lr(self.race, self.records, name) for name in self.race.optimizers}

    @property
    def caveats(self) -> list[str]:
        """What a reader must know before believing the numbers."""
        return list(caveats(self.race, self.records))

    @property
    def columns(self) -> list[str]:
        """The headings of the table."""
        baseline = self.race.optimizers[0]
        return [
            "optimizer",
            "best lr",
            "final loss",
            f"steps to {baseline}'s final loss",
            f"seconds to {baseline}'s final loss",
            "time in optimizer",
            "state bytes per weight",
        ]

    @property
    def rows(self) -> list[list[str]]:
        """The cells of the table, one row for each optimiser."""
        return [
            [
                standing.optimizer,
                f"{standing.lr:g}",
                spread(standing.losses, 4),
                reach(standing.steps_to_baseline, 0),
                reach(standing.seconds_to_baseline, 1),
                f"{standing.optimizer_share:.1%}",
                f"{standing.state_bytes:.2f}",
            ]
            for standing in self.standings
        ]

    @property
    def facts(self) -> dict[str, str]:
        """How it was measured, as lines to print."""
        run, text = self.race.shared, self.text
        tokens = run.steps * run.batch * run.context
        return {
            "model": f"GPT on bytes, {self.records[0].parameters:,} parameters: "
            f"{run.layers} layers of width {run.width}; bf16 autocast, float32 weights",
            "budget": f"{len(self.records)} runs of {run.steps} steps, each of "
            f"{run.batch} x {run.context} bytes: {tokens:,} tokens per run",
            "text": f"{text.source}: {text.files} files, {len(text.training):,} bytes to train "
            f"on, {len(text.held_out):,} held out; sha256 {text.digest}",
            "seeds": ", ".join(map(str, self.race.seeds)),
            **self.machine,
            "loss": "validation loss in nats per byte, final: at the end of the lr's decay to zero",
            "duration": f"{self.elapsed:.0f} s, {EVALUATIONS} evaluations per run included",
            "command": self.command,
        }

    @property
    def command(self) -> str:
        """The command line that runs this race again."""
        options: dict[str, Any] = {
            "optimizers": ",".join(self.race.optimizers),
            "lrs": ",".join(map(str, self.race.lrs)),
            "seeds": ",".join(map(str, self.race.seeds)),
        }
        if self.text.path is not None:
            options["data"] = self.text.path
        options |= {name: getattr(self.race.shared, name) for name in _SHARED}
        words = (str(word) for name, value in options.items() for word in (f"--{name}", value))
        return shlex.join(["stiefel", "bench", *words])

    def print(self, console: Console) -> None:
        """Print how it was measured, the table and the caveats."""
        for name, value in self.facts.items():
            console.print(f"[dim]{name:>9}[/]  {escape(value)}", highlight=False, soft_wrap=True)
        console.print(_table("Each at its best learning rate", self.columns, self.rows))
        columns = ["optimizer", *(f"{lr:g}" for lr in sorted(self.race.lrs))]
        rows = [[name, *(f"{v:.4f}" for v in row.values())] for name, row in self.grid.items()]
        console.print(_table("Final loss at every learning rate", columns, rows))
        for caveat in self.caveats:
            console.print(f"! {escape(caveat)}", style="yellow", highlight=False, soft_wrap=True)

    def write(self, folder: Path) -> None:
        """Write `results.json`, `loss.png` and `report.html`, which needs no other file."""
        png = draw(self.race, self.records)
        (folder / "loss.png").write_bytes(png)
        (folder / "results.json").write_text(self._json(), encoding="utf-8")
        (folder / "report.html").write_text(self._html(png), encoding="utf-8")

    def _html(self, png: bytes) -> str:
        source = resources.files("stiefel.bench").joinpath("report.html.j2").read_text("utf-8")
        picture = base64.b64encode(png).decode()
        template = Environment(autoescape=True, trim_blocks=True).from_string(source)
        return template.render(report=self, picture=picture)

    def _json(self) -> str:
        content = {
            "facts": self.facts,
            "standings": [asdict(standing) for standing in self.standings],
            "caveats": self.caveats,
            "race": asdict(self.race),
            "records": [asdict(record) for record in self.records],
        }
        # JSON has no NaN: the loss of a diverged run becomes null.
        finite = json.loads(json.dumps(content), parse_constant=lambda _: None)
        return json.dumps(finite, indent=1)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    return table


def spread(values: Sequence[float], digits: int) -> str:
    """The mean, with the standard deviation where there are several values."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def reach(values: Sequence[float | None], digits: int) -> str:
    """When a target was reached, if it was, by all seeds or by some."""
    reached = [value for value in values if value is not None]
    if not reached:
        return "not reached"
    if len(reached) < len(values):
        return f"reached by {len(reached)} of {len(values)} seeds"
    return spread(reached, digits)
