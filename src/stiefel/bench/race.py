"""The race: every optimiser at every learning rate with every seed, all else equal."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from stiefel.bench.settings import Settings, SettingsError
from stiefel.bench.text import Text
from stiefel.bench.training import Event, Point, Run

Watch = Callable[[Settings, Event], None]


@dataclass(frozen=True)
class Race:
    """What is compared: `shared` is the setting of all runs but for optimiser, lr and seed.

    The first optimiser is the baseline that the others are measured against.
    """

    shared: Settings
    optimizers: tuple[str, ...]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, values in (
            ("--optimizers", self.optimizers),
            ("--lrs", self.lrs),
            ("--seeds", self.seeds),
        ):
            if not values or len(set(values)) < len(values):
                given = ", ".join(map(str, values)) or "empty"
                raise SettingsError(
                    f"{name} is {given}, but must name at least one value, and none twice."
                )
        list(self.runs())  # Settings checks each value.

    def runs(self) -> Iterator[Settings]:
        """The settings of all runs.

        Optimisers take turns, so that a machine that slows down is unkind to all of them alike.
        """
        for seed, lr, optimizer in itertools.product(self.seeds, self.lrs, self.optimizers):
            yield replace(self.shared, optimizer=optimizer, lr=lr, seed=seed)


@dataclass(frozen=True)
class Record:
    """What is left of a run when it is over."""

    optimizer: str
    lr: float
    seed: int
    curve: tuple[Point, ...]
    seconds: float
    optimizer_seconds: float
    parameters: int
    state_bytes: int
    skipped_steps: int

    @property
    def loss(self) -> float:
        """The validation loss at the end of the decay."""
        return self.curve[-1].loss


def run_race(race: Race, text: Text, watch: Watch) -> tuple[Record, ...]:
    """Do all runs, one after another, calling `watch` after each step."""
    _warm_up(race, text)
    return tuple(finish(Run(settings, text), watch) for settings in race.runs())


def finish(run: Run, watch: Watch) -> Record:
    """Train to the end, calling `watch` after each step."""
    for event in run:
        watch(run.settings, event)
    return Record(
        optimizer=run.settings.optimizer,
        lr=run.settings.lr,
        seed=run.settings.seed,
        curve=tuple(run.curve),
        seconds=run.seconds,
        optimizer_seconds=run.optimizer_seconds,
        parameters=run.parameters,
        state_bytes=run.state_bytes,
        skipped_steps=run.optimizer.skipped_steps,
    )


def _warm_up(race: Race, text: Text) -> None:
    # The first steps of a process choose kernels and fill caches; nobody's clock should pay.
    for optimizer in race.optimizers:
        for _ in Run(replace(race.shared, optimizer=optimizer, steps=2), text):
            pass
