"""When which matrix of a stack is refreshed.

A recipe with a clock (`stiefel.piece.REFRESH_EVERY`) does its expensive work every so many steps.
Were that the same step for all matrices, it would take several times as long as the others; so each
matrix has a phase, and every step of the period gets about the same share of the work. A phase
follows from the matrix's place in the optimiser and the due step from the count of steps: nothing
has to be saved, and a resumed run goes on in phase.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence

from stiefel.piece import Refreshed, parts
from stiefel.recipe import Recipe

__all__ = ["due", "phases", "refresh_cost"]


def refresh_cost(recipe: Recipe) -> Callable[[int, int], float]:
    """Of one matrix `[m, n]`, beside that of others."""
    known = next((part for part in parts(recipe) if isinstance(part, Refreshed)), None)
    return known.refresh_cost if known else lambda m, n: float(m**3 + n**3)


def phases(costs: Sequence[float], every: int) -> list[float]:
    """Where in the period `[0, 1)` each matrix stands, so that no step has much more than others.

    The dearest go first, each to the step that has least to do. The first of them has phase 0, so
    that a single matrix keeps the published schedule; of equal cost, neighbours stay together, for
    they are refreshed as one stack.

    Args:
        costs: of a refresh of each matrix.
        every: the usual period; another one meanwhile spreads them nearly as well.
    """
    steps = min(every, len(costs))
    loads = [(0.0, step) for step in range(steps)]
    order: list[list[int]] = [[] for _ in range(steps)]
    dearest_first = sorted(range(len(costs)), key=lambda index: -costs[index])
    for cost, equal in itertools.groupby(dearest_first, key=costs.__getitem__):
        indices = list(equal)
        for index, step in zip(indices, sorted(_add(loads, cost) for _ in indices), strict=True):
            order[step].append(index)
    found = [0.0] * len(costs)
    for step, together in enumerate(order):
        for index, share in _spread(together, costs):
            found[index] = (step + share) / steps
    return found


def _spread(indices: Sequence[int], costs: Sequence[float]) -> Iterator[tuple[int, float]]:
    """With each index the share `[0, 1)` of the work of all that comes before it.

    It is below a step of the usual period, and spreads them over those of a longer one.
    """
    total, before = sum(costs[index] for index in indices), 0.0
    for index in indices:
        yield index, before / total if costs[index] else 0.0
        before += costs[index]


def _add(loads: list[tuple[float, int]], cost: float) -> int:
    """The step that had least to do, which has ``cost`` more to do now."""
    load, step = loads[0]
    heapq.heapreplace(loads, (load + cost, step))
    return step


def due(step: int, every: int, phases: Sequence[float]) -> list[slice]:
    """The matrices, as slices of their stack, that are refreshed in this step (counted from 1).

    All of them in the first step; then each once in ``every`` steps.
    """
    if step == 1:
        return [slice(0, len(phases))]
    up = [i for i, phase in enumerate(phases) if (step - 1 + _whole(phase * every)) % every == 0]
    return [slice(start, stop) for start, stop in _runs(up)]


def _whole(steps: float) -> int:
    """The steps that are over; 28.999999999999996, which is what 0.29 * 100 makes, are 29."""
    return int(steps + 1e-9)


def _runs(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Consecutive indices as half-open ranges."""
    groups = itertools.groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0])
    found = [[index for _, index in group] for _, group in groups]
    return [(run[0], run[-1] + 1) for run in found]
