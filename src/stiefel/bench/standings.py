"""From records to what they say: the best learning rate, who is ahead, and by how much."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

from stiefel.bench.race import Race, Record
from stiefel.bench.training import Point


@dataclass(frozen=True)
class Standing:
    """One optimiser at its best learning rate; lists have one value for each seed.

    Attributes:
        losses: validation loss at the end of the decay.
        steps_to_baseline: when its curve reaches the baseline's final loss of the same seed; None
            where it never does.
        seconds_per_step: training time, without evaluations.
        optimizer_share: the share of that time that the optimiser takes.
        state_bytes: bytes of optimiser state for one parameter of the model.
    """

    optimizer: str
    lr: float
    curves: list[tuple[Point, ...]]
    losses: list[float]
    steps_to_baseline: list[float | None]
    seconds_per_step: float
    optimizer_share: float
    state_bytes: float

    @property
    def seconds_to_baseline(self) -> list[float | None]:
        """The training time that `steps_to_baseline` takes."""
        return [step and step * self.seconds_per_step for step in self.steps_to_baseline]


def standings(race: Race, records: Sequence[Record]) -> list[Standing]:
    """One standing for each optimiser, in the race's order; the first is the baseline."""
    targets = [record.loss for record in _at_best_lr(race, records, race.optimizers[0])]
    return [_standing(race, records, name, targets) for name in race.optimizers]


def _standing(
    race: Race, records: Sequence[Record], optimizer: str, targets: Sequence[float]
) -> Standing:
    chosen = _at_best_lr(race, records, optimizer)
    # All runs of an optimiser do the same work, and whatever disturbs one only slows it down: the
    # fastest tells most about the optimiser and least about the machine's other business.
    fastest = min(
        (record for record in records if record.optimizer == optimizer),
        key=lambda record: record.seconds,
    )
    return Standing(
        optimizer=optimizer,
        lr=chosen[0].lr,
        curves=[record.curve for record in chosen],
        losses=[record.loss for record in chosen],
        steps_to_baseline=[
            first_step_at(record.curve, target)
            for record, target in zip(chosen, targets, strict=True)
        ],
        seconds_per_step=fastest.seconds / race.shared.steps,
        optimizer_share=fastest.optimizer_seconds / fastest.seconds,
        state_bytes=fastest.state_bytes / fastest.parameters,
    )


def losses_by_lr(race: Race, records: Sequence[Record], optimizer: str) -> dict[float, float]:
    """The final validation loss at each learning rate of the grid, averaged over the seeds."""
    return {
        lr: mean(record.loss for record in _select(records, optimizer, lr))
        for lr in sorted(race.lrs)
    }


def first_step_at(curve: Sequence[Point], target: float) -> float | None:
    """Where the curve, straight between its points, first comes down to `target`."""
    points = [point for point in curve if math.isfinite(point.loss)]
    if points and points[0].loss <= target:
        return points[0].step
    for before, after in itertools.pairwise(points):
        if after.loss <= target:
            share = (before.loss - target) / (before.loss - after.loss)
            return before.step + share * (after.step - before.step)
    return None


def caveats(race: Race, records: Sequence[Record]) -> Iterator[str]:
    """What a reader must know before believing the numbers."""
    for standing in standings(race, records):
        yield from _tuning_caveats(race, standing)
    if len(race.seeds) == 1:
        yield "One seed: the difference has no error bar. Give --seeds 0,1,2 for one."
    for record in records:
        if record.skipped_steps:
            yield (
                f"{record.optimizer} at {record.lr:g} (seed {record.seed}) skipped "
                f"{record.skipped_steps} steps whose gradients were not finite."
            )


def _tuning_caveats(race: Race, standing: Standing) -> Iterator[str]:
    if not all(math.isfinite(loss) for loss in standing.losses):
        yield f"{standing.optimizer} diverged at every learning rate of the grid."
    elif len(race.lrs) == 1:
        yield f"{standing.optimizer} was not tuned: the grid has one learning rate."
    elif standing.lr in (min(race.lrs), max(race.lrs)):
        end = "lowest" if standing.lr == min(race.lrs) else "highest"
        yield (
            f"{standing.optimizer} is best at {standing.lr:g}, the {end} learning rate of the "
            "grid: a better one may lie outside. Widen --lrs."
        )


def _at_best_lr(race: Race, records: Sequence[Record], optimizer: str) -> tuple[Record, ...]:
    losses = losses_by_lr(race, records, optimizer)
    best = min(losses, key=lambda lr: losses[lr] if math.isfinite(losses[lr]) else math.inf)
    return _select(records, optimizer, best)


def _select(records: Sequence[Record], optimizer: str, lr: float) -> tuple[Record, ...]:
    return tuple(record for record in records if (record.optimizer, record.lr) == (optimizer, lr))
