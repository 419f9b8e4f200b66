"""What is known of a model's parameters before anyone decides their roles.

A `Known` collects the facts about one parameter: its names, the modules that hold it, the numbers
of the nearest `config`. The rules of `stiefel.roles.rules` and `stiefel.roles.layout` read it and
nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter

from stiefel.errors import ParameterError
from stiefel.roles.trace import Trace, trace

__all__ = ["Block", "Conv", "Known", "Skeleton", "Survey", "numbers", "survey"]

Conv = _ConvNd  # the base of every convolution of torch, transposed ones included
TABLES = (nn.Embedding, nn.EmbeddingBag)
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase)


class Skeleton(nn.Module):
    """A stand-in for a model, built from the names and shapes of a file alone.

    What is found in it is guessed from names, and every reason says so.
    """


@dataclass(frozen=True, eq=False)
class Block:
    """What a module holds, looked at once: everyone in it asks."""

    module: nn.Module

    @cached_property
    def matrices(self) -> list[nn.Parameter]:
        """Parameters under it with two dimensions or more."""
        return [p for p in self.module.parameters() if p.ndim > 1]

    @cached_property
    def stacks(self) -> set[tuple[int, ...]]:
        """Shapes of the 3-D tensors of the module and its children, but for kernels."""
        near = (self.module, *self.module.children())
        plain = (module for module in near if not isinstance(module, (Conv, nn.Bilinear)))
        own = (p for module in plain for p in module.parameters(recurse=False))
        return {tuple(p.shape) for p in own if p.ndim == 3}

    @cached_property
    def lists(self) -> set[int]:
        """Lengths of its lists of modules of one class."""
        listed = (
            c for c in self.module.children() if isinstance(c, (nn.ModuleList, nn.ModuleDict))
        )
        members = (list(child.children()) for child in listed)
        return {len(found) for found in members if len({type(module) for module in found}) == 1}


@dataclass(frozen=True, eq=False)
class Survey:
    """What is known of the model as a whole. Parameters are meant by identity.

    Attributes:
        inputs, outputs: weights that the model's own ``get_input_embeddings`` and
            ``get_output_embeddings`` name.
        stem: the convolution that comes before any other matrix, if there is one.
        trace: what the example told; None without one.
        names_only: the model is a `Skeleton`.
        blocks: those that somebody asked for, by the identity of their modules.
    """

    inputs: frozenset[int]
    outputs: frozenset[int]
    stem: int | None
    trace: Trace | None
    names_only: bool
    blocks: dict[int, Block] = field(default_factory=dict)

    def block(self, module: nn.Module) -> Block:
        """The module as a block."""
        return self.blocks.setdefault(id(module), Block(module))


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of one parameter.

    Attributes:
        name: its first name in the model.
        parameter: the tensor.
        tied: its other names.
        path: the first name in parts, without the detour of a parametrization.
        holders: the module behind each name.
        ancestors: the module that holds it (by its first name), that module's parent, and so on
            up to the model.
        survey: what is known of the model.
    """

    name: str
    parameter: nn.Parameter
    tied: tuple[str, ...]
    path: tuple[str, ...]
    holders: tuple[nn.Module, ...]
    ancestors: tuple[nn.Module, ...]
    survey: Survey

    @property
    def owner(self) -> nn.Module:
        """The module that holds the parameter."""
        return self.ancestors[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.parameter.shape)

    @property
    def extent(self) -> int:
        """Number of dimensions longer than 1."""
        return sum(size > 1 for size in self.shape)

    @property
    def local(self) -> str:
        """The parameter's name within its module, such as ``weight``."""
        return self.path[-1]

    @property
    def module_name(self) -> str:
        """The module's name within its parent, such as ``q_proj``."""
        return self.path[-2] if len(self.path) > 1 else ""

    @property
    def in_layer(self) -> bool:
        """Inside a numbered module: part of a repeated layer, not of the model's ends."""
        return any(part.isdigit() for part in self.path[:-2])

    @property
    def is_table(self) -> bool:
        """Rows are looked up by index."""
        return any(isinstance(holder, TABLES) for holder in self.holders)

    @property
    def is_linear(self) -> bool:
        """The weight of `nn.Linear`, or of a module that says it maps as many features."""
        sides = ("out_features", "in_features")
        return self.shape == tuple(getattr(self.owner, side, None) for side in sides)

    @property
    def is_conv1d(self) -> bool:
        """The weight of transformers' `Conv1D`: a linear map stored inputs first."""
        sizes = tuple(getattr(self.owner, side, None) for side in ("nx", "nf"))
        return type(self.owner).__name__ == "Conv1D" and self.shape == sizes

    @property
    def is_bare(self) -> bool:
        """An `nn.Parameter` of a module that is neither torch's nor a linear map."""
        known = (nn.Linear, Conv, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
        return not (isinstance(self.owner, known + TABLES) or self.is_linear or self.is_conv1d)

    @property
    def kind(self) -> str:
        """How reasons call the module: a subclass of `nn.Linear` is a Linear."""
        name = type(self.owner).__name__.removeprefix("Parametrized")
        return "Linear" if isinstance(self.owner, nn.Linear) else name

    @property
    def is_gain(self) -> bool:
        """Of one of torch's normalisations, whatever its shape."""
        return isinstance(self.owner, NORMS)

    @property
    def block(self) -> Block | None:
        """The smallest module around the parameter that holds another matrix too."""
        around = map(self.survey.block, self.ancestors)
        return next((block for block in around if len(block.matrices) > 1), None)

    def config(self, *names: str) -> set[int]:
        """Values of ``names`` in the nearest config that has one of them."""
        found = (numbers(getattr(module, "config", None), names) for module in self.ancestors)
        return next((set(values) for values in found if values), set())


def numbers(source: Any, names: Sequence[str]) -> list[int]:
    """The whole numbers among the attributes (or keys) ``names`` of an object."""
    mapping = isinstance(source, Mapping)
    values = (source.get(name) if mapping else getattr(source, name, None) for name in names)
    return [value for value in values if type(value) is int]


def survey(model: nn.Module, example: Any = None) -> list[Known]:
    """Everything known about every parameter of ``model``, in the model's order.

    Raises:
        ParameterError: no trainable parameter, or one without a shape.
        StiefelError: the model does not take the example.
    """
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    _refuse(names)
    whole = _survey_model(model, example)
    modules = dict(model.named_modules(remove_duplicate=False))
    return [_know(modules, parameter, found, whole) for parameter, found in names.items()]


def _refuse(names: Mapping[nn.Parameter, list[str]]) -> None:
    lazy = [found[0] for p, found in names.items() if isinstance(p, UninitializedParameter)]
    if lazy:
        raise ParameterError(
            f"parameter {lazy[0]!r} has no shape yet: run the lazy model once first"
        )
    if not any(parameter.requires_grad for parameter in names):
        raise ParameterError(
            "the model has no trainable parameter: set requires_grad on what shall be trained"
        )


def _survey_model(model: nn.Module, example: Any) -> Survey:
    return Survey(
        inputs=frozenset(_named_by(model, "get_input_embeddings")),
        outputs=frozenset(_named_by(model, "get_output_embeddings")),
        stem=_stem(model),
        trace=None if example is None else trace(model, example),
        names_only=isinstance(model, Skeleton),
    )


def _named_by(model: nn.Module, getter: str) -> Iterator[int]:
    """Identities of the matrices in the modules that ``getter`` of any submodule returns."""
    for module in model.modules():
        try:
            answer = getattr(module, getter, lambda: None)()
        except Exception:  # models that have none raise whatever they like
            continue
        weight = getattr(answer, "weight", None)
        if isinstance(weight, nn.Parameter):
            yield id(weight)


def _stem(model: nn.Module) -> int | None:
    """The convolution that comes first; None when a linear map or an embedding does."""
    kinds = (nn.Linear, Conv, *TABLES)
    first = next((module for module in model.modules() if isinstance(module, kinds)), None)
    return id(first.weight) if isinstance(first, Conv) else None


def _know(
    modules: Mapping[str, nn.Module],
    parameter: nn.Parameter,
    names: list[str],
    whole: Survey,
) -> Known:
    paths = [_path(name) for name in names]
    first = paths[0]
    above = [".".join(first[:depth]) for depth in range(len(first) - 1, -1, -1)]
    return Known(
        name=names[0],
        parameter=parameter,
        tied=tuple(names[1:]),
        path=first,
        holders=tuple(modules[".".join(path[:-1])] for path in paths),
        ancestors=tuple(modules[path] for path in above),
        survey=whole,
    )


def _path(name: str) -> tuple[str, ...]:
    """The parts of a name; a parametrised weight counts as the weight of its module."""
    parts = tuple(name.split("."))
    if "parametrizations" not in parts:
        return parts
    at = parts.index("parametrizations")
    return (*parts[:at], parts[at + 1])
