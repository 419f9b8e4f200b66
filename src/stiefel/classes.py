"""torch-style constructors, for parameters that you chose yourself.

Each takes the keywords of its recipe and those of `stiefel.Optimizer`: ``maximize``, ``guard``,
``compile`` and so on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT

from stiefel import recipes
from stiefel.engine import Optimizer
from stiefel.recipe import Recipe

__all__ = [
    "KLSOAP",
    "SGD",
    "SOAP",
    "AdaMuon",
    "Adafactor",
    "AdamW",
    "Averaged",
    "Cautious",
    "Conda",
    "Dion",
    "Dion2",
    "FourBitShampoo",
    "GaLore",
    "Hyperball",
    "Lion",
    "Lookahead",
    "Muon",
    "MuonEq",
    "NorMuon",
    "PSGDKron",
    "PolarGrad",
    "ScheduleFree",
    "Scion",
    "Shampoo",
    "Spectra",
    "Symmetric",
]


# What is the optimiser's own, among the keywords of a class; the rest is the recipe's.
ENGINE = {
    name: parameter
    for name, parameter in inspect.signature(Optimizer.__init__).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name != "lr"
}


class RecipeOptimizer(Optimizer):
    """An `Optimizer` with one recipe for all its parameters, called as torch's optimisers are.

    A subclass names the recipe's function; its keyword arguments are the constructor's. Without
    ``lr`` a wrapper's base decides, else it is 1e-3.
    """

    recipe: ClassVar[Callable[..., Recipe]]

    def __init__(self, params: ParamsT, lr: float | Tensor | None = None, **keywords: Any) -> None:
        own = {name: keywords.pop(name) for name in ENGINE.keys() & keywords.keys()}
        recipe = type(self).recipe(lr=lr, **keywords)
        super().__init__(params, recipe, lr=1e-3 if lr is None else lr, **own)

    def __init_subclass__(cls) -> None:
        """Show all keywords in ``help()`` and completion."""
        first = list(inspect.signature(RecipeOptimizer.__init__).parameters.values())[1:3]
        theirs = inspect.signature(cls.recipe).parameters
        named = [p.replace(kind=p.KEYWORD_ONLY) for name, p in theirs.items() if name != "lr"]
        cls.__signature__ = inspect.Signature([*first, *named, *ENGINE.values()])  # type: ignore[attr-defined]


class AdamW(RecipeOptimizer):
    """`stiefel.adamw` for tensors of any shape."""

    recipe = staticmethod(recipes.adamw)


class SGD(RecipeOptimizer):
    """`stiefel.sgd` for tensors of any shape."""

    recipe = staticmethod(recipes.sgd)


class Lion(RecipeOptimizer):
    """`stiefel.lion` for tensors of any shape."""

    recipe = staticmethod(recipes.lion)


class Adafactor(RecipeOptimizer):
    """`stiefel.adafactor` for vectors, matrices and convolution kernels; stacks need a view."""

    recipe = staticmethod(recipes.adafactor)


class Muon(RecipeOptimizer):
    """`stiefel.muon` for matrices and convolution kernels that you chose.

    As everywhere in stiefel, ``lr`` is in AdamW's unit; ``scale="original"`` gives the unit of
    torch.optim.Muon.
    """

    recipe = staticmethod(recipes.muon)


class NorMuon(RecipeOptimizer):
    """`stiefel.normuon` for matrices and convolution kernels that you chose."""

    recipe = staticmethod(recipes.normuon)


class AdaMuon(RecipeOptimizer):
    """`stiefel.adamuon` for matrices and convolution kernels that you chose."""

    recipe = staticmethod(recipes.adamuon)


class MuonEq(RecipeOptimizer):
    """`stiefel.muoneq` for matrices and convolution kernels that you chose."""

    recipe = staticmethod(recipes.muoneq)


class PolarGrad(RecipeOptimizer):
    """`stiefel.polargrad` for matrices and convolution kernels that you chose."""

    recipe = staticmethod(recipes.polargrad)


class Scion(RecipeOptimizer):
    """`stiefel.scion` for matrices and convolution kernels that you chose."""

    recipe = staticmethod(recipes.scion)


class KLSOAP(RecipeOptimizer):
    """`stiefel.kl_soap` for matrices and convolution kernels that you chose."""

    recipe = staticmethod(recipes.kl_soap)


class Symmetric(RecipeOptimizer):
    """`stiefel.symmetric` for matrices and convolution kernels that you chose."""

    recipe = staticmethod(recipes.symmetric)


class Dion(RecipeOptimizer):
    """`stiefel.dion` for matrices and convolution kernels that you chose."""

    recipe = staticmethod(recipes.dion)


class Dion2(RecipeOptimizer):
    """`stiefel.dion2` for matrices and convolution kernels that you chose."""

    recipe = staticmethod(recipes.dion2)


class GaLore(RecipeOptimizer):
    """`stiefel.galore` for matrices and convolution kernels that you chose."""

    recipe = staticmethod(recipes.galore)


class Conda(RecipeOptimizer):
    """`stiefel.conda` for matrices and convolution kernels that you chose."""

    recipe = staticmethod(recipes.conda)


class SOAP(RecipeOptimizer):
    """`stiefel.soap` for matrices and convolution kernels that you chose."""

    recipe = staticmethod(recipes.soap)


class Shampoo(RecipeOptimizer):
    """`stiefel.shampoo` for matrices and convolution kernels that you chose."""

    recipe = staticmethod(recipes.shampoo)


class FourBitShampoo(RecipeOptimizer):
    """`stiefel.four_bit_shampoo` for matrices and convolution kernels that you chose."""

    recipe = staticmethod(recipes.four_bit_shampoo)


class PSGDKron(RecipeOptimizer):
    """`stiefel.psgd_kron` for matrices and convolution kernels that you chose."""

    recipe = staticmethod(recipes.psgd_kron)


class Cautious(RecipeOptimizer):
    """`stiefel.cautious` around any recipe (``base=``), for tensors that it takes."""

    recipe = staticmethod(recipes.cautious)


class Spectra(RecipeOptimizer):
    """`stiefel.spectra` around any recipe (``base=``), for matrices."""

    recipe = staticmethod(recipes.spectra)


class Hyperball(RecipeOptimizer):
    """`stiefel.hyperball` around any recipe (``base=``), for matrices."""

    recipe = staticmethod(recipes.hyperball)


class Lookahead(RecipeOptimizer):
    """`stiefel.lookahead` around any recipe (``base=``), for tensors that it takes."""

    recipe = staticmethod(recipes.lookahead)


class Averaged(RecipeOptimizer):
    """`stiefel.averaged` around any recipe (``base=``), for tensors that it takes."""

    recipe = staticmethod(recipes.averaged)


class ScheduleFree(RecipeOptimizer):
    """`stiefel.schedule_free` around any recipe (``base=``), for tensors that it takes."""

    recipe = staticmethod(recipes.schedule_free)
