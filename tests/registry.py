"""Every recipe with what is true of it. A new recipe adds a row and gets every law."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import stiefel
from stiefel.recipe import IDENTITY, Recipe
from tests.reference.adamw import adamw as adamw_twin
from tests.reference.muon import muon as muon_twin


@dataclass(frozen=True)
class Row:
    """Claims about one recipe.

    Args:
        name: label of the tests.
        recipe: the recipe's function.
        twin: ``(W, grads, lr=...) -> W``, a textbook version in float64 with the same settings.
        state: names of the state tensors of a plain matrix.
        spectral: the update is equivariant under orthogonal maps.
        transposes: a transposed gradient gives the transposed update.
        scale_free: the update ignores the gradient's positive scale.
        settings: keywords that make recipe and twin the same method.
        undamped: keywords without decay or damping, under which the three claims above are
            tested: a law holds where it is claimed and fails where it is not.
        plain: the recipe with its novelty switched off, and the torch optimiser it then is.
    """

    name: str
    recipe: Callable[..., Recipe]
    twin: Callable[..., Tensor]
    state: frozenset[str]
    spectral: bool
    transposes: bool
    scale_free: bool
    settings: dict[str, Any]
    undamped: dict[str, Any]
    plain: Callable[[], tuple[Recipe, Callable[..., torch.optim.Optimizer]]]


def _muon_without_polar() -> tuple[Recipe, Callable[..., torch.optim.Optimizer]]:
    recipe = stiefel.muon(momentum=0.0, nesterov=False, weight_decay=0.0)
    return replace(recipe, direction=IDENTITY, scale=None), torch.optim.SGD


def _adamw_itself() -> tuple[Recipe, Callable[..., torch.optim.Optimizer]]:
    return stiefel.adamw(), torch.optim.AdamW


REGISTRY = [
    Row(
        name="muon",
        recipe=stiefel.muon,
        twin=muon_twin,
        state=frozenset({"momentum.m", "step"}),
        spectral=True,
        transposes=True,
        scale_free=True,
        settings={"polar": "jordan"},
        undamped={"weight_decay": 0.0},
        plain=_muon_without_polar,
    ),
    Row(
        name="adamw",
        recipe=stiefel.adamw,
        twin=adamw_twin,
        state=frozenset({"precondition.m", "precondition.v", "step"}),
        spectral=False,
        transposes=True,
        scale_free=True,
        settings={},
        undamped={"weight_decay": 0.0, "eps": 0.0},
        plain=_adamw_itself,
    ),
]
