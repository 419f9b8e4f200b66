"""Cautious weight decay: only what the step shrinks is decayed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from stiefel import adamw, muon
from stiefel.errors import HyperparameterError, RecipeError
from stiefel.piece import Live
from stiefel.pieces import DecoupledDecay
from stiefel.recipes import cautious, conda, galore, hyperball, lion, lookahead, sgd, soap
from tests.helpers import assert_close, gradients, parameters, trajectory
from tests.laws import laws
from tests.recipes.faults import every_fault, survives
from tests.reference.cautious import cautious as twin


@pytest.mark.parametrize(
    ("base", "theirs"),
    [
        (adamw(betas=(0.5, 0.9)), {"base": "adamw", "betas": (0.5, 0.9)}),
        (sgd(), {"base": "sgd"}),
        (lion(), {"base": "lion"}),
        (muon(polar="exact"), {"base": "muon"}),
    ],
    ids=lambda part: getattr(part, "name", ""),
)
def test_equals_twin(base: Any, theirs: dict[str, Any]) -> None:
    laws.equals_twin(cautious(base, weight_decay=0.3), partial(twin, **theirs, weight_decay=0.3))


@pytest.mark.parametrize("base", [conda, galore, soap])
def test_decay_and_mask_see_the_weight_before_the_step(base: Any) -> None:
    """Also those of recipes that decay afterwards: one step, long enough to change signs."""
    (W,) = parameters((6, 4))
    before, grads = W.detach(), gradients([W], 2 if base is soap else 1)  # its first moves nothing
    plain, careful = base(weight_decay=0.0), cautious(base(weight_decay=0.5))
    (moved,) = trajectory(plain, [W], grads, lr=2.0)
    U = (before - moved) / 2.0
    expected = moved - 2.0 * 0.5 * (U * before >= 0) * before
    assert_close(trajectory(careful, [W], grads, lr=2.0), [expected], 1e-9)
    assert ((U * before >= 0) != (U * moved >= 0)).any()


@pytest.mark.parametrize("after", [False, True])
def test_decays_what_the_step_shrinks(after: bool) -> None:
    """Signs of weight and gradient in all nine combinations; their product underflows."""
    signs = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    weight, grad = torch.meshgrid(1e-150 * signs, 1e-200 * signs, indexing="ij")
    plain = replace(sgd(), apply=DecoupledDecay(Live("weight_decay", 0.5), after))
    (moved,) = trajectory(cautious(plain), [weight], [[grad]], lr=0.1)
    expected = torch.where(weight * signs >= 0, 0.95 * weight, weight)
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-190)


def test_a_stationary_point_that_steps_push_outwards_stays() -> None:
    """Plain decay would pull the weight in."""
    (weight,) = parameters((6, 4))
    outwards = [[-1e-9 * weight.detach()]] * 20
    (moved,) = trajectory(cautious(sgd(), weight_decay=0.1), [weight], outwards)
    (pulled,) = trajectory(sgd(weight_decay=0.1), [weight], outwards)
    assert (moved.abs() >= weight.abs()).all() and (pulled.abs() < weight.abs()).all()


def test_reaches_a_decay_inside() -> None:
    inside = cautious(lookahead(adamw()))
    assert inside.fingerprint.count("cautious=True") == 1
    assert cautious(soap()).apply == replace(adamw(weight_decay=0.01).apply, cautious=True)  # type: ignore[type-var]


def test_without_decay_it_is_the_base() -> None:
    params = parameters((6, 4))
    grads = gradients(params)
    base = muon(weight_decay=0.0)
    ours, theirs = trajectory(cautious(base), params, grads), trajectory(base, params, grads)
    assert torch.equal(ours[0], theirs[0])


def test_bad_values_are_refused() -> None:
    with pytest.raises(RecipeError, match="hyperball\\(muon\\)' has no decoupled decay"):
        cautious(hyperball())
    with pytest.raises(HyperparameterError):
        cautious(weight_decay=-0.1)


@every_fault
def test_survives(fault: str) -> None:
    survives(cautious(sgd(), weight_decay=0.1), fault)
