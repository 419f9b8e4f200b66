"""Refreshes: when they fall due, for whom, and that they survive whatever happens between."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from statistics import mean
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stiefel import Optimizer, Recipe, shampoo, soap
from stiefel.engine.clock import due, phases, refresh_cost
from stiefel.errors import ConvergenceError
from stiefel.piece import MATRIX, Live, Now, Scope, State, rows, zeros
from stiefel.pieces import Chain, DecoupledDecay
from stiefel.pieces.fallback import kept
from tests.helpers import copies, gradients, parameters, run

costs = st.lists(st.floats(0.1, 10.0), min_size=1, max_size=20)


GPT = [(2304, 768), (768, 768), (3072, 768), (768, 3072)] * 4


@dataclass(frozen=True)
class Remembers:
    """Counts its refreshes, and answers with the gradient of the last one."""

    every: Live
    scope: ClassVar[Scope] = MATRIX

    def init(self, like: Tensor) -> State:
        return {"last": zeros(like), "refreshed": zeros(like[:, 0, 0])}

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        for some in now.due:
            own = rows(state, some)
            own["last"].copy_(x[some])
            own["refreshed"].add_(1)
        return state["last"].clone()


@dataclass(frozen=True)
class Holds(Remembers):
    """Moves nothing with its first gradient."""

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        now.held = bool(now.due) and now.step == 1
        return super().__call__(x, state, now)


def recipe(kind: type[Remembers] = Remembers, every: int = 3) -> Recipe:
    decay = DecoupledDecay(Live("weight_decay", 0.1))
    return Recipe("clocked", apply=decay, direction=kind(Live("refresh_every", every, "count")))


@given(costs, st.integers(1, 12), st.integers(1, 12), st.integers(2, 60))
def test_everyone_once_a_period(costs: list[float], usual: int, every: int, start: int) -> None:
    standing = phases(costs, usual)
    seen = Counter(
        index
        for step in range(start, start + every)
        for some in due(step, every, standing)
        for index in range(some.start, some.stop)
    )
    assert seen == Counter(range(len(costs)))
    assert due(1, every, standing) == [slice(0, len(costs))]


@given(costs, st.integers(1, 12))
def test_work_is_spread(costs: list[float], every: int) -> None:
    """No step does more than its even share and one matrix, which is what R. Graham proves."""
    even = sum(costs) / every
    assert max(loads(costs, every)) <= even + max(costs) * (1 - 1 / every) + 1e-9


@pytest.mark.parametrize("usual", [1, 2, 10])
@pytest.mark.parametrize("every", [10, 20, 40])
def test_a_longer_period_than_usual_spreads_them_too(usual: int, every: int) -> None:
    """Equal matrices one a step, and those of four layers within what the dearest makes of it."""
    assert set(loads([1.0] * every, every, usual)) == {1.0}
    costs = [float(m**3 + n**3) for m, n in GPT]
    assert max(loads(costs, every, usual)) <= 1.05 * max(*costs, sum(costs) / every)


def loads(costs: list[float], every: int, usual: int | None = None) -> list[float]:
    standing = phases(costs, usual or every)
    steps = range(2, 2 + every)
    return [sum(sum(costs[some]) for some in due(step, every, standing)) for step in steps]


@pytest.mark.parametrize(
    ("chosen", "worst"), [(soap(), 1.05), (soap(block=768), 1.25), (shampoo(block=768), 1.25)]
)
def test_every_step_of_a_gpt_does_about_the_same(chosen: Recipe, worst: float) -> None:
    """Four layers of GPT-2 in ten steps: 8 large matrices, 4 smaller and 4 small ones."""
    done = loads([refresh_cost(chosen)(m, n) for m, n in GPT], 10)
    assert max(done) <= worst * mean(done)


def test_cost_of_a_refresh_is_that_of_the_blocks() -> None:
    assert refresh_cost(soap(block=4))(8, 6) == 2 * 4**3 + 2 * 3**3
    assert refresh_cost(soap(max_dim=7))(8, 6) == 6**3
    assert refresh_cost(recipe())(8, 6) == 8**3 + 6**3


def test_equal_matrices_that_are_refreshed_together_are_neighbours() -> None:
    assert all(len(due(step, 5, phases([1.0] * 12, 5))) == 1 for step in range(2, 7))


@pytest.mark.parametrize("every", [1, 3, 5, 200])
def test_one_matrix_keeps_the_published_schedule(every: int) -> None:
    assert [s for s in range(1, 12) if due(s, 5, phases([1.0], every))] == [1, 6, 11]


@pytest.mark.parametrize("stagger", [True, False])
def test_stack_refreshes_its_rows(stagger: bool) -> None:
    """Three equal matrices in one stack: each is refreshed at its own step, from its own row."""
    params = parameters((6, 4), (6, 4), (6, 4))
    grads = gradients(params, 7)
    optimizer = Optimizer(params, recipe(), stagger=stagger)
    run(optimizer, params, grads)
    for index, p in enumerate(params):
        offset = index if stagger else 0
        steps = [s for s in range(7) if s == 0 or (s + offset) % 3 == 0]
        assert int(optimizer.state[p]["direction.refreshed"]) == len(steps)
        assert torch.equal(optimizer.state[p]["direction.last"], grads[steps[-1]][index])


def test_phase_survives_resume() -> None:
    params = parameters((6, 4), (6, 4), (5, 5))
    grads = gradients(params, 8)
    through = copies(params)
    run(Optimizer(through, recipe()), through, grads)
    first = Optimizer(params, recipe())
    run(first, params, grads[:4])
    resumed = Optimizer(params, recipe())
    resumed.load_state_dict(first.state_dict())
    run(resumed, params, grads[4:])
    assert all(torch.equal(a, b) for a, b in zip(through, params, strict=True))


def test_first_gradient_may_only_prime() -> None:
    """Held: no move and no decay in the first step, in a chain and alone; then the step goes on."""
    for made in (
        recipe(Holds),
        replace(recipe(Holds), direction=Chain((recipe(Holds).direction,))),
    ):
        params = parameters((6, 4))
        before = params[0].detach().clone()
        optimizer = Optimizer(params, made)
        grads = gradients(params, 2)
        run(optimizer, params, grads[:1])
        assert torch.equal(params[0], before)
        run(optimizer, params, grads[1:])
        assert not torch.equal(params[0], before)


def test_what_fails_is_kept_and_counted() -> None:
    """A matrix that cannot be decomposed keeps its last factor; its neighbours get theirs."""

    def compute(A: Tensor) -> Tensor:
        if (A == 2).any():
            raise ConvergenceError("no")
        return torch.where(A == 3, torch.nan, A)

    given = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1)
    faults = torch.zeros(4, dtype=torch.int32)
    result = kept(compute, given, torch.full_like(given, 9.0), faults)
    assert result.flatten().tolist() == [1, 9, 9, 4] and faults.tolist() == [0, 1, 1, 0]
