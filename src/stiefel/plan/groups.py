"""From a plan to param groups: the caller's groups are refined, never replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn

from stiefel.errors import ParameterError
from stiefel.plan.entry import Entry

__all__ = ["Group", "Section", "refine", "sections"]

Group: TypeAlias = dict[str, Any]
RESERVED = {"recipe", "views"}


@dataclass(frozen=True)
class Section:
    """One group of the caller: its options and the parameters it holds, by identity."""

    options: Mapping[str, Any]
    members: frozenset[int]


def sections(
    groups: Sequence[Group] | None, names: Mapping[nn.Parameter, str]
) -> tuple[Section, ...]:
    """The caller's groups, checked against the model; without any, the whole model is one.

    Raises:
        ParameterError: a tensor that is not of the model or lies in two groups, a group that is
            not a dict with ``"params"``, or one with a key that the plan fills in.
    """
    if groups is None:
        return (Section({}, frozenset(map(id, names))),)
    if not groups:
        raise ParameterError(
            "groups=[] holds no parameter: give groups, or None for the whole model"
        )
    found = tuple(_section(index, group, names) for index, group in enumerate(groups))
    _refuse_twice(found, names)
    return found


def _section(index: int, group: Any, names: Mapping[nn.Parameter, str]) -> Section:
    place = f"groups[{index}]"
    if not isinstance(group, Mapping) or "params" not in group:
        raise ParameterError(f"{place} must be a dict with 'params', not {type(group).__name__}")
    for key in RESERVED & group.keys():
        raise ParameterError(f"{place}[{key!r}] is the plan's to fill: give {key} to the plan")
    members = frozenset(map(id, _tensors(group["params"])))
    if not members <= set(map(id, names)):
        raise ParameterError(f"{place} holds a tensor that is not a parameter of the model")
    return Section({key: value for key, value in group.items() if key != "params"}, members)


def _tensors(params: Any) -> Iterable[Any]:
    """What torch.optim takes as tensors: one, several, or pairs with names."""
    listed = [params] if isinstance(params, Tensor) else params
    return (item[1] if isinstance(item, tuple) else item for item in listed)


def _refuse_twice(found: Iterable[Section], names: Mapping[nn.Parameter, str]) -> None:
    seen: set[int] = set()
    for section in found:
        for parameter, name in names.items():
            if id(parameter) in section.members & seen:
                raise ParameterError(f"parameter {name!r} is in two of the groups: leave it in one")
        seen |= section.members


def refine(section: Section, entries: Iterable[Entry]) -> list[Group]:
    """The trainable parameters of a section, one group for every recipe, in the model's order."""
    by_recipe: dict[int, list[Entry]] = {}
    for entry in entries:
        if id(entry.parameter) in section.members and not entry.frozen:
            by_recipe.setdefault(id(entry.recipe), []).append(entry)
    return [_group(section.options, together) for together in by_recipe.values()]


def _group(options: Mapping[str, Any], entries: Sequence[Entry]) -> Group:
    return {
        **options,
        "params": [(entry.name, entry.parameter) for entry in entries],
        "recipe": entries[0].recipe,
        "views": [entry.view for entry in entries],
    }
