"""What one forward pass tells: which weight makes the output, which convolution sees the input.

The model runs once on the user's example with stand-ins for its parameters and buffers, so that the
model itself stays as it was: no gradient, no running mean, no mode and no random number changes.
The autograd graph of the outputs is then read backwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from stiefel.errors import StiefelError

__all__ = ["Trace", "trace"]

Node: TypeAlias = Any  # torch.autograd.graph.Node; its attributes differ from node to node

# A weight on its way into a product passes only through these.
RESHAPES = {
    *("T", "Transpose", "Permute", "View", "UnsafeView", "ReshapeAlias", "ToCopy"),
    *("Alias", "Expand", "Unsqueeze", "Squeeze", "Clone", "Slice"),
}
PRODUCTS = {"Mm", "Addmm", "Bmm", "Baddbmm", "Linear", "Convolution"}


@dataclass(frozen=True)
class Trace:
    """Names of the parameters that make an output, and of the convolutions that see an input."""

    heads: frozenset[str]
    first_convs: frozenset[str]


def trace(model: nn.Module, example: Any) -> Trace | None:
    """Run ``model`` on ``example``; None when its output has no autograd graph.

    Args:
        model: left as it was.
        example: a tensor, a tuple of positional arguments or a dict of keyword arguments.

    Raises:
        StiefelError: the model does not take the example.
    """
    weights = {
        name: p.detach().requires_grad_()
        for name, p in model.named_parameters()
        if p.is_floating_point() or p.is_complex()
    }
    outputs = [out for out in _outputs(_run(model, weights, example)) if out.grad_fn is not None]
    if not outputs:
        return None
    names = {id(weight): name for name, weight in weights.items()}
    heads = {names.get(id(_maker(out.grad_fn))) for out in outputs}
    first = {names.get(id(weight)) for weight in _first_convs([out.grad_fn for out in outputs])}
    return Trace(frozenset(heads - {None}), frozenset(first - {None}))  # type: ignore[arg-type]


def _run(model: nn.Module, weights: Mapping[str, Tensor], example: Any) -> Any:
    args, kwargs = _arguments(example)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with _evaluating(model), _own_random_numbers(model), torch.enable_grad():
            return torch.func.functional_call(model, {**weights, **buffers}, args, kwargs)
    except Exception as error:
        raise StiefelError(
            f"the model failed on example= ({type(error).__name__}: {error}); give a tensor, "
            "a tuple of arguments or a dict of keyword arguments that its forward takes"
        ) from error


def _arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example if isinstance(example, tuple) else (example,)), {}


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, by flag alone: some modules change their weights in `train` or `eval`."""
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _own_random_numbers(model: nn.Module) -> Iterator[None]:
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        yield


def _outputs(result: Any) -> list[Tensor]:
    """The output tensors: not losses (0-d), not what lies deeper (caches, hidden states)."""
    if isinstance(result, Tensor):
        found: list[Any] = [result]
    elif isinstance(result, Mapping):
        found = list(result.values())
    elif isinstance(result, (tuple, list)):
        found = list(result)
    else:
        found = list(getattr(result, "__dict__", {}).values())
    return [out for out in found if isinstance(out, Tensor) and out.ndim > 0]


def _kind(node: Node) -> str:
    """``Addmm`` for ``AddmmBackward0``."""
    return str(node.name()).rstrip("0123456789").removesuffix("Backward")


def _inputs(node: Node) -> list[Node]:
    return [source for source, _ in node.next_functions if source is not None]


def _leaf(node: Node) -> Tensor | None:
    """The parameter that ``node`` passes on, merely reshaped; None for anything computed."""
    while _kind(node) in RESHAPES:
        sources = _inputs(node)
        if len(sources) != 1:
            return None
        node = sources[0]
    return getattr(node, "variable", None)


def _maker(node: Node | None) -> Tensor | None:
    """The nearest matrix weight behind an output, through steps that have one input.

    A norm, or a step that joins several activations (a residual sum), means that the output is a
    hidden state: then there is none.
    """
    while node is not None:
        leaves = [leaf for source in _inputs(node) if (leaf := _leaf(source)) is not None]
        if _kind(node) in PRODUCTS:
            return next((leaf for leaf in leaves if leaf.ndim > 1), None)
        activations = [source for source in _inputs(node) if _leaf(source) is None]
        alone = len(activations) == 1 and "Norm" not in _kind(node)
        node = activations[0] if alone else None
    return None


def _first_convs(roots: list[Node]) -> Iterator[Tensor]:
    """Weights of the convolutions whose input no parameter has touched."""
    seen, waiting = set(roots), list(roots)
    while waiting:
        node = waiting.pop()
        if _kind(node) == "Convolution" and node.next_functions[0][0] is None:
            weight = _leaf(node.next_functions[1][0])
            if weight is not None:
                yield weight
        fresh = set(_inputs(node)) - seen
        seen |= fresh
        waiting.extend(fresh)
