"""The methods, one paper a file. `REGISTRY` maps the name that users type to its function."""

from collections.abc import Callable

from stiefel.errors import RecipeError, check_choice
from stiefel.recipe import Recipe
from stiefel.recipes.adafactor import adafactor
from stiefel.recipes.adamuon import adamuon
from stiefel.recipes.adamw import adamw
from stiefel.recipes.averaged import averaged
from stiefel.recipes.cautious import cautious
from stiefel.recipes.conda import conda
from stiefel.recipes.dion import dion
from stiefel.recipes.dion2 import dion2
from stiefel.recipes.four_bit_shampoo import four_bit_shampoo
from stiefel.recipes.galore import galore
from stiefel.recipes.hyperball import hyperball, hyperp_lr
from stiefel.recipes.kl_soap import kl_soap
from stiefel.recipes.lion import lion
from stiefel.recipes.lookahead import lookahead
from stiefel.recipes.muon import muon
from stiefel.recipes.muoneq import muoneq
from stiefel.recipes.normuon import normuon
from stiefel.recipes.polargrad import polargrad
from stiefel.recipes.psgd_kron import psgd_kron
from stiefel.recipes.schedule_free import schedule_free
from stiefel.recipes.scion import scion, scion_by_role
from stiefel.recipes.sgd import sgd
from stiefel.recipes.shampoo import shampoo
from stiefel.recipes.soap import soap
from stiefel.recipes.spectra import spectra
from stiefel.recipes.symmetric import symmetric, symmetry_by_role

__all__ = [
    "REGISTRY",
    "ROUTINGS",
    "adafactor",
    "adamuon",
    "adamw",
    "averaged",
    "cautious",
    "conda",
    "dion",
    "dion2",
    "find",
    "four_bit_shampoo",
    "galore",
    "hyperball",
    "hyperp_lr",
    "kl_soap",
    "lion",
    "lookahead",
    "muon",
    "muoneq",
    "named",
    "normuon",
    "polargrad",
    "psgd_kron",
    "schedule_free",
    "scion",
    "scion_by_role",
    "sgd",
    "shampoo",
    "soap",
    "spectra",
    "symmetric",
    "symmetry_by_role",
]

REGISTRY: dict[str, Callable[..., Recipe]] = {
    "adamw": adamw,
    "muon": muon,
    "sgd": sgd,
    "lion": lion,
    "soap": soap,
    "kl_soap": kl_soap,
    "shampoo": shampoo,
    "four_bit_shampoo": four_bit_shampoo,
    "adafactor": adafactor,
    "dion": dion,
    "dion2": dion2,
    "galore": galore,
    "conda": conda,
    "normuon": normuon,
    "adamuon": adamuon,
    "muoneq": muoneq,
    "polargrad": polargrad,
    "psgd_kron": psgd_kron,
    "cautious": cautious,
    "spectra": spectra,
    "hyperball": hyperball,
    "lookahead": lookahead,
    "averaged": averaged,
    "schedule_free": schedule_free,
    "scion": scion,
    "symmetric": symmetric,
}

# Which role gets which recipe, by name: mappings that `stiefel.plan` takes.
ROUTINGS: dict[str, Callable[..., dict[str, Recipe]]] = {
    "scion_by_role": scion_by_role,
    "symmetry_by_role": symmetry_by_role,
}


def find(recipe: str | Recipe) -> Recipe:
    """The recipe itself, or the one of that name with its defaults: what a role can be given.

    Raises:
        RecipeError: no recipe has that name; a routing is none.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if callable(recipe):
        raise RecipeError(
            f"recipe={recipe!r} is unknown: call the function, as in stiefel.muon(), or choose one "
            f"of {', '.join(REGISTRY)}"
        )
    check_choice("recipe", recipe, REGISTRY, RecipeError)
    return REGISTRY[recipe]()


def named(name: str) -> Recipe | dict[str, Recipe]:
    """The recipe or the routing of that name, with its defaults: what a model can be given.

    Raises:
        RecipeError: there is none.
    """
    check_choice("recipe", name, (*REGISTRY, *ROUTINGS), RecipeError)
    return ROUTINGS[name]() if name in ROUTINGS else find(name)
