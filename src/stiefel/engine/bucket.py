"""Buckets: matrices of one shape that step as one stack.

At rest every parameter owns its state (``optimizer.state[p]``). At run time a bucket's states lie
in one stack `[b, m, n]` and the parameters hold slices of it, so that a step copies no state.
Whoever replaces the tensors in ``optimizer.state`` (loading a checkpoint, moving it to a device)
is noticed by the memory they lie in, and the stack is made anew: ``optimizer.state`` is the truth.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from stiefel.engine import clock
from stiefel.engine.execution import Run
from stiefel.hardware import joining_pays, stacking_pays
from stiefel.piece import ENTRY, REFRESH_EVERY
from stiefel.recipe import Recipe
from stiefel.views import Block, View, entries

__all__ = [
    "Bucket",
    "Job",
    "Member",
    "compute_dtype",
    "fresh_count",
    "grad_dtype",
    "initial_state",
    "make_buckets",
    "members_of",
    "separate_buckets",
    "with_phases",
]

# No stack grows beyond this many entries (256 MiB in float32): a step copies it once.
LARGEST_STACK = 1 << 26


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Precision of state and arithmetic: float32 for 16-bit parameters, else their own."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def grad_dtype(parameter: Tensor) -> torch.dtype:
    """Of its gradient, also before there is one: users may ask torch for another than its own."""
    return parameter.grad_dtype or parameter.dtype


@dataclass(frozen=True, eq=False)
class Member:
    """One block of one parameter: a stack of ``count`` matrices inside a tensor.

    ``phases`` tells for each of them where it stands in the refresh period; see
    `stiefel.engine.clock`.
    """

    parameter: Tensor
    view: View
    block: Block
    entrywise: bool
    phases: tuple[float, ...] = ()

    @property
    def count(self) -> int:
        """How many matrices the block holds."""
        return math.prod(self.block.batch)

    def key(self, name: str) -> str:
        """Name of a state tensor in ``optimizer.state[p]``: fused tensors add the block's name."""
        return f"{self.block.name}.{name}" if self.block.name else name

    def part(self, tensor: Tensor) -> Tensor:
        """The block's entries as an alias of ``tensor`` (a parameter or its gradient)."""
        return self.view.part(tensor, self.block)

    def stack(self, tensor: Tensor) -> Tensor:
        """The block as `[count, m, n]`; an alias where strides allow."""
        return self.part(tensor).reshape(self.count, self.block.m, self.block.n)

    def at_rest(self, state: Tensor) -> Tensor:
        """A state tensor `[count, ...]` in the shape in which checkpoints hold it."""
        if self.entrywise:
            return state.view(self.view.shape)
        return state.view((*self.block.batch, *state.shape[1:]))

    def at_run(self, state: Tensor) -> Tensor:
        """The inverse of `at_rest`."""
        if self.entrywise:
            return state.reshape(1, 1, -1)
        return state.reshape((self.count, *state.shape[len(self.block.batch) :]))

    def initial_state(self, recipe: Recipe, device: torch.device | str) -> dict[str, Tensor]:
        """Fresh state of the block, keyed and shaped as at rest."""
        dtype = compute_dtype(self.parameter.dtype)
        like = torch.empty((), dtype=dtype, device=device)
        state = recipe.init(like.expand(self.count, self.block.m, self.block.n))
        return {self.key(name): self.at_rest(tensor) for name, tensor in state.items()}


def members_of(parameter: Tensor, view: View | None, recipe: Recipe) -> list[Member]:
    """The blocks of one parameter as ``recipe`` sees them; a block without entries is none."""
    seen = entries(parameter.shape) if view is None or recipe.scope is ENTRY else view
    return [
        Member(parameter, seen, block, seen is not view) for block in seen.blocks if block.numel
    ]


def fresh_count() -> dict[str, Tensor]:
    """The count of steps: in float32 on the CPU, whatever torch's defaults are."""
    return {"step": torch.zeros((), dtype=torch.float32, device="cpu")}


def initial_state(
    parameter: Tensor, view: View | None, recipe: Recipe, device: torch.device | str | None = None
) -> dict[str, Tensor]:
    """Fresh state of one parameter; on the meta device it only tells names, shapes and dtypes."""
    device = parameter.device if device is None else device
    state = fresh_count()
    for member in members_of(parameter, view, recipe):
        state |= member.initial_state(recipe, device)
    return state


@dataclass(frozen=True)
class Job:
    """What the members of a param group are to do in a step.

    Attributes:
        numbers: the group's hyper-parameters.
        factor: what multiplies their gradients.
        run: how a stack is stepped.
    """

    numbers: Mapping[str, Any]
    factor: float
    run: Run


@dataclass(eq=False)
class Bucket:
    """Members of one group that share recipe, matrix shape, dtype and device."""

    recipe: Recipe
    members: list[Member]
    _names: list[str] = field(init=False)
    _stacks: dict[str, Tensor] = field(init=False, default_factory=dict)
    _places: dict[str, list[int]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        first = self.members[0].block
        self._names = list(self.recipe.init(torch.empty(1, first.m, first.n, device="meta")))

    @property
    def axis(self) -> int:
        """Where members join: entries end to end, matrices one behind the other."""
        return -1 if self.members[0].entrywise else 0

    def step(
        self,
        state: Mapping[Tensor, MutableMapping[str, Any]],
        steps: Mapping[Tensor, int],
        grads: Mapping[Tensor, Tensor],
        job: Job,
    ) -> None:
        """Step the members that have a gradient (those in ``steps``, with the number of the step).

        Normally these are all, at the same step. Members at another step than the rest (they missed
        a gradient) run by themselves on copies of their state.
        """
        by_step: dict[int, list[Member]] = defaultdict(list)
        for member in self.members:
            if member.parameter in steps:
                by_step[steps[member.parameter]].append(member)
        for step, members in by_step.items():
            everyone = len(members) == len(self.members)
            stacks = self._adopt(state) if everyone else self._copies(state, members)
            self._run(members, stacks, grads, job, step)
            if not everyone:
                self._write_back(state, members, stacks)

    def _run(
        self,
        members: list[Member],
        stacks: dict[str, Tensor],
        grads: Mapping[Tensor, Tensor],
        job: Job,
        step: int,
    ) -> None:
        dtype = compute_dtype(members[0].parameter.dtype)
        grad = self._join([m.stack(grads[m.parameter]) for m in members]).to(dtype)
        weight = self._join([m.stack(m.parameter.detach()) for m in members]).to(dtype)
        grad = grad if job.factor == 1 else grad * job.factor
        due = self._due(members, job.numbers, step)
        job.run(self.recipe, grad, weight, stacks, job.numbers, step, due)
        parts = [m.part(m.parameter.detach()) for m in members]
        if weight.data_ptr() != parts[0].data_ptr():  # a copy was stepped, not the parameter
            moved = zip(self._part(weight, members), parts, strict=True)
            torch._foreach_copy_(parts, [values.reshape(part.shape) for values, part in moved])

    def _due(self, members: list[Member], numbers: Mapping[str, Any], step: int) -> Sequence[slice]:
        if not self.recipe.clocked:
            return ()
        return clock.due(
            step, numbers[REFRESH_EVERY], [phase for m in members for phase in m.phases]
        )

    def _join(self, stacks: list[Tensor]) -> Tensor:
        return stacks[0] if len(stacks) == 1 else torch.cat(stacks, self.axis)

    def _part(self, joined: Tensor, members: Sequence[Member]) -> Sequence[Tensor]:
        """A joined stack member by member: the inverse of `_join`, as aliases."""
        if len(members) == 1:
            return [joined]
        sizes = [m.block.n if m.entrywise else m.count for m in members]
        return torch.split(joined, sizes, self.axis)

    def _adopt(self, state: Mapping[Tensor, MutableMapping[str, Any]]) -> dict[str, Tensor]:
        """The stacks of all members' states; parameters hold slices of them."""
        for name in self._names:
            held = [state[m.parameter][m.key(name)] for m in self.members]
            if [tensor.data_ptr() for tensor in held] != self._places.get(name):
                self._restack(name, held, state)
        return self._stacks

    def _restack(
        self, name: str, held: list[Tensor], state: Mapping[Tensor, MutableMapping[str, Any]]
    ) -> None:
        device = self.members[0].parameter.device
        runs = [m.at_run(t).to(device) for m, t in zip(self.members, held, strict=True)]
        stack = self._join(runs)
        pieces = zip(self.members, self._part(stack, self.members), strict=True)
        slices = [member.at_rest(piece) for member, piece in pieces]
        self._stacks[name], self._places[name] = stack, [t.data_ptr() for t in slices]
        for member, tensor in zip(self.members, slices, strict=True):
            state[member.parameter][member.key(name)] = tensor

    def _copies(
        self, state: Mapping[Tensor, MutableMapping[str, Any]], members: list[Member]
    ) -> dict[str, Tensor]:
        return {
            name: torch.cat([m.at_run(state[m.parameter][m.key(name)]) for m in members], self.axis)
            for name in self._names
        }

    def _write_back(
        self,
        state: Mapping[Tensor, MutableMapping[str, Any]],
        members: list[Member],
        stacks: dict[str, Tensor],
    ) -> None:
        for name, stack in stacks.items():
            for member, values in zip(members, self._part(stack, members), strict=True):
                state[member.parameter][member.key(name)].copy_(member.at_rest(values))


def with_phases(members: Sequence[Member], recipe: Recipe, stagger: bool) -> list[Member]:
    """The members with the phases of their clocks, which spread the work unless all are in step."""
    if not (stagger and recipe.clocked):
        return [replace(m, phases=(0.0,) * m.count) for m in members]
    cost = clock.refresh_cost(recipe)
    costs = [each for m in members for each in [cost(m.block.m, m.block.n)] * m.count]
    found = iter(clock.phases(costs, recipe.live[REFRESH_EVERY].default))
    return [replace(m, phases=tuple(itertools.islice(found, m.count))) for m in members]


def make_buckets(recipe: Recipe, members: Iterable[Member]) -> list[Bucket]:
    """Sort the members of one group into buckets that step as one stack each."""
    shared: dict[Any, list[Member]] = defaultdict(list)
    for member in members:
        shared[_bucket_key(member)].append(member)
    return [
        Bucket(recipe, part) for together in shared.values() for part in _within_limit(together)
    ]


def separate_buckets(recipe: Recipe, members: Iterable[Member]) -> list[Bucket]:
    """A bucket for each member, which leaves the state in the memory where it is."""
    return [Bucket(recipe, [member]) for member in members]


def _bucket_key(member: Member) -> Any:
    p, block = member.parameter, member.block
    if not _stackable(member):
        return id(member)
    shape = None if member.entrywise else (block.m, block.n)
    return shape, p.dtype, p.device


def _stackable(member: Member) -> bool:
    block, device = member.block, member.parameter.device
    if member.entrywise:
        return joining_pays(block.n, device)
    return stacking_pays(block.m, block.n, device)


def _within_limit(members: list[Member]) -> Iterable[list[Member]]:
    """Cut a list of members where their stack would grow beyond `LARGEST_STACK` entries."""
    batch: list[Member] = []
    total = 0
    for member in members:
        size = member.block.numel
        if batch and total + size > LARGEST_STACK:
            yield batch
            batch, total = [], 0
        batch.append(member)
        total += size
    yield batch
