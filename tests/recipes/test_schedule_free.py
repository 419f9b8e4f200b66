"""Schedule-free: y is trained, z takes the steps, x is their mean and is evaluated."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from stiefel import Optimizer, adamw, muon
from stiefel.errors import HyperparameterError
from stiefel.recipe import Recipe
from stiefel.recipes import schedule_free, sgd, soap
from tests.helpers import assert_close, gradients, parameters, run, trajectory
from tests.laws import laws
from tests.recipes.faults import every_fault, survives
from tests.reference.schedule_free import schedule_free_adamw, schedule_free_sgd

SGD = sgd(momentum=0.0)
OPTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"warmup_steps": 3}, {"warmup_steps": 3}),
    ({"warmup_steps": 9, "weight_decay": 0.3}, {"warmup_steps": 9, "weight_decay": 0.3}),
]
every_option = pytest.mark.parametrize(("options", "theirs"), OPTIONS, ids=["plain", "warm", "all"])


@every_option
@pytest.mark.parametrize("beta", [0.5, 0.9, 1.0])
def test_equals_twin(options: dict[str, Any], theirs: dict[str, Any], beta: float) -> None:
    """Where it trains, where it is evaluated, and z in the state."""
    for recipe, twin in (
        (schedule_free(interpolation=beta, **options), schedule_free_adamw),
        (schedule_free(SGD, interpolation=beta, **options), schedule_free_sgd),
    ):
        key = {"betas": (beta, 0.999)} if twin is schedule_free_adamw else {"momentum": beta}
        (weight,) = parameters((6, 4))
        start, grads = weight.detach().clone(), gradients([weight], 5)
        optimizer = Optimizer([weight], recipe, lr=0.05)
        for step in range(1, 6):
            run(optimizer, [weight], grads[step - 1 : step])
            at = partial(twin, start, [s[0] for s in grads[:step]], lr=0.05, **theirs, **key)
            z = optimizer.state[weight]["apply.z"]
            assert_close([weight, z], [at(point="y"), at(point="z")], 1e-9)
            with optimizer.evaluating():
                assert_close([weight], [at(point="x")], 1e-9)


@pytest.mark.parametrize("base", [muon, soap])
@pytest.mark.parametrize("warmup", [1, 10])
def test_the_mean_begins_with_the_first_step(base: Any, warmup: int) -> None:
    """Not with the weight at which SOAP's first gradient, which moves nothing, leaves it."""
    params = parameters((6, 4))
    recipe = schedule_free(base(weight_decay=0.0), warmup_steps=warmup)
    optimizer = Optimizer(params, recipe, lr=0.05)
    run(optimizer, params, gradients(params, 2 if base is soap else 1))
    with optimizer.evaluating():
        assert_close(params, [optimizer.state[params[0]]["apply.z"]], 1e-12)


def test_it_evaluates_at_the_mean_of_plain_steps() -> None:
    """z takes the base's own steps while gradients come from outside, whatever the base."""
    params = parameters((6, 4))
    grads = gradients(params, 5)
    base = muon(weight_decay=0.0)
    plain = [trajectory(base, params, grads[:t])[0] for t in range(1, 6)]
    optimizer = Optimizer(params, schedule_free(base), lr=0.05)
    run(optimizer, params, grads)
    with optimizer.evaluating():
        assert_close(params, [torch.stack(plain).mean(0)], 1e-12)


def test_it_learns_without_a_schedule() -> None:
    """On a noisy quadratic x is far nearer the minimum than where a constant lr leaves SGD."""
    target = torch.randn(6, 4, dtype=torch.float64)
    errors = []
    for recipe in (SGD, schedule_free(SGD)):
        weight = torch.zeros_like(target, requires_grad=True)
        optimizer = Optimizer([weight], recipe, lr=0.3)
        for _ in range(400):
            weight.grad = weight.detach() - target + torch.randn_like(target)
            optimizer.step()
        with optimizer.evaluating():
            errors.append(float((weight.detach() - target).norm()))
    assert errors[1] < errors[0] / 3


def test_default_is_adamw_without_its_first_moment() -> None:
    params = parameters((6, 4))
    grads = gradients(params, 4)
    base = adamw(betas=(0.0, 0.999), weight_decay=0.0)
    ours = trajectory(schedule_free(), params, grads)
    assert_close(ours, trajectory(schedule_free(base), params, grads), 1e-12)


@pytest.mark.slow
def test_compiled_warm_up() -> None:
    laws.compiles_once(schedule_free(SGD, warmup_steps=3))


def test_bad_values_are_refused() -> None:
    for bad in ({"interpolation": 0.0}, {"interpolation": 1.1}, {"warmup_steps": 0}):
        with pytest.raises(HyperparameterError):
            schedule_free(**bad)


@every_fault
@pytest.mark.parametrize("base", [None, SGD, muon()], ids=lambda base: getattr(base, "name", ""))
def test_survives(fault: str, base: Recipe | None) -> None:
    survives(schedule_free(base, warmup_steps=10), fault)
