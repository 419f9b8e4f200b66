"""Who may enter: checks of parameters, groups and gradients, before anything changes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from stiefel.engine.transport import refuse_flattened
from stiefel.errors import GradientError, ParameterError, RecipeError, ViewError
from stiefel.piece import ENTRY, Live, as_python
from stiefel.recipe import LR, Recipe
from stiefel.views import View, ViewRule, conv, entries, fitted, matrix

__all__ = [
    "check_flags",
    "check_gradient",
    "check_group",
    "checked_view",
    "complete",
    "listed",
    "listed_views",
    "offer_momentum",
    "plain",
    "present_numbers",
    "read_once",
    "tensors_of",
    "warn_of_frozen",
]

Group = dict[str, Any]


def listed(params: ParamsT) -> ParamsT:
    """The parameters or groups as a list, read once; refused if empty or without an order."""
    if isinstance(params, (Tensor, set, frozenset)):
        raise TypeError(
            f"params is a {type(params).__name__}: give a list; checkpoints rely on its order"
        )
    found = list(params)
    if not found:
        raise ParameterError("the parameter list is empty: give at least one parameter or group")
    return [read_once(item) for item in found]


def read_once(item: Any) -> Any:
    """A group with its parameters as a list, where they came as an iterator; else itself."""
    if isinstance(item, dict) and isinstance(item.get("params"), Iterator):
        return {**item, "params": list(item["params"])}
    return item


def tensors_of(params: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors in a list of parameters, of pairs with a name, or of groups of these."""
    for item in params:
        if isinstance(item, dict):
            inside = item.get("params", ())
            yield from tensors_of([inside] if isinstance(inside, Tensor) else inside)
        else:
            last = item[-1] if isinstance(item, tuple) and item else item
            if isinstance(last, Tensor):
                yield last


def plain(number: Any) -> Any:
    """A tensor's number, or what is a plain one already."""
    return number.item() if isinstance(number, Tensor) else number


def complete(group: Group, recipe: Recipe, lr: Any, skipped: int) -> None:
    """Give a new group every number that its recipe reads, and check them all."""
    if not isinstance(recipe, Recipe):
        raise RecipeError(
            f"recipe={recipe!r} in a param group is not a Recipe: give for example stiefel.adamw()"
        )
    rate = group.setdefault("lr", lr if recipe.lr is None else recipe.lr)
    LR.check(rate)
    # Schedulers write into a tensor lr: no two groups may share one.
    group["lr"] = rate.clone() if isinstance(rate, Tensor) else as_python(rate)
    for name, live in recipe.live.items():
        group[name] = as_python(group.get(name, live.default))
        live.check(group[name])
    group["recipe"] = recipe.fingerprint
    group["skipped_steps"] = skipped


def check_group(index: int, group: Group) -> None:
    """Raise `ParameterError` if a new group does not say what it is about."""
    if "params" not in group:
        raise ParameterError(
            f"param group {index} has no 'params', only {sorted(group) or 'nothing'}: say which "
            "parameters it is about"
        )


def check_flags(**flags: object) -> None:
    """Raise `HyperparameterError` unless every one is True or False."""
    for name, value in flags.items():
        Live(name, value, "flag")


def warn_of_frozen(params: Sequence[Tensor]) -> None:
    """Say so where parameters that nobody trains get state, which torch's optimisers give later."""
    frozen = [p for p in params if not p.requires_grad]
    if frozen:
        entries = sum(p.numel() for p in frozen)
        warnings.warn(
            f"{len(frozen)} of {len(params)} parameters of a group, with {entries:,} entries, are "
            "frozen and get optimiser state all the same: leave out those without requires_grad, "
            "as stiefel.optimizer(model) does",
            UserWarning,
            stacklevel=2,
        )


def listed_views(views: Any, count: int) -> list[Any]:
    """A group's views, one for each of its ``count`` parameters."""
    if views is None:
        return [None] * count
    if not isinstance(views, (list, tuple)) or len(views) != count:
        raise ViewError(
            f"views={views!r} does not fit {count} parameters: give a list that holds a view, a "
            "view rule or None for each"
        )
    return list(views)


def checked_view(name: str, p: Tensor, view: View | ViewRule | None, recipe: Recipe) -> View | None:
    """What matrix ``p`` holds (None: no matter), or an error that names the parameter."""
    refuse_flattened(name, p)
    if not p.is_floating_point():
        raise ParameterError(
            f"parameter {name} is {p.dtype}: only real floating-point parameters can be stepped; "
            "hold a complex one as torch.view_as_real"
        )
    if view is not None:
        try:
            return fitted(view, p.shape)
        except ViewError as error:
            raise ViewError(f"parameter {name}: {error}") from error
    return None if recipe.scope is ENTRY else _default_view(name, p, recipe)


def _default_view(name: str, p: Tensor, recipe: Recipe) -> View:
    """A matrix is a matrix and a 4-D tensor a convolution; anything else needs a word."""
    if p.ndim == 2:
        return matrix(p.shape)
    if p.ndim == 4:
        return conv()(p.shape)
    if p.ndim < 2 and recipe.everywhere:
        return entries(p.shape)
    if p.ndim < 2:
        raise ParameterError(
            f"parameter {name} has shape {tuple(p.shape)}, which is no matrix, but recipe "
            f"{recipe.name!r} needs one: give it to stiefel.AdamW, or let stiefel.optimizer(model) "
            "sort the parameters"
        )
    raise ParameterError(
        f"parameter {name} has {p.ndim} dimensions, {tuple(p.shape)}: it may be a stack of "
        "matrices or a convolution; say which with a group {'params': [p], 'views': [view]}, where "
        "view is stiefel.views.stack or stiefel.views.conv()"
    )


def check_gradient(name_of: Callable[[Tensor], str], parameter: Tensor, grad: Tensor) -> None:
    """Refuse a sparse or complex gradient."""
    if grad.layout is not torch.strided:
        kind = "a sparse"
    elif grad.is_complex():
        kind = "a complex"
    else:
        return
    raise GradientError(
        f"parameter {name_of(parameter)} has {kind} gradient: stiefel does not support "
        f"{kind[2:]} gradients; make the layer produce dense real ones"
    )


def offer_momentum(defaults: Group, recipes: Iterable[Recipe]) -> None:
    """Put into ``defaults`` the number that OneCycleLR and CyclicLR cycle in every group.

    They take ``betas`` for it where ``defaults`` has them, and then every group must. Otherwise
    they write ``momentum``, which `present_numbers` understands. Where no recipe has either they
    refuse to cycle.
    """
    live = [recipe.live for recipe in recipes]
    betas = [numbers["betas"].default for numbers in live if "betas" in numbers]
    momenta = [numbers["momentum"].default for numbers in live if "momentum" in numbers]
    for name in ("betas", "momentum"):
        defaults.pop(name, None)
    if len(betas) == len(live):
        defaults["betas"] = betas[0]
    elif betas or momenta:
        defaults["momentum"] = momenta[0] if momenta else betas[0][0]


def present_numbers(group: Group, recipe: Recipe) -> dict[str, Any]:
    """The group's present hyper-parameters.

    OneCycleLR cycles one number in every group, called ``momentum`` unless all have betas (see
    `offer_momentum`). In a group that has betas it belongs into the first of them, for all to see;
    one that has neither stays as it is. ``max_momentum`` is the scheduler's mark: anybody else's
    ``momentum`` is not for that recipe.

    Raises:
        HyperparameterError: see `stiefel.piece.Live.present`.
    """
    if "betas" in recipe.live and "momentum" in group and "max_momentum" in group:
        group["betas"] = (group.pop("momentum"), *group["betas"][1:])
    rate = group.get("lr")
    hair = isinstance(rate, float) and -1e-12 < rate < 0  # where the rounding of a schedule ends
    seen = {**group, "lr": 0.0} if hair else group
    return {name: live.present(seen) for name, live in (("lr", LR), *recipe.live.items())}
