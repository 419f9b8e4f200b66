"""The user's own word on single parameters: by pattern of the name, or by type of the module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias, TypeVar

from torch import nn

from stiefel.errors import StiefelError, ViewError
from stiefel.roles import Finding, Known, as_role
from stiefel.views import View, ViewRule, fitted

__all__ = ["Key", "given_roles", "given_views"]

Key: TypeAlias = str | type[nn.Module]
T = TypeVar("T")


def given_roles(everything: Sequence[Known], roles: Mapping[Key, str]) -> dict[str, Finding]:
    """Role and reason of every parameter that ``roles`` names.

    Raises:
        RoleError: an unknown role.
        StiefelError: a key that no parameter matches.
    """
    known_roles = {key: as_role(role) for key, role in roles.items()}
    matched = _match("roles", everything, known_roles)
    return {name: (role, f"given by roles[{_shown(key)}]") for name, (key, role) in matched.items()}


def given_views(
    everything: Sequence[Known], views: Mapping[Key, View | ViewRule]
) -> dict[str, View]:
    """View of every parameter that ``views`` names.

    Raises:
        ViewError: a view that does not fit.
        StiefelError: a key that no parameter matches.
    """
    matched = _match("views", everything, views)
    return {
        known.name: _fitted(known, matched[known.name][1])
        for known in everything
        if known.name in matched
    }


def _match(
    option: str, everything: Sequence[Known], wanted: Mapping[Key, T]
) -> dict[str, tuple[Key, T]]:
    """For each parameter name the first key that matches it, with its value."""
    for key in wanted:
        if not any(_matches(known, key) for known in everything):
            raise StiefelError(
                f"{option}[{_shown(key)}] matches no parameter: print the plan for their names"
            )
    first = {
        known.name: next((k for k in wanted if _matches(known, k)), None) for known in everything
    }
    return {name: (key, wanted[key]) for name, key in first.items() if key is not None}


def _matches(known: Known, key: Key) -> bool:
    if isinstance(key, str):
        return any(fnmatchcase(name, key) for name in (known.name, *known.tied))
    # A type speaks of the module's weights; its biases stay the vectors that they are.
    return known.extent > 1 and any(isinstance(holder, key) for holder in known.holders)


def _shown(key: Key) -> str:
    return repr(key) if isinstance(key, str) else key.__name__


def _fitted(known: Known, view: View | ViewRule) -> View:
    """The view of this parameter, checked against its shape."""
    try:
        return fitted(view, known.shape)
    except (ViewError, TypeError) as error:
        raise ViewError(f"views: {known.name!r}: {error}") from error
