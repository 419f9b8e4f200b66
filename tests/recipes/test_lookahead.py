"""Lookahead: slow weights that meet the fast ones every few steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from stiefel import Optimizer, adamw, muon
from stiefel.errors import HyperparameterError
from stiefel.pieces.slow import blank, start_, started
from stiefel.recipe import Recipe
from stiefel.recipes import lookahead, sgd, soap
from tests.helpers import assert_close, gradients, parameters, run, trajectory
from tests.laws import laws
from tests.recipes.faults import every_fault, survives
from tests.reference.lookahead import lookahead as twin

BASES = [
    (adamw(betas=(0.5, 0.9)), {"base": "adamw", "betas": (0.5, 0.9)}),
    (sgd(), {"base": "sgd"}),
    (muon(polar="exact"), {"base": "muon"}),
]
every_base = pytest.mark.parametrize(
    ("base", "theirs"), BASES, ids=lambda part: getattr(part, "name", "")
)


def test_a_gradient_that_moves_nothing_is_no_step() -> None:
    """SOAP's first: the weights meet after two others."""
    (weight,) = parameters((6, 4))
    grads = gradients([weight], 3)
    (plain,) = trajectory(soap(weight_decay=0.0), [weight], grads)
    both = lookahead(soap(weight_decay=0.0), sync_every=2, slow_rate=0.25)
    expected = weight.detach().lerp(plain, 0.25)
    assert_close(trajectory(both, [weight], grads), [expected], 1e-12)


@every_base
@pytest.mark.parametrize("every", [1, 2, 3])
def test_equals_twin(base: Recipe, theirs: dict[str, Any], every: int) -> None:
    recipe = lookahead(base, sync_every=every, slow_rate=0.3, weight_decay=0.2)
    options = theirs | {"every": every, "alpha": 0.3, "weight_decay": 0.2}
    laws.equals_twin(recipe, partial(twin, **options))


@every_base
def test_evaluates_at_the_slow_weights(base: Recipe, theirs: dict[str, Any]) -> None:
    (weight,) = parameters((6, 4))
    grads, start = gradients([weight], 5), weight.detach().clone()
    options = theirs | {"every": 2, "alpha": 0.3, "weight_decay": 0.2, "point": "slow"}
    optimizer = Optimizer(
        [weight], lookahead(base, sync_every=2, slow_rate=0.3, weight_decay=0.2), lr=0.05
    )
    for step in range(1, 6):
        run(optimizer, [weight], grads[step - 1 : step])
        slow = twin(start, [s[0] for s in grads[:step]], lr=0.05, **options)
        with optimizer.evaluating():
            assert_close([weight], [slow], 1e-9)


def test_all_the_way_is_the_base() -> None:
    params = parameters((6, 4), dtype=torch.float32)
    grads = gradients(params, 7)
    ours = trajectory(lookahead(muon(), slow_rate=1.0, sync_every=3), params, grads)
    assert torch.equal(ours[0], trajectory(muon(), params, grads)[0])


def test_every_step_of_sgd_is_a_smaller_rate() -> None:
    params = parameters((6, 4))
    grads = gradients(params, 4)
    ours = trajectory(lookahead(sgd(), slow_rate=0.3, sync_every=1), params, grads, lr=0.1)
    assert_close(ours, trajectory(sgd(), params, grads, lr=0.03), 1e-12)


@pytest.mark.parametrize("number", [int, lambda step: torch.tensor(float(step))])
def test_slow_weights_start_in_the_first_two_steps(number: Callable[[int], Any]) -> None:
    weight = torch.tensor([1.0, 2.0, 3.0])
    slow = blank(weight)
    assert started(slow, weight).tolist() == [1.0, 2.0, 3.0]
    slow[1:] = torch.tensor([0.0, 5.0])
    for step in (1, 2):
        begun = slow.clone()
        start_(begun, weight, number(step))
        assert begun.tolist() == started(slow, weight).tolist() == [1.0, 0.0, 5.0]


def test_a_weight_of_zeros_is_a_start() -> None:
    """Biases and last projections begin so; five steps of 0.1 end half way back to them."""
    weight = torch.zeros(3, 2, dtype=torch.float64)
    recipe, ones = lookahead(sgd(momentum=0.0), sync_every=5), torch.ones_like(weight)
    optimizer = Optimizer([weight], recipe, lr=0.1)
    for _ in range(4):
        run(optimizer, [weight], [[ones]])
        with optimizer.evaluating():
            assert not weight.any()
    run(optimizer, [weight], [[ones]])
    assert_close([weight], [-0.25 * ones], 1e-12)


@pytest.mark.slow
def test_compiled_weights_meet() -> None:
    laws.compiles_once(lookahead(sync_every=2, slow_rate=0.3))


def test_bad_values_are_refused() -> None:
    for bad in ({"sync_every": 0}, {"slow_rate": 0.0}, {"slow_rate": 1.1}, {"sync_every": 2.0}):
        with pytest.raises(HyperparameterError):
            lookahead(**bad)


@every_fault
@pytest.mark.parametrize("base", [adamw(), sgd(), muon()], ids=lambda base: base.name)
def test_survives(fault: str, base: Recipe) -> None:
    survives(lookahead(base, sync_every=3), fault)
