"""Who takes part in `step.py`: every recipe of stiefel, and the optimisers of other packages.

Packages are used where they can be imported; `peers.py` says how to add them without touching the
environment. Settings that decide how much work a step is are made equal: the period after which a
preconditioner or a subspace is computed anew, the rank of a subspace, and that whole matrices are
preconditioned, not blocks or only short sides. The other settings are each package's own defaults.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

import stiefel
from stiefel.recipes import REGISTRY

BASELINE = "torch.optim.Muon"
LR = 1e-3
WHOLE = 1 << 14  # no side of a matrix is longer, so that no package cuts it or leaves it out

# Muon's step is mostly its polar factor, of which there are faster and nearer ones.
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "muon": ({"polar": "fast"},),
    "shampoo": (
        {"precision": "bfloat16", "eigenvectors": "qr"},
        {"precision": "bfloat16", "eigenvectors": "qr", "block": 768},
    ),
    "soap": ({"precision": "bfloat16"}, {"precision": "bfloat16", "block": 768}),
    "spectra": ({"precision": "bfloat16"},),
}


@dataclass(frozen=True)
class Work:
    """What all methods that have it do equally.

    Args:
        refresh_every: steps from one refresh of a preconditioner or subspace to the next.
        rank: of a subspace.
    """

    refresh_every: int
    rank: int


@dataclass(frozen=True)
class Contestant:
    """An optimiser that is ready to be built.

    Args:
        method: the name of our recipe for what it does.
        label: the optimiser's name with its package.
        settings: keywords beside the learning rate, and whatever ``build`` needs to know.
        build: makes the optimiser of a list of matrices.
    """

    method: str
    label: str
    settings: dict[str, Any]
    build: Callable[[list[Tensor]], Optimizer]


@dataclass(frozen=True)
class Peer:
    """An optimiser of another package.

    Args:
        method: the name of our recipe for what it does.
        package, name: where it is found.
        settings: keywords beside the learning rate.
        group: what its param group must say of the matrices.
    """

    method: str
    package: str
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    group: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name with its package, and the switches that tell it from another row."""
        switches = [key for key, value in self.settings.items() if value is True]
        return ", ".join([f"{self.package}.{self.name}", *switches])

    def contestant(self, compile: bool) -> Contestant:
        """Raise ImportError or AttributeError where there is no such optimiser."""
        constructor = getattr(package(self.package, compile), self.name)

        def build(params: list[Tensor]) -> Optimizer:
            optimizer: Optimizer = constructor(
                [{"params": params, **self.group}], lr=LR, **self.settings
            )
            return optimizer

        return Contestant(self.method, self.label, self.settings, build)


def peers(work: Work) -> list[Peer]:
    """The optimisers that do what a recipe of ours does, each package's name for it."""
    every, often = work.refresh_every, 1 / work.refresh_every
    low_rank = {"rank": work.rank, "update_proj_gap": every, "scale": 1.0}
    matrix = {"use_muon": True}
    no_momentum = {"betas": (None, 0.999)}
    roots = {"preconditioning_compute_steps": every}
    one_block = {
        "start_preconditioning_step": 1,
        "block_size": WHOLE,
        "shape_interpretation": False,
    }
    eigenbases = {"precondition_frequency": every, "max_precond_dim": WHOLE, "merge_dims": False}
    # PSGD's author, and our recipe, keep a diagonal for the longer side.
    sides = {"max_size_triangular": WHOLE, "memory_save_mode": "smart_one_diag"}
    triangles = sides | {"preconditioner_update_probability": often}
    kron = sides | {"pre_conditioner_update_probability": often}
    return [
        Peer("muon", "torch.optim", "Muon"),
        Peer("muon", "pytorch_optimizer", "Muon", group=matrix),
        Peer("muon", "heavyball", "Muon"),
        Peer("adamw", "torch.optim", "AdamW"),
        Peer("adamw", "torch.optim", "AdamW", {"fused": True}),
        Peer("adamw", "heavyball", "AdamW"),
        Peer("sgd", "torch.optim", "SGD", {"momentum": 0.9}),
        Peer("ademamix", "pytorch_optimizer", "AdEMAMix"),
        Peer("ademamix", "heavyball", "AdEMAMix"),
        Peer("adafactor", "torch.optim", "Adafactor"),
        Peer("adafactor", "pytorch_optimizer", "AdaFactor", no_momentum),
        Peer("lion", "pytorch_optimizer", "Lion"),
        Peer("adamuon", "pytorch_optimizer", "AdaMuon", group=matrix),
        Peer("normuon", "pytorch_optimizer", "NorMuon", group=matrix),
        Peer("scion", "pytorch_optimizer", "SCION"),
        Peer("scion", "heavyball", "Scion"),
        Peer("dion", "pytorch_optimizer", "Dion"),
        Peer("conda", "pytorch_optimizer", "Conda", {"update_proj_gap": every}),
        Peer("galore", "pytorch_optimizer", "GaLore", low_rank | {"projection_type": "std"}),
        Peer("soap", "pytorch_optimizer", "SOAP", {"precondition_frequency": every}),
        Peer("soap", "heavyball", "SOAP", eigenbases),
        Peer("kl_soap", "heavyball", "KLSOAP", eigenbases),
        Peer("kl_shampoo", "heavyball", "KLShampoo", eigenbases),
        Peer("shampoo", "pytorch_optimizer", "Shampoo", roots),
        Peer("shampoo", "pytorch_optimizer", "ScalableShampoo", roots | one_block),
        Peer("psgd_kron", "pytorch_optimizer", "Kron", kron),
        Peer("psgd_kron", "heavyball", "PSGDKron", triangles),
    ]


def package(name: str, compile: bool) -> Any:
    """The module; heavyball, which compiles all it does, does so only if asked to."""
    module = importlib.import_module(name)
    if name == "heavyball" and not compile:
        importlib.import_module("heavyball.utils").compile_mode = None  # type: ignore[attr-defined]
    return module


def recipes(method: str, work: Work, compile: bool) -> Iterator[Contestant]:
    """Our recipe of that name, if there is one, and its variants."""
    if method not in REGISTRY:
        return
    function = REGISTRY[method]
    known = inspect.signature(function).parameters
    equal = {key: value for key, value in vars(work).items() if key in known}
    for variant in ({}, *VARIANTS.get(method, ())):
        words = [f"{key} {value}" for key, value in variant.items()]
        yield Contestant(
            method,
            ", ".join([f"stiefel.{method}", *words]),
            equal | variant,
            _builder(function(**equal, **variant), compile),
        )


def _builder(recipe: stiefel.Recipe, compile: bool) -> Callable[[list[Tensor]], Optimizer]:
    return lambda params: stiefel.Optimizer(params, recipe, lr=LR, compile=compile)


def methods(work: Work) -> list[str]:
    """Every method that has a recipe or a peer."""
    return list(dict.fromkeys([*REGISTRY, *(peer.method for peer in peers(work))]))


def contestants(
    wanted: Sequence[str], work: Work, compile: bool
) -> tuple[list[Contestant], dict[str, str]]:
    """Those of the wanted methods in their order, the baseline, and why others are absent."""
    found = [contestant for method in wanted for contestant in recipes(method, work, compile)]
    absent: dict[str, str] = {}
    for peer in peers(work):
        if peer.method in wanted or peer.label == BASELINE:
            try:
                found.append(peer.contestant(compile))
            except (ImportError, AttributeError) as error:
                absent[peer.label] = str(error)
    place = {method: index for index, method in enumerate(wanted)}
    return sorted(found, key=lambda c: place.get(c.method, -1)), absent
