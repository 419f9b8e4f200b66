"""Models for `stiefel plan MODEL`: only names, shapes and structure, no weights.

A target is a folder with a Hugging Face ``config.json``, a ``.safetensors`` file, or
``package.module:factory``. The first two are built on the meta device, so that a model of any size
fits in memory; no code that comes with a model is ever run.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from stiefel.errors import StiefelError
from stiefel.roles import Skeleton

__all__ = ["load_model"]

# A file says no more than shapes: kernels of convolutions are small, matrices are not.
LARGEST_KERNEL = 32
CONVOLUTIONS: dict[int, Any] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
Shape = tuple[int, ...]


def load_model(target: str) -> nn.Module:
    """The model that ``target`` names.

    Args:
        target: a folder with a ``config.json`` (the model is built without weights), a
            ``.safetensors`` file (a skeleton is built from its names and shapes), or
            ``package.module:factory`` (an `nn.Module`, or what is called to make one).

    Raises:
        StiefelError: whatever stands in the way, in one sentence.
    """
    path = Path(target)
    if path.is_dir():
        return _from_config(path)
    if path.suffix == ".safetensors":
        return _from_safetensors(path)
    module, colon, factory = target.partition(":")
    if colon and factory:
        return _from_factory(target, module, factory)
    raise StiefelError(
        f"{target!r} is neither a folder with a config.json, nor a .safetensors file, nor "
        "package.module:factory"
    )


def _optional(name: str, purpose: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise StiefelError(
            f"{purpose} needs {name.partition('.')[0]}: pip install 'stiefel[hf]'"
        ) from error


# -- a folder with a config.json -------------------------------------------------------------------


def _from_config(folder: Path) -> nn.Module:
    if not (folder / "config.json").is_file():
        raise StiefelError(f"folder {str(folder)!r} holds no config.json")
    transformers = _optional("transformers", "reading a config.json")
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        with torch.device("meta"):
            return _build(transformers, config)
    except Exception as error:
        raise StiefelError(
            f"transformers {transformers.__version__} cannot build the model of "
            f"{str(folder / 'config.json')!r}: {_first_line(error)}"
        ) from error


def _build(transformers: ModuleType, config: Any) -> nn.Module:
    """The class that the config names, if this transformers has it; else the bare model."""
    known = [name for name in config.architectures or () if hasattr(transformers, name)]
    build = getattr(transformers, known[0]) if known else transformers.AutoModel.from_config
    model: nn.Module = build(config)
    return model


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# -- a file of weights -----------------------------------------------------------------------------


def _from_safetensors(path: Path) -> nn.Module:
    if not path.is_file():
        raise StiefelError(f"there is no file {str(path)!r}")
    safetensors = _optional("safetensors", "reading a .safetensors file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {
                name: tuple(part.get_shape())
                for name, part in slices.items()
                if "F" in part.get_dtype()  # F32, BF16, F8_E4M3: integers are no parameters
            }
    except Exception as error:
        raise StiefelError(
            f"{str(path)!r} is not a safetensors file: {_first_line(error)}"
        ) from error
    return _skeleton(shapes)


def _skeleton(shapes: Mapping[str, Shape]) -> nn.Module:
    """Modules on the meta device that hold tensors of these names and shapes."""
    root = Skeleton()
    with torch.device("meta"):
        for name in sorted(shapes, key=_weights_first):
            *path, local = name.split(".")
            _put(root, path, local, shapes[name])
    return root


def _weights_first(name: str) -> bool:
    """The weight decides what a module is; the sort is stable, so the file's order stays."""
    return not name.endswith(".weight")


def _put(root: nn.Module, path: list[str], local: str, shape: Shape) -> None:
    """Hang one tensor into the tree, in a module of its likely kind.

    Written straight into the tree: torch's own methods refuse names that a module itself uses.
    """
    owner = root
    for part, following in pairwise([*path, local]):
        if part not in owner._modules:
            owner._modules[part] = _module(part, following, shape)
        child = owner._modules[part]
        assert child is not None
        owner = child
    if owner._parameters.get(local) is None:  # a Linear has made its weight, and a bias of None
        owner._parameters[local] = nn.Parameter(torch.empty(shape))


def _module(name: str, following: str, shape: Shape) -> nn.Module:
    """The module of that name that would hold ``following``: the weight, or a part further down."""
    if following.isdigit():
        return nn.ModuleList()
    if following != "weight":
        return nn.Module()
    if len(shape) == 2:
        return _linear_or_table(name, *shape)
    small = len(shape) in CONVOLUTIONS and max(shape[2:]) <= LARGEST_KERNEL
    return _convolution(*shape) if small else nn.Module()


def _linear_or_table(name: str, rows: int, columns: int) -> nn.Module:
    if "embed" in name or name in ("wte", "wpe"):
        return nn.Embedding(rows, columns)
    return nn.Linear(columns, rows, bias=False)


def _convolution(outputs: int, inputs: int, *kernel: int) -> nn.Module:
    """A kernel `[n, 1, ...]` is taken for a depthwise one."""
    groups = outputs if inputs == 1 else 1
    make: type[nn.Module] = CONVOLUTIONS[2 + len(kernel)]
    return make(inputs * groups, outputs, kernel, groups=groups, bias=False)


# -- package.module:factory ------------------------------------------------------------------------


def _from_factory(target: str, module: str, factory: str) -> nn.Module:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does; the console script does not
    try:
        found: Any = importlib.import_module(module)
        for part in factory.split("."):
            found = getattr(found, part)
        made = found if isinstance(found, nn.Module) else found()
    except Exception as error:
        raise StiefelError(
            f"{target!r} failed with {type(error).__name__}: {_first_line(error)}"
        ) from error
    if not isinstance(made, nn.Module):
        raise StiefelError(f"{target!r} gives {type(made).__name__!r}, not a torch.nn.Module")
    return made
