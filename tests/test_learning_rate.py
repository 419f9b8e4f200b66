"""One learning-rate unit: what the rules say, that they translate, and what a step really does."""

from __future__ import annotations

import math

import pytest
import torch

import stiefel
from stiefel.errors import HyperparameterError, RecipeError
from stiefel.pieces import SCALES, ShapeScale
from tests.helpers import assert_close, copies, gradients, parameters, run

SHAPE = (32, 128)


@pytest.mark.parametrize("shape", [(64, 16), (16, 64), (32, 32)])
def test_default_unit_is_adamws(shape: tuple[int, int]) -> None:
    """Update RMS 0.2 lr on every shape (exact polar factor, so that the claim is exact)."""
    (W,) = parameters(shape)
    before = W.detach().clone()
    optimizer = stiefel.Muon([W], lr=0.01, weight_decay=0.0, polar="exact")
    run(optimizer, [W], gradients([W], 1))
    assert float((W.detach() - before).square().mean().sqrt()) == pytest.approx(0.002)


@pytest.mark.parametrize("source", SCALES)
@pytest.mark.parametrize("target", SCALES)
def test_convert_lr_gives_the_same_step(source: str, target: str) -> None:
    (W,) = parameters(SHAPE)
    other, grads = copies([W]), gradients([W])
    lr = stiefel.convert_lr(0.02, source, target, SHAPE)
    run(stiefel.Muon([W], lr=0.02, scale=source, weight_decay=0.0), [W], grads)
    run(stiefel.Muon(other, lr=lr, scale=target, weight_decay=0.0), other, grads)
    assert_close([W.detach()], other, 1e-12)


def test_rules_by_hand() -> None:
    """Each rule at 32 x 128 and 128 x 32."""
    expected = {
        "none": (1, 1),
        "match_rms_adamw": (0.2 * math.sqrt(128), 0.2 * math.sqrt(128)),
        "original": (1, 2),
        "spectral": (0.5, 2),
        "unit_rms": (math.sqrt(128), math.sqrt(128)),
        "quarter": (0.25, 0.25),
    }
    assert expected.keys() == SCALES.keys()
    for rule, pair in expected.items():
        assert (ShapeScale(rule)(32, 128), ShapeScale(rule)(128, 32)) == pytest.approx(pair)


def test_unknown_rules_are_named() -> None:
    with pytest.raises(RecipeError, match="scale='orig' is unknown: choose one of none, match_rms"):
        stiefel.muon(scale="orig")
    with pytest.raises(RecipeError, match="'orig'"):
        stiefel.convert_lr(0.1, "orig", "none", SHAPE)
    with pytest.raises(HyperparameterError, match="not that of a matrix"):
        stiefel.convert_lr(0.1, "original", "none", (0, 3))


def test_decay_ignores_the_scale() -> None:
    (W,) = parameters(SHAPE)
    before = W.detach().clone()
    run(stiefel.Muon([W], lr=0.1, weight_decay=0.5), [W], [[torch.zeros_like(W)]])
    torch.testing.assert_close(W.detach(), 0.95 * before)


def test_effective_lr_is_the_step_that_follows() -> None:
    params = parameters(SHAPE, (24,), (8, 3, 3, 3))
    kinds = [{"params": [params[0], params[2]]}, {"params": [params[1]], "recipe": stiefel.adamw()}]
    optimizer = stiefel.Optimizer(kinds, stiefel.muon(polar="exact", weight_decay=0.0), lr=0.01)
    grads = gradients(params, 2)
    run(optimizer, params, grads[:1])
    for p, g in zip(params, grads[1], strict=True):
        p.grad = g
    before = copies(params)
    kept = [t.clone() for s in optimizer.state.values() for t in s.values()]
    told = optimizer.effective_lr()
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
    now = [t for s in optimizer.state.values() for t in s.values()]
    assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))

    optimizer.step()
    names = ["param_groups[0][0]", "param_groups[1][0]", "param_groups[0][1]"]
    for name, p, old in zip(names, params, before, strict=True):
        moved = (p - old).detach()
        assert told[name].rms == pytest.approx(float(moved.square().mean().sqrt()))
        assert told[name].relative == pytest.approx(float(moved.norm() / old.detach().norm()))
        matrix = moved.flatten(1) if moved.ndim > 1 else moved[None]
        assert told[name].spectral == pytest.approx(float(torch.linalg.svdvals(matrix)[0]))
        assert told[name].lr == 0.01
    assert told[names[0]].rms == pytest.approx(0.002)
    assert told[names[2]].spectral == pytest.approx(0.01 * 0.2 * math.sqrt(27))


def test_a_recipes_own_lr_is_its_own() -> None:
    """A learning rate given to one recipe does not reach the parameters of another."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    optimizer = stiefel.optimizer(model, stiefel.muon(lr=0.02), lr=3e-4)
    assert [g["lr"] for g in optimizer.param_groups] == [0.02, 3e-4]


def test_effective_lr_tells_parameters_of_one_name_apart() -> None:
    a, b = parameters(SHAPE, SHAPE)
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    optimizer = stiefel.Muon([{"params": [("weight", a)]}, {"params": [("weight", b)]}])
    assert list(optimizer.effective_lr()) == ["weight", "weight (param_groups[1])"]


def test_effective_lr_leaves_out_what_will_not_move() -> None:
    a, b = parameters(SHAPE, SHAPE)
    optimizer = stiefel.Muon([("a", a), ("b", b)])
    b.grad = torch.ones_like(b)
    assert list(optimizer.effective_lr()) == ["b"]
