"""What matrix a tensor holds: a tensor as one or more stacks of matrices, there and back exactly.

A convolution kernel is a matrix of (out) x (in * kh * kw); a fused QKV weight is three; an expert
tensor is a stack. A `View` says so in three moves that never copy by themselves: factor the axes,
permute them, cut one of them into named blocks. Each `Block` then reads as a stack
`[*batch, m, n]`, and the recipe's scale rule sees that m and n and nothing else.

The functions at the end build the views that models need. Each takes what the user knows (a head
count, the sizes) and returns a `ViewRule`, a function of the tensor's shape:

>>> view = heads(12)((768, 768))
>>> view.blocks[0].batch, view.blocks[0].m, view.blocks[0].n
((12,), 64, 768)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from torch import Tensor

from stiefel.errors import ViewError, check_choice

__all__ = [
    "Block",
    "Shape",
    "View",
    "ViewRule",
    "chunks",
    "conv",
    "conv_transpose",
    "entries",
    "fitted",
    "gate_up",
    "heads",
    "matrix",
    "qkv",
    "stack",
    "transposed",
]

Shape: TypeAlias = Sequence[int]

SIDES = ("rows", "cols")


@dataclass(frozen=True)
class Block:
    """One stack of equal matrices inside a tensor: ``prod(batch)`` matrices of m x n."""

    name: str
    batch: tuple[int, ...]
    m: int
    n: int
    start: int
    size: int

    @property
    def numel(self) -> int:
        """Number of entries."""
        return math.prod(self.batch) * self.m * self.n


@dataclass(frozen=True)
class View:
    """A tensor of ``shape`` as stacks of matrices.

    Args:
        name: how plans and errors call it.
        shape: shape of the tensor.
        factors: the same axes, some split into several.
        order: permutation of the factored axes into batch axes, row axes, column axes.
        batch, rows: how many of them are batch axes and row axes; the rest are column axes.
        cut: position (after the permutation) of the axis that is cut into blocks.
        cuts: name and size of each block along it; empty for one nameless block.
    """

    name: str
    shape: tuple[int, ...]
    factors: tuple[int, ...]
    order: tuple[int, ...]
    batch: int
    rows: int
    cut: int = 0
    cuts: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if math.prod(self.factors) != math.prod(self.shape):
            raise ViewError(f"view {self.name}: axes {self.factors} do not fit {self.shape}")
        permuted = tuple(self.factors[axis] for axis in self.order)
        if self.cuts and sum(size for _, size in self.cuts) != permuted[self.cut]:
            sizes = dict(self.cuts)
            raise ViewError(
                f"view {self.name}: sizes {sizes} do not add up to {permuted[self.cut]} "
                f"in a tensor of shape {self.shape}"
            )

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The stacks, in the order in which `split` returns them."""
        whole = (("", self.factors[self.order[self.cut]]),)
        starts, found = 0, []
        for name, size in self.cuts or whole:
            found.append(self._block(name, starts, size))
            starts += size
        return tuple(found)

    def _block(self, name: str, start: int, size: int) -> Block:
        axes = [self.factors[axis] for axis in self.order]
        axes[self.cut] = size
        edge = self.batch + self.rows
        m, n = math.prod(axes[self.batch : edge]), math.prod(axes[edge:])
        return Block(name, tuple(axes[: self.batch]), m, n, start, size)

    @cached_property
    def _in_order(self) -> bool:
        return self.order == tuple(range(len(self.order)))

    def part(self, tensor: Tensor, block: Block) -> Tensor:
        """The entries of ``block`` as an alias of ``tensor``, axes permuted but not yet merged."""
        axes = tensor if self.factors == self.shape else tensor.view(self.factors)
        axes = axes if self._in_order else axes.permute(self.order)
        return axes.narrow(self.cut, block.start, block.size) if self.cuts else axes

    def split(self, tensor: Tensor) -> list[Tensor]:
        """Every block as `[*batch, m, n]`; an alias where strides allow, else a copy."""
        if tuple(tensor.shape) != self.shape:
            raise ViewError(self.misfit(tensor.shape))
        return [self.part(tensor, b).reshape(*b.batch, b.m, b.n) for b in self.blocks]

    def misfit(self, shape: Shape) -> str:
        """What an error says of a tensor of another shape."""
        return f"view {self.name} is for shape {self.shape}, not {tuple(shape)}"

    def join(self, blocks: Sequence[Tensor], out: Tensor) -> Tensor:
        """Write the stacks back into ``out``: the inverse of `split`."""
        for block, values in zip(self.blocks, blocks, strict=True):
            part = self.part(out, block)
            part.copy_(values.reshape(part.shape))
        return out

    def __str__(self) -> str:
        """For example ``qkv: q 1x768x768, kv 2x128x768``."""
        sizes = ", ".join(
            f"{b.name} {'x'.join(map(str, (*b.batch, b.m, b.n)))}".strip() for b in self.blocks
        )
        return f"{self.name} {sizes}"


ViewRule: TypeAlias = Callable[[Shape], View]


def fitted(view: View | ViewRule, shape: Shape) -> View:
    """The view itself, or what the rule makes of ``shape``; refused unless it is for that shape."""
    if not isinstance(view, View) and not callable(view):
        raise ViewError(f"{view!r} is no view: give one of stiefel.views, such as views.qkv()")
    made = view if isinstance(view, View) else view(shape)
    if made.shape != tuple(shape):
        raise ViewError(made.misfit(shape))
    return made


def _axes(name: str, shape: Shape, count: int) -> tuple[int, ...]:
    """``shape`` as a tuple, refused unless it has ``count`` axes."""
    if len(shape) != count:
        raise ViewError(f"view {name} needs {count} axes; the tensor has shape {tuple(shape)}")
    return tuple(shape)


def _parts(name: str, whole: int, count: int, shape: Shape) -> int:
    """``whole / count``, refused unless it divides."""
    if count < 1 or whole % count:
        raise ViewError(
            f"view {name}: {whole} does not divide into {count} parts in shape {tuple(shape)}"
        )
    return whole // count


def entries(shape: Shape) -> View:
    """Any tensor as one row of entries: what elementwise recipes see."""
    factors = (1, *shape)
    return View("entries", tuple(shape), factors, tuple(range(len(factors))), 0, 1)


def matrix(shape: Shape) -> View:
    """A plain matrix, as `nn.Linear` stores it: rows are outputs, columns are inputs."""
    m, n = _axes("matrix", shape, 2)
    return View("matrix", (m, n), (m, n), (0, 1), 0, 1)


def transposed(shape: Shape) -> View:
    """A matrix stored inputs first, as `Conv1D` of transformers does. Serves stacks as well."""
    if len(shape) == 3:
        e, n, m = shape
        return View("transposed stack", (e, n, m), (e, n, m), (0, 2, 1), 1, 1)
    n, m = _axes("transposed", shape, 2)
    return View("transposed", (n, m), (n, m), (1, 0), 0, 1)


def stack(shape: Shape) -> View:
    """A stack of matrices over all leading axes: experts `[e, m, n]`, layers `[l, e, m, n]`."""
    if len(shape) < 3:
        raise ViewError(f"view stack needs 3 axes or more; the tensor has shape {tuple(shape)}")
    axes = tuple(range(len(shape)))
    return View("stack", tuple(shape), tuple(shape), axes, len(shape) - 2, 1)


def conv(groups: int = 1) -> ViewRule:
    """A convolution `[out, in / groups, *kernel]`: per group the matrix (out) x (in * kernel)."""

    def rule(shape: Shape) -> View:
        out, *rest = shape
        per = _parts("conv", out, groups, shape)
        if groups == 1:
            axes = tuple(range(len(shape)))
            return View("conv", tuple(shape), tuple(shape), axes, 0, 1)
        factors = (groups, per, *rest)
        return View("grouped conv", tuple(shape), factors, tuple(range(len(factors))), 1, 1)

    return rule


def conv_transpose(groups: int = 1) -> ViewRule:
    """A transposed convolution `[in, out / groups, *kernel]`: per group (out) x (in * kernel)."""

    def rule(shape: Shape) -> View:
        inputs, out, *kernel = shape
        per = _parts("conv_transpose", inputs, groups, shape)
        factors = (groups, per, out, *kernel)
        order = (0, 2, 1, *range(3, len(factors)))
        if groups > 1:
            return View("grouped conv_transpose", tuple(shape), factors, order, 1, 1)
        shifted = tuple(axis - 1 for axis in order[1:])
        return View("conv_transpose", tuple(shape), factors[1:], shifted, 0, 1)

    return rule


def heads(count: int, *, side: str = "rows") -> ViewRule:
    """One matrix a head: ``side="rows"`` for q, k, v projections, ``"cols"`` for the output one."""
    check_choice("side", side, SIDES, ViewError)

    def rule(shape: Shape) -> View:
        m, n = _axes("heads", shape, 2)
        if side == "rows":
            factors = (count, _parts("heads", m, count, shape), n)
            return View("heads", (m, n), factors, (0, 1, 2), 1, 1)
        factors = (m, count, _parts("heads", n, count, shape))
        return View("column heads", (m, n), factors, (1, 0, 2), 1, 1)

    return rule


def qkv(
    q: int = 1,
    kv: int = 1,
    *,
    per_head: bool = False,
    interleaved: bool = False,
    stored: str = "rows",
) -> ViewRule:
    """A fused query-key-value projection as its separate matrices.

    Args:
        q: number of query heads.
        kv: number of key (and of value) heads; fewer than ``q`` for grouped-query attention.
        per_head: one matrix for every head instead of one for q, k and v each.
        interleaved: ordered by key-value group (``q / kv`` query heads, a key head, a value head:
            GPT-NeoX, BLOOM, Falcon) instead of all q, all k, all v.
        stored: ``"rows"`` for `nn.Linear`; ``"cols"`` for transformers' `Conv1D`.
    """

    def rule(shape: Shape) -> View:
        _axes("qkv", shape, 2)
        per_group = _parts("qkv", q, kv, shape)
        fused = _fused_size(shape, stored)
        dim = _parts("qkv", fused, q + 2 * kv, shape)
        if interleaved:
            groups, sizes = kv, (("q", per_group), ("k", 1), ("v", 1))
        else:
            groups, sizes = 1, (("q", q), ("k", kv), ("v", kv))
        split = (groups, fused // dim // groups, dim)
        return _fused("qkv", shape, split, 1, sizes, 2 if per_head else 0, stored)

    return rule


def chunks(
    *names: str, interleaved: bool = False, stored: str = "rows", name: str = "chunks"
) -> ViewRule:
    """Equal blocks fused along the outputs, such as the four gates of an LSTM.

    ``interleaved`` when the blocks alternate row by row; leading axes (experts) stay a stack.
    """

    def rule(shape: Shape) -> View:
        fused = _fused_size(shape, stored)
        size = _parts(name, fused, len(names), shape)
        if interleaved:
            return _fused(name, shape, (size, len(names)), 1, _ones(names), 0, stored)
        return _fused(name, shape, (len(names), size), 0, _ones(names), 0, stored)

    return rule


def gate_up(*, interleaved: bool = False, stored: str = "rows") -> ViewRule:
    """The gate and up projections of a gated MLP in one tensor; see `chunks`."""
    return chunks("gate", "up", interleaved=interleaved, stored=stored, name="gate_up")


def _ones(names: Sequence[str]) -> tuple[tuple[str, int], ...]:
    return tuple((name, 1) for name in names)


def _fused_size(shape: Shape, stored: str) -> int:
    """Length of the output axis of a possibly transposed (stack of) matrices."""
    check_choice("stored", stored, SIDES, ViewError)
    if len(shape) < 2:
        raise ViewError(f"a fused view needs 2 axes or more; the tensor has shape {tuple(shape)}")
    return shape[-2] if stored == "rows" else shape[-1]


def _fused(
    name: str,
    shape: Shape,
    split: tuple[int, ...],
    cut: int,
    cuts: tuple[tuple[str, int], ...],
    batch: int,
    stored: str,
) -> View:
    """Factor the output axis into ``split`` (the first ``batch`` are batch axes) and cut one."""
    lead = tuple(shape[:-2])
    outputs = range(len(lead), len(lead) + len(split))
    if stored == "rows":
        factors: tuple[int, ...] = (*lead, *split, shape[-1])
        order = tuple(range(len(factors)))
    else:
        factors = (*lead, shape[-2], *split)
        order = (*range(len(lead)), *(axis + 1 for axis in outputs), len(lead))
    rows = len(split) - batch
    return View(name, tuple(shape), factors, order, len(lead) + batch, rows, len(lead) + cut, cuts)
