"""SPECTRA: no singular value of the step is above its threshold."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from stiefel import Optimizer, adamw, muon, plan
from stiefel.errors import HyperparameterError, RecipeError
from stiefel.recipe import Recipe
from stiefel.recipes import adafactor, normuon, sgd, spectra
from tests.helpers import assert_close, gradients, parameters, run, trajectory
from tests.laws import laws
from tests.recipes.faults import every_fault, survives
from tests.reference.spectra import spectra as twin


def step(recipe: Recipe, weight: Tensor, grad: Tensor, lr: float = 1.0) -> Tensor:
    (moved,) = trajectory(recipe, [weight], [[grad]], lr=lr)
    return (weight.detach() - moved) / lr


@pytest.mark.parametrize(
    ("base", "theirs"),
    [
        (adamw(betas=(0.5, 0.9)), {"base": "adamw", "betas": (0.5, 0.9)}),
        (sgd(), {"base": "sgd"}),
        (muon(polar="exact"), {"base": "muon"}),
    ],
    ids=lambda part: getattr(part, "name", ""),
)
@pytest.mark.parametrize(
    "options",
    [
        {"c": 0.7},
        {"c": 1.0, "pre_c": 0.5},
        {"c": None, "pre_c": 0.5},
        {"c": 2.0, "scale": "spectral"},
    ],
    ids=str,
)
def test_equals_twin(base: Recipe, theirs: dict[str, Any], options: dict[str, Any]) -> None:
    ours = spectra(base, **options, weight_decay=0.3, clip="exact")
    renamed = {"c": "post", "pre_c": "pre"}
    theirs = theirs | {renamed.get(name, name): value for name, value in options.items()}
    laws.equals_twin(ours, partial(twin, **theirs, weight_decay=0.3))


@pytest.mark.parametrize("options", [{"c": 0.7}, {"c": None, "pre_c": 0.5}], ids=str)
def test_in_bfloat16_the_step_is_nearly_the_same(options: dict[str, Any]) -> None:
    weights = parameters((12, 8))
    grads = gradients(weights, steps=5)
    full, rounded = (
        trajectory(spectra(sgd(), **options, precision=precision), weights, grads, lr=0.1)[0]
        for precision in ("full", "bfloat16")
    )
    moved = float((rounded - full).norm() / (full - weights[0]).norm())
    assert 1e-5 < moved < 0.02


def test_no_singular_value_is_above_the_threshold() -> None:
    for shape in ((6, 4), (4, 6), (40, 8)):
        (weight,) = parameters(shape)
        grad = 9 * torch.randn_like(weight)
        moved = step(spectra(sgd(momentum=0.0), scale="none", clip="exact", c=2.0), weight, grad)
        before, after = torch.linalg.svdvals(grad), torch.linalg.svdvals(moved)
        torch.testing.assert_close(after, before / (1 + (before / 2) ** 2).sqrt())
        assert after.max() < 2


def test_what_the_base_normalises_is_clipped_too() -> None:
    (weight,) = parameters((6, 4))
    moved = step(spectra(normuon(), c=0.5, scale="none"), 0 * weight, torch.randn_like(weight))
    assert torch.linalg.svdvals(moved).max() < 0.5


def test_from_the_base_to_muon() -> None:
    """A huge threshold clips nothing, a tiny one leaves c times the polar factor."""
    (weight,) = parameters((6, 4))
    grad = torch.randn_like(weight)
    plain = sgd(momentum=0.0)
    huge = step(spectra(plain, c=1e9, scale="none", clip="exact"), weight, grad)
    tiny = step(spectra(plain, c=1e-9, scale="none", clip="exact"), 0 * weight, grad)
    polar = step(muon(polar="exact", scale="none", momentum=0.0), 0 * weight, grad)
    assert_close([huge, tiny / 1e-9], [grad, polar], 1e-9)


def test_threshold_may_be_scheduled() -> None:
    (weight,) = parameters((6, 4))
    grads = gradients([weight], 2)
    (after,) = trajectory(spectra(c=3.0), [weight], [grads[0]])
    own = weight.detach().clone().requires_grad_()
    optimizer = Optimizer([own], spectra(c=3.0), lr=0.05)
    assert torch.equal(run(optimizer, [own], [grads[0]])[0], after)
    optimizer.param_groups[0]["c"] = 1e-12
    (last,) = run(optimizer, [own], [grads[1]])
    assert_close([last], [(1 - 0.05 * 0.01) * after], 1e-11)


def test_vectors_go_without_whatever_the_base() -> None:
    assert adafactor().everywhere
    for options in ({}, {"c": None, "pre_c": 0.1}):
        recipe = spectra(adafactor(), **options)
        found = plan(torch.nn.Linear(4, 6), recipe)
        assert found["weight"].recipe is recipe and found["bias"].recipe.name == "adamw"


def test_bad_values_are_refused() -> None:
    with pytest.raises(RecipeError, match="clips nothing"):
        spectra(c=None)
    with pytest.raises(RecipeError, match="clip='hard' is unknown: choose one of newton_schulz"):
        spectra(clip="hard")
    with pytest.raises(RecipeError, match="scale="):
        spectra(scale="big")
    with pytest.raises(RecipeError, match="precision='half' is unknown"):
        spectra(precision="half")
    with pytest.raises(RecipeError, match="for clip='newton_schulz'"):
        spectra(clip="exact", precision="bfloat16")
    refused: list[dict[str, Any]] = [{"c": 0.0}, {"pre_c": -1.0}, {"c": float("inf")}]
    for bad in refused:
        with pytest.raises(HyperparameterError, match="0 < value < inf"):
            spectra(**bad)


@every_fault
@pytest.mark.parametrize("precision", ["full", "bfloat16"])
def test_survives(fault: str, precision: str) -> None:
    survives(spectra(sgd(), pre_c=0.1, precision=precision), fault)
    survives(spectra(muon()), fault, steps=5)
