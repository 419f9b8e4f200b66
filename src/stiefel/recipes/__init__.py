"""The methods, one paper a file. `REGISTRY` maps the name that users type to its function."""

from collections.abc import Callable

from stiefel.errors import RecipeError
from stiefel.recipe import Recipe
from stiefel.recipes.adamw import adamw
from stiefel.recipes.muon import muon

__all__ = ["REGISTRY", "adamw", "find", "muon"]

REGISTRY: dict[str, Callable[..., Recipe]] = {"adamw": adamw, "muon": muon}


def find(recipe: str | Recipe) -> Recipe:
    """The recipe itself, or the one of that name with its defaults."""
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in REGISTRY:
        raise RecipeError(f"recipe {recipe!r} is unknown: choose one of {', '.join(REGISTRY)}")
    return REGISTRY[recipe]()
