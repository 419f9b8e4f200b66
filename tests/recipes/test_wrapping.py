"""Recipes made of recipes: names, numbers, and that they nest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import stiefel
from stiefel import Optimizer, adamw, muon
from stiefel.errors import CheckpointError, HyperparameterError, RecipeError
from stiefel.piece import REFRESH_EVERY, Live
from stiefel.pieces import DecoupledDecay
from stiefel.recipe import Recipe
from stiefel.recipes import (
    averaged,
    cautious,
    hyperball,
    lookahead,
    schedule_free,
    sgd,
    spectra,
)
from tests.helpers import assert_close, copies, gradients, parameters, run, trajectory
from tests.laws import laws
from tests.test_clock import Holds

WRAPPERS = [cautious, spectra, hyperball, lookahead, averaged, schedule_free]
Wrapper = Callable[..., Recipe]
every_wrapper = pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda wrapper: wrapper.__name__)
slow_wrapper = pytest.mark.parametrize(
    "wrapper", [lookahead, averaged, schedule_free], ids=lambda wrapper: wrapper.__name__
)


@every_wrapper
def test_name_tells_both(wrapper: Wrapper) -> None:
    assert wrapper(muon()).name == f"{wrapper.__name__}(muon)"
    assert wrapper().name in (f"{wrapper.__name__}(adamw)", "hyperball(muon)")


def test_fingerprint_tells_wrapper_and_base() -> None:
    made = [wrapper(base) for wrapper in WRAPPERS for base in (muon(), adamw(), sgd())]
    made += [muon(), adamw(), averaged(lookahead()), averaged(cautious()), cautious(averaged())]
    assert len({recipe.fingerprint for recipe in made}) == len(made)


@every_wrapper
def test_lr_and_decay(wrapper: Wrapper) -> None:
    recipe = wrapper(muon(lr=0.5), weight_decay=0.25)
    assert recipe.lr == 0.5 and recipe.live["weight_decay"].default == 0.25
    assert wrapper(muon(lr=0.5), lr=0.1).lr == 0.1
    assert wrapper(muon(momentum=0.5)).live["momentum"].default == 0.5
    with pytest.raises(HyperparameterError):
        wrapper(weight_decay=-1.0)


@every_wrapper
def test_only_recipes_are_wrapped(wrapper: Wrapper) -> None:
    with pytest.raises(RecipeError, match="base='muon' is not a recipe"):
        wrapper("muon")


def test_two_numbers_of_one_name_are_refused() -> None:
    with pytest.raises(RecipeError, match="already has a number slow_rate, sync_every"):
        lookahead(lookahead(slow_rate=0.9), slow_rate=0.99)
    with pytest.raises(RecipeError, match="already has a number c"):
        spectra(spectra())


def test_a_decay_for_a_recipe_without_one_is_refused() -> None:
    bare = Recipe("bare", apply=DecoupledDecay(Live("pull", 0.0)))
    with pytest.raises(RecipeError, match="'bare' has no weight decay"):
        averaged(bare, weight_decay=0.1)
    assert averaged(bare).name == "averaged(bare)"


@every_wrapper
def test_works_by_name_and_by_role(wrapper: Wrapper) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.LayerNorm(16))
    for choice in (wrapper.__name__, {"hidden": wrapper(muon()), "vector": averaged()}):
        optimizer = stiefel.optimizer(model, choice)
        assert wrapper.__name__ in str(stiefel.plan(model, choice))
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()


@every_wrapper
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_resumes_exactly(wrapper: Wrapper, dtype: torch.dtype) -> None:
    laws.resumes_exactly(wrapper(muon()), dtype)


def test_a_checkpoint_of_another_wrapper_is_refused() -> None:
    params = parameters((6, 4))
    saved = Optimizer(params, averaged(muon())).state_dict()
    for other in (averaged(), lookahead(muon()), muon()):
        with pytest.raises(CheckpointError):
            Optimizer(params, other).load_state_dict(saved)


@every_wrapper
def test_stacks_step_like_single_matrices(wrapper: Wrapper) -> None:
    laws.batched_equals_single(wrapper(muon()))


def test_they_nest() -> None:
    """The outermost that offers weights to evaluate at is the one that counts."""
    params = parameters((6, 4))
    grads = gradients(params, 4)
    inner = lookahead(spectra(muon()), sync_every=2)
    path = [trajectory(inner, params, grads[:t])[0] for t in range(1, 5)]
    average = path[0]
    for weight in path[1:]:
        average = 0.7 * average + 0.3 * weight
    optimizer = Optimizer(params, averaged(inner, ema_decay=0.7), lr=0.05)
    run(optimizer, params, grads)
    assert_close(params, [path[-1]], 1e-12)
    with optimizer.evaluating():
        assert_close(params, [average], 1e-12)


# Averaged around Lookahead is welcome, whose slow weights the training sees; two Lookaheads are not
# because of their numbers.
HIDDEN = [
    (averaged, averaged),
    (lookahead, averaged),
    (schedule_free, averaged),
    (averaged, schedule_free),
    (lookahead, schedule_free),
    (schedule_free, schedule_free),
    (schedule_free, lookahead),
]


@pytest.mark.parametrize(("outer", "inner"), HIDDEN)
def test_weights_that_nobody_would_see_are_refused(outer: Wrapper, inner: Wrapper) -> None:
    kinds = [type(wrapper().apply).__name__ for wrapper in (inner, outer)]
    for between in (lambda base: base, cautious, spectra):
        with pytest.raises(RecipeError, match=f"{kinds[0]} inside {kinds[1]}.*: drop {kinds[0]}"):
            outer(between(inner(muon())))


@slow_wrapper
def test_a_held_first_step_is_no_start(wrapper: Wrapper) -> None:
    """A base that only fills its state with the first gradient moves from the second on."""
    base = Recipe(
        "holds",
        direction=Holds(Live(REFRESH_EVERY, 1, "count")),
        apply=DecoupledDecay(Live("weight_decay", 0.0)),
    )
    params = parameters((6, 4))
    before, grads = copies(params), gradients(params, 3)
    optimizer = Optimizer(params, wrapper(base), lr=1e-3)
    run(optimizer, params, grads[:1])
    with optimizer.evaluating():
        assert torch.equal(params[0], before[0])
    run(optimizer, params, grads[1:])
    reach = 1e-3 * sum(float(step[0].norm()) for step in grads[1:])
    with optimizer.evaluating():
        assert float((params[0] - before[0]).detach().norm()) <= reach
