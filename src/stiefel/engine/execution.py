"""Running a recipe on a stack: eagerly, or compiled. The only file that knows torch.compile."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from stiefel.piece import Now
from stiefel.recipe import Recipe

__all__ = ["Compiled", "Run", "eager"]


# On a CPU what is used twice is computed once and kept. Inductor would compute a new state anew
# where it is used, from the old one; and when it then joins these loops with the one that stores
# the state it fails (KeyError: 'buf28', torch 2.13, AdaMuon and Hyperball on two matrices).
CPU_OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {"realize_reads_threshold": 1}


class Run(Protocol):
    """How a step of a stack is run: `eager`, or a `Compiled`."""

    def __call__(
        self,
        recipe: Recipe,
        grad: Tensor,
        weight: Tensor,
        state: dict[str, Tensor],
        numbers: Mapping[str, Any],
        step: Any,
        due: Sequence[slice] = (),
    ) -> None:
        """One step of a stack `[b, m, n]`: moves ``weight`` and ``state`` in place."""
        ...


def eager(
    recipe: Recipe,
    grad: Tensor,
    weight: Tensor,
    state: dict[str, Tensor],
    numbers: Mapping[str, Any],
    step: Any,
    due: Sequence[slice] = (),
) -> None:
    """See `Run`."""
    lr = numbers["lr"]
    scale = recipe.scale(*weight.shape[-2:]) if recipe.scale else 1.0
    recipe.update(grad, state, Now(numbers, step, weight, lr, lr * scale, due))


class Compiled:
    """`eager` through torch.compile, one compiled function for every distinct plan.

    Steps in which something is refreshed run eagerly: a decomposition gains nothing by compilation,
    and a failure ladder must look at numbers.

    A plan is what a compiled function specialises on: recipe, shape, dtype, device. The compile
    cache of torch belongs to the code object and gives up after eight variants, so every plan gets
    a code object of its own. Numbers go in as 0-d tensors: a scheduler recompiles nothing.
    """

    def __init__(self) -> None:
        self.plans: dict[tuple[Any, ...], Run] = {}

    def __call__(
        self,
        recipe: Recipe,
        grad: Tensor,
        weight: Tensor,
        state: dict[str, Tensor],
        numbers: Mapping[str, Any],
        step: Any,
        due: Sequence[slice] = (),
    ) -> None:
        """As `eager`."""
        if due:
            return eager(recipe, grad, weight, state, numbers, step, due)
        key = (recipe.fingerprint, tuple(weight.shape), weight.dtype, weight.device)
        if key not in self.plans:
            options = CPU_OPTIONS if weight.device.type == "cpu" else None
            self.plans[key] = torch.compile(_fresh_copy(eager), dynamic=False, options=options)
        tensors = {name: _as_tensor(value) for name, value in numbers.items()}
        return self.plans[key](recipe, grad, weight, state, tensors, _as_tensor(float(step)))


def _fresh_copy(function: Run) -> Run:
    assert isinstance(function, types.FunctionType)
    code = function.__code__.replace()
    return types.FunctionType(code, function.__globals__, argdefs=function.__defaults__)


def _as_tensor(value: Any) -> Any:
    """Floats (also in pairs) as 0-d tensors; counts and flags stay, they shape the graph."""
    if isinstance(value, float):
        return torch.tensor(value, dtype=torch.float64)
    if isinstance(value, (tuple, list)):
        return tuple(_as_tensor(item) for item in value)
    return value
