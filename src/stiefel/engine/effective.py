"""The step that a learning rate really makes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stiefel.engine.execution import eager
from stiefel.engine.transport import whole
from stiefel.views import View, entries, matrix

if TYPE_CHECKING:
    from stiefel.engine.optimizer import Optimizer

__all__ = ["EffectiveStep", "effective_steps"]


@dataclass(frozen=True)
class EffectiveStep:
    """One step of one parameter, ``D = W_after - W_before`` (weight decay included).

    Attributes:
        lr: the group's learning rate.
        rms: root mean square of the entries of D.
        spectral: largest singular value of D, the largest over the matrices of the view; for a
            tensor without one, the Euclidean norm.
        relative: ``||D||_F / ||W_before||_F``; infinite for a zero weight.
    """

    lr: float
    rms: float
    spectral: float
    relative: float


@torch.no_grad()
def effective_steps(optimizer: Optimizer) -> dict[str, EffectiveStep]:
    """See `Optimizer.effective_lr`."""
    # Without gradients: torch cannot copy those that fully_shard leaves.
    grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
    twin = copy.deepcopy(optimizer, {id(grad): None for grad in grads if grad is not None})
    twin._run = eager  # a single step is not worth a compilation
    found: dict[str, EffectiveStep] = {}
    for group, copied in zip(optimizer.param_groups, twin.param_groups, strict=True):
        for parameter, other in zip(group["params"], copied["params"], strict=True):
            other.grad_dtype = parameter.grad_dtype
            other.grad = parameter.grad
    twin.step()
    stepped = _with_gradient(optimizer)
    for index, (group, copied) in enumerate(
        zip(optimizer.param_groups, twin.param_groups, strict=True)
    ):
        for before, after in zip(group["params"], copied["params"], strict=True):
            if before in stepped:
                name = optimizer.name_of(before)
                name = f"{name} (param_groups[{index}])" if name in found else name
                view = _view_of(optimizer, before)
                found[name] = _measure(float(group["lr"]), whole(before), whole(after), view)
    return found


def _view_of(optimizer: Optimizer, parameter: Tensor) -> View:
    """What matrix the parameter holds; one row of entries if it holds none."""
    view = optimizer._views[parameter]
    if view is None:
        view = matrix(parameter.shape) if parameter.ndim == 2 else entries(parameter.shape)
    return view


def _with_gradient(optimizer: Optimizer) -> set[Tensor]:
    """The parameters of which some rank has a gradient."""
    every = [p for group in optimizer.param_groups for p in group["params"]]
    own = {p: p.grad for p in every if p.grad is not None}
    counts = optimizer._sharing.ask(own, norms=False, error=None).counts
    return {p for p in every if counts.get(p, p in own)}


def _measure(lr: float, before: Tensor, after: Tensor, view: View) -> EffectiveStep:
    moved = after.double() - before.double()
    norm = float(moved.norm())
    return EffectiveStep(
        lr=lr,
        rms=norm / max(1, moved.numel()) ** 0.5,
        spectral=max(_spectral_norm(block) for block in view.split(moved)),
        relative=norm / weight if (weight := float(before.double().norm())) else float("inf"),
    )


def _spectral_norm(stack: Tensor) -> float:
    """Largest singular value in a stack, from the Gram matrices on the short side."""
    if not stack.numel():
        return 0.0
    short = stack if stack.shape[-2] <= stack.shape[-1] else stack.mT
    return float(torch.linalg.eigvalsh(short @ short.mT)[..., -1].max().clamp_min(0).sqrt())
