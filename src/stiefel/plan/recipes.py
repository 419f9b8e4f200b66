"""Which recipe each role gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from stiefel.errors import RecipeError
from stiefel.piece import ENTRY
from stiefel.recipe import Recipe
from stiefel.recipes import REGISTRY, adamw, find, named
from stiefel.roles import MATRIX_ROLES, UNDECAYED_ROLES, Role, as_role

__all__ = ["RecipeChoice", "primary_recipe", "recipe_by_role"]

RecipeChoice: TypeAlias = str | Recipe | Mapping[str, str | Recipe]

# What runs beside Muon: the betas of Jordan's code and of Moonlight, the decay of Moonlight.
BETAS: Final = (0.9, 0.95)
DECAY: Final = 0.1


def recipe_by_role(choice: RecipeChoice) -> dict[Role, Recipe]:
    """A recipe for every role.

    A matrix recipe takes the roles in `MATRIX_ROLES`; AdamW takes the rest, without decay on those
    in `UNDECAYED_ROLES`. An elementwise recipe, or one that is meant for everywhere, takes every
    role: by name without decay on the same ones, as an object exactly as given. A mapping says it
    role by role; its ``"hidden"`` stands in for matrix roles that it leaves out, and AdamW for all
    others. A name in `ROUTINGS` is such a mapping.

    Raises:
        RoleError: the mapping has a key that is no role.
        RecipeError: an unknown name.
    """
    given = named(choice) if isinstance(choice, str) else choice
    if isinstance(given, Mapping):
        return _by_mapping(given)
    main = find(given)
    if main.scope is ENTRY or main.everywhere:
        return _everywhere(choice, main)
    return _by_mapping({Role.HIDDEN: main})


def primary_recipe(by_role: Mapping[Role, Recipe]) -> Recipe:
    """The recipe whose numbers are the optimiser's defaults: that of the hidden matrices."""
    return by_role[Role.HIDDEN]


def _by_mapping(choice: Mapping[str, str | Recipe]) -> dict[Role, Recipe]:
    if not choice:
        raise RecipeError("recipe={} names no role: give for example {'hidden': stiefel.muon()}")
    given = {as_role(role): find(recipe) for role, recipe in choice.items()}
    hidden = given.get(Role.HIDDEN)
    return _auxiliary() | (dict.fromkeys(MATRIX_ROLES, hidden) if hidden else {}) | given


def _auxiliary() -> dict[Role, Recipe]:
    rest = dict.fromkeys(Role, adamw(betas=BETAS, weight_decay=DECAY))
    return rest | dict.fromkeys(UNDECAYED_ROLES, adamw(betas=BETAS, weight_decay=0.0))


def _everywhere(choice: RecipeChoice, recipe: Recipe) -> dict[Role, Recipe]:
    undecayed = recipe
    if isinstance(choice, str) and "weight_decay" in recipe.live:
        undecayed = REGISTRY[choice](weight_decay=0.0)
    return dict.fromkeys(Role, recipe) | dict.fromkeys(UNDECAYED_ROLES, undecayed)
