"""The view of a running benchmark: a bar for the run, one for all runs, losses, time left."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stiefel.bench.race import Watch
from stiefel.bench.settings import Settings
from stiefel.bench.training import Event


@contextmanager
def live(console: Console, runs: int, steps: int) -> Iterator[Watch]:
    """Inside the `with` block, show each step of `runs` runs of `steps` steps."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[losses]}"),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=60,
    )
    run = progress.add_task("warming up", total=steps, losses="")
    race = progress.add_task(f"all {runs} runs", total=runs * steps, losses="", visible=runs > 1)

    def show(settings: Settings, event: Event) -> None:
        title = f"{settings.optimizer}, lr {settings.lr:g}, seed {settings.seed}"
        losses = f"loss {event.training_loss:.3f}  validation {event.validation_loss:.3f}"
        progress.update(run, completed=event.step, description=title, losses=losses)
        progress.advance(race)

    with progress:
        yield show
