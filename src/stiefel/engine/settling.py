"""Views and state that fit the parameters, whatever others have done to these since."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from stiefel.engine.admission import checked_view
from stiefel.engine.bucket import fresh_count, initial_state
from stiefel.engine.distributed.shards import initial_shard_state
from stiefel.recipe import Recipe
from stiefel.views import View

if TYPE_CHECKING:
    from stiefel.engine.optimizer import Optimizer

__all__ = ["follow", "fresh_state", "settle"]


def follow(optimizer: Optimizer) -> None:
    """Know the parameters that stand in the groups now, and forget the others.

    Accelerate builds the optimiser first and then writes FSDP2's parameters over the old ones. What
    stands in the place of a parameter of the same shape is seen as that one was; its state begins
    anew.

    Raises:
        ParameterError, ViewError: as for a new group.
    """
    present = dict.fromkeys(p for group in optimizer.param_groups for p in group["params"])
    if present.keys() == optimizer._views.keys():
        return
    gone, inherited = optimizer._views.keys() - present, _inherited(optimizer, list(present))
    optimizer._sharing.dismiss(gone)
    for parameter in gone:
        optimizer.state.pop(parameter, None)
    known = optimizer._views
    optimizer._views = {p: known.get(p) for p in present}  # in the order of the groups
    for group in optimizer.param_groups:
        recipe = optimizer._recipes[group["recipe"]]
        names = {p: optimizer.name_of(p) for p in group["params"] if p not in known}
        for parameter, name in names.items():
            view = checked_view(name, parameter, inherited.get(parameter), recipe)
            optimizer._views[parameter] = view
        optimizer._sharing.admit(names, optimizer._views, recipe)


def _inherited(optimizer: Optimizer, present: list[Tensor]) -> dict[Tensor, View | None]:
    """How what stood in the place of each was seen; none where parameters were added or removed."""
    before = optimizer._views
    if len(before) != len(present):
        return {}
    places = zip(before.items(), present, strict=True)
    return {new: view for (old, view), new in places if new.shape == old.shape}


def fresh_state(optimizer: Optimizer, parameter: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    """Of a parameter; that of a shared matrix lies with its owner, and only its count here."""
    if share := optimizer._sharing.shares.get(parameter):
        share.reset()
        return fresh_count()
    shard, view = optimizer._shards.of(parameter), optimizer._views[parameter]
    return initial_shard_state(parameter, shard, view, recipe)


def settle(optimizer: Optimizer, parameter: Tensor, recipe: Recipe) -> None:
    """Fit the state to a parameter that is new, was cast or moved, or lost its state."""
    share, view = optimizer._sharing.shares.get(parameter), optimizer._views[parameter]
    blank = fresh_count() if share else initial_state(parameter, view, recipe, "meta")
    if not blank.keys() <= optimizer.state[parameter].keys():
        optimizer.state[parameter] = fresh_state(optimizer, parameter, recipe)
    state = optimizer.state[parameter]
    for name, empty in blank.items():
        device = empty.device if name == "step" else parameter.device
        state[name] = state[name].to(device, empty.dtype)
    if share:
        share.settle()
