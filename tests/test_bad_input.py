"""Bad input is refused at the door, by name, before anything changed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import stiefel
from stiefel.errors import (
    CheckpointError,
    GradientError,
    HyperparameterError,
    ParameterError,
    RecipeError,
    StiefelError,
    ViewError,
)
from stiefel.piece import Live
from stiefel.pieces import DecoupledDecay
from tests.helpers import copies, gradients, parameters, run
from tests.test_torch_contract import mixed, same_bits, state_of

W = torch.ones(4, 3, requires_grad=True)
V = torch.ones(3, requires_grad=True)
NET = nn.Linear(3, 4, bias=False)
nan, inf = float("nan"), float("inf")

CONSTRUCTION: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: stiefel.Muon([]), ParameterError, "parameter list is empty"),
    (lambda: stiefel.Muon(iter([])), ParameterError, "parameter list is empty"),
    (
        lambda: stiefel.Muon([V]),
        ParameterError,
        r"shape \(3,\), which is no matrix, but recipe 'muon'",
    ),
    (lambda: stiefel.Muon([("bias", V)]), ParameterError, "parameter bias has shape"),
    (
        lambda: stiefel.Muon([torch.ones(2, 3, 4)]),
        ParameterError,
        r"3 dimensions, \(2, 3, 4\).*views.*stiefel.views.stack or stiefel.views.conv\(\)",
    ),
    (lambda: stiefel.AdamW([{"lr": 1e-3}]), ParameterError, r"group 0 has no 'params'.*\['lr'\]"),
    (lambda: stiefel.Muon([W], maximize="no"), HyperparameterError, "maximize='no'.*True or False"),
    (lambda: stiefel.Muon([W], compile="yes"), HyperparameterError, "compile='yes'"),
    (lambda: stiefel.Muon([W], guard=None), HyperparameterError, "guard=None"),
    (lambda: stiefel.optimizer(NET, stiefel.muon), RecipeError, r"call the function.*muon\(\)"),
    (lambda: stiefel.optimizer(NET, stiefel.Muon), RecipeError, r"call the function.*muon\(\)"),
    (lambda: stiefel.optimizer(NET, {}), RecipeError, "names no role"),
    (lambda: stiefel.optimizer(NET, groups=[]), ParameterError, r"groups=\[\] holds no parameter"),
    (
        lambda: stiefel.optimizer(NET, views={"weight": "qkv"}),
        ViewError,
        r"'qkv' is no view: give .*stiefel.views, such as views.qkv\(\)",
    ),
    (
        lambda: stiefel.convert_lr(0.1, "original", "none", (4, 3, 3)),  # type: ignore[arg-type]
        HyperparameterError,
        r"shape=\(4, 3, 3\) is not that of a matrix",
    ),
    (lambda: stiefel.Muon([torch.ones(4, 3).long()]), ParameterError, "is torch.int64"),
    (lambda: stiefel.AdamW([W.detach().to(torch.complex64)]), ParameterError, "view_as_real"),
    (lambda: stiefel.Muon([W], lr=-1.0), HyperparameterError, "lr=-1.0 is out of range"),
    (lambda: stiefel.Muon([W], lr=nan), HyperparameterError, "lr=nan"),
    (lambda: stiefel.Muon([W], lr=inf), HyperparameterError, "lr=inf"),
    (lambda: stiefel.Muon([W], lr=torch.ones(2)), HyperparameterError, "lr=tensor"),
    (lambda: stiefel.Muon([W], lr="1e-3"), HyperparameterError, "lr='1e-3'"),
    (lambda: stiefel.Muon([W], momentum=1.0), HyperparameterError, "momentum=1.0.*0 <= value < 1"),
    (lambda: stiefel.Muon([W], momentum=nan), HyperparameterError, "momentum=nan"),
    (lambda: stiefel.Muon([W], weight_decay=-0.1), HyperparameterError, "weight_decay=-0.1"),
    (lambda: stiefel.Muon([W], ns_steps=0), HyperparameterError, "ns_steps=0.*whole number"),
    (lambda: stiefel.Muon([W], ns_steps=2.5), HyperparameterError, "ns_steps=2.5"),
    (lambda: stiefel.Muon([W], ns_steps=5.0), HyperparameterError, "ns_steps=5.0"),
    (lambda: stiefel.Muon([W], ns_steps=nan), HyperparameterError, "ns_steps=nan"),
    (lambda: stiefel.Muon([W], nesterov=1), HyperparameterError, "nesterov=1.*True or False"),
    (lambda: stiefel.Muon([W], polar="newton"), RecipeError, "polar='newton' is unknown"),
    (lambda: stiefel.Muon([W], scale="big"), RecipeError, "scale='big' is unknown"),
    (lambda: stiefel.AdamW([W], betas=(0.9, 1.0)), HyperparameterError, r"betas=\(0.9, 1.0\)"),
    (lambda: stiefel.AdamW([W], betas=(0.9,)), HyperparameterError, "two values"),
    (lambda: stiefel.AdamW([W], eps=nan), HyperparameterError, "eps=nan"),
    (lambda: stiefel.muon(lr=nan), HyperparameterError, "lr=nan"),
    (lambda: stiefel.Muon([{"params": [W], "momentum": 2.0}]), HyperparameterError, "momentum=2.0"),
    (lambda: stiefel.Muon([{"params": [W], "recipe": "adamw"}]), RecipeError, "stiefel.adamw()"),
    (
        lambda: stiefel.Muon([{"params": [W], "views": [stiefel.views.heads(3)]}]),
        ViewError,
        "4 does not divide into 3",
    ),
    (
        lambda: stiefel.Muon([{"params": [W], "views": [stiefel.views.matrix((3, 4))]}]),
        ViewError,
        r"for shape \(3, 4\), not \(4, 3\)",
    ),
    (lambda: stiefel.Muon([{"params": [W], "views": []}]), ViewError, "does not fit 1 parameters"),
    (
        lambda: stiefel.Muon([{"params": [W], "views": stiefel.views.stack}]),
        ViewError,
        "give a list",
    ),
    (
        lambda: stiefel.Recipe("odd", apply=DecoupledDecay(Live("w", 0.1)), scale=max),  # type: ignore[arg-type]
        RecipeError,
        "has no name that a checkpoint could keep",
    ),
    (
        lambda: stiefel.Recipe("odd", apply=DecoupledDecay(Live("w", 0.1)), momentum="m"),  # type: ignore[arg-type]
        RecipeError,
        "'m' in slot 'momentum' is not a piece",
    ),
]


@pytest.mark.parametrize(("build", "error", "words"), CONSTRUCTION)
def test_construction(build: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        build()
    assert isinstance(caught.value, StiefelError)


def test_torch_type_errors_stay() -> None:
    with pytest.raises(TypeError):
        stiefel.Muon(W)
    with pytest.raises(TypeError):
        stiefel.Muon({W})
    with pytest.raises(TypeError):
        stiefel.Muon([W], momentun=0.9)


def test_refused_group_leaves_no_trace() -> None:
    optimizer = stiefel.Muon([W])
    for bad in ({"params": [V]}, {"params": [V], "lr": -1.0}, {"params": [W]}, {"lr": 1.0}):
        with pytest.raises(ValueError):
            optimizer.add_param_group(bad)
        assert len(optimizer.param_groups) == 1 and set(optimizer.state) == {W}


def test_sparse_gradient_is_refused_by_name() -> None:
    table = nn.Embedding(5, 3, sparse=True)
    other = nn.Parameter(torch.ones(2, 2))
    optimizer = stiefel.AdamW([("other", other), ("table", table.weight)])
    (table(torch.tensor([1, 2])).sum() + other.sum()).backward()
    before = other.detach().clone()
    with pytest.raises(GradientError, match="parameter table has a sparse gradient"):
        optimizer.step()
    assert torch.equal(other, before)
    assert issubclass(GradientError, RuntimeError)  # what torch raises


# -- checkpoints -----------------------------------------------------------------------------------


def saved(params: Any = None, **options: Any) -> dict[str, Any]:
    params = params or parameters((6, 4), (8, 8))
    optimizer = stiefel.Muon(params, **options)
    run(optimizer, params, gradients(params))
    return optimizer.state_dict()


def damaged(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    state = copy.deepcopy(saved())
    change(state)
    return state


CHECKPOINTS: list[tuple[Callable[[], dict[str, Any]], str]] = [
    (
        lambda: saved(polar="jordan"),
        "saved under muon.*jordan.*this optimiser has muon.*polar_expr",
    ),
    (lambda: saved(scale="original"), "original"),
    (lambda: stiefel.AdamW(parameters((6, 4), (8, 8))).state_dict(), "saved under adamw"),
    (lambda: torch.optim.Muon(parameters((6, 4), (8, 8))).state_dict(), "names no recipe"),
    (lambda: saved(parameters((6, 4))), "has 1 parameters, this optimiser's has 2"),
    (lambda: saved(parameters((6, 4), (8, 6))), r"momentum.m of parameter .* has shape \(8, 6\)"),
    (
        lambda: mixed(parameters((6, 4), (8, 8))).state_dict(),
        r"2 param groups \(muon, adamw\), this optimiser 1 \(muon\)",
    ),
    (lambda: {}, "this one nothing: give what opt.state_dict"),
    (lambda: [], "this one nothing: give what opt.state_dict"),  # type: ignore[arg-type,return-value]
    (lambda: damaged(lambda s: s["param_groups"][0].pop("params")), "group 0 .* lacks params"),
    (lambda: damaged(lambda s: s["param_groups"][0].update(lr=nan)), "group 0 .*lr=nan is out"),
    (lambda: damaged(lambda s: s["param_groups"][0].update(ns_steps=0)), "group 0 .*ns_steps=0"),
    (lambda: damaged(lambda s: s["state"][1]["step"].fill_(-2)), "step of .* is -2.0"),
    (lambda: damaged(lambda s: s["param_groups"][0].pop("nesterov")), "group 0 .* lacks nesterov"),
    (lambda: damaged(lambda s: s["state"].pop(1)), "the checkpoint has nothing"),
    (lambda: damaged(lambda s: s["state"][0].pop("momentum.m")), r"has \['step'\]"),
]


@pytest.mark.parametrize(("make", "words"), CHECKPOINTS)
def test_foreign_checkpoint_changes_nothing(make: Callable[[], Any], words: str) -> None:
    params = parameters((6, 4), (8, 8))
    optimizer = stiefel.Muon(params)
    run(optimizer, params, gradients(params))
    state, groups = state_of(optimizer), copy.deepcopy(optimizer.state_dict()["param_groups"])
    with pytest.raises(CheckpointError, match=words):
        optimizer.load_state_dict(make())
    assert same_bits(state_of(optimizer), state)
    assert optimizer.state_dict()["param_groups"] == groups


def test_reordered_parameters_are_noticed() -> None:
    a, b = parameters((6, 6), (6, 6))
    state = stiefel.Muon([("a", a), ("b", b)]).state_dict()
    with pytest.raises(CheckpointError, match="same parameters in another order"):
        stiefel.Muon([("b", b), ("a", a)]).load_state_dict(state)
    wrapped = stiefel.Muon([("module.a", a), ("module.b", b)])
    wrapped.load_state_dict(state)  # fine, and the names are those of the model that is trained
    assert wrapped.param_groups[0]["param_names"] == ["module.a", "module.b"]


@pytest.mark.parametrize(
    ("recipe", "name", "value"),
    [
        ("soap", "refresh_every", 0),
        ("soap", "refresh_every", 2.5),
        ("adamw", "betas", (1.0, 0.9)),
        *(("sgd", "lr", value) for value in (nan, inf, -1e-3, True, "1e-3", None)),
    ],
)
def test_a_number_written_later_is_checked_before_anything_moves(
    recipe: str, name: str, value: object
) -> None:
    """Two groups, the second with the bad number: the first must not have moved either."""
    params = parameters((6, 4), (6, 4))
    made = stiefel.recipes.REGISTRY[recipe]()
    optimizer = stiefel.Optimizer([{"params": [p]} for p in params], made)
    run(optimizer, params, gradients(params, 2))
    optimizer.param_groups[1][name] = value
    before = copies(params)
    with pytest.raises(HyperparameterError, match=name):
        run(optimizer, params, gradients(params, 1))
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))


def test_a_number_taken_away_is_missed_by_name() -> None:
    optimizer = stiefel.AdamW([W])
    W.grad = torch.ones_like(W)
    del optimizer.param_groups[0]["weight_decay"]
    with pytest.raises(HyperparameterError, match="weight_decay is missing"):
        optimizer.step()


def test_a_schedule_may_end_a_hair_below_zero() -> None:
    """By its own rounding: that is no step, and no reason to stop a run at its end."""
    (p,) = parameters((4, 3))
    optimizer, (before,) = stiefel.SGD([p], lr=0.1), copies([p])
    optimizer.param_groups[0]["lr"] = -1e-19
    run(optimizer, [p], gradients([p]))
    assert torch.equal(p, before)


def test_frozen_parameters_are_spoken_of() -> None:
    """Their state is all of a large model's where somebody trains a small adapter."""
    frozen = nn.Parameter(torch.ones(5, 3), requires_grad=False)
    with pytest.warns(UserWarning, match="1 of 2 parameters of a group, with 15 entries, are froz"):
        stiefel.AdamW([W, frozen])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stiefel.AdamW([W])
        stiefel.optimizer(nn.Sequential(NET, nn.Linear(4, 3).requires_grad_(False)), "adamw")
