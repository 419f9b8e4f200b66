"""The weights that a method is evaluated at, where they are not those that it trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stiefel.engine.admission import present_numbers
from stiefel.engine.bucket import Bucket, Job, separate_buckets
from stiefel.engine.distributed.rounds import Step
from stiefel.engine.distributed.shards import step_shards
from stiefel.engine.execution import eager
from stiefel.engine.transport import local
from stiefel.errors import ParameterError
from stiefel.piece import Evaluated, Now, Piece, Scope, State, nested
from stiefel.recipe import Recipe

if TYPE_CHECKING:
    from stiefel.engine.optimizer import Optimizer

__all__ = ["evaluating"]


@dataclass(frozen=True)
class Shown:
    """A last slot in the place of another: it writes the better weights, and changes no state.

    Args:
        apply: the last slot whose state there is.
        piece: the piece in it that knows the weights.
        path: where that lies in ``apply``: the fields, and places in tuples.
    """

    apply: Piece
    piece: Evaluated
    path: tuple[str, ...]

    @property
    def scope(self) -> Scope:
        """Of the last slot itself."""
        return self.apply.scope

    def init(self, like: Tensor) -> State:
        """Of the last slot itself."""
        return self.apply.init(like)

    def __call__(self, x: Tensor, state: State, now: Now) -> Tensor:
        """Whatever ``x`` is, ``now.weight`` becomes what is to be evaluated."""
        for name in self.path:
            state = nested(name, state)
        return now.weight.copy_(self.piece.evaluation(now.weight, state, now))


@contextmanager
def evaluating(optimizer: Optimizer) -> Iterator[None]:
    """See `Optimizer.evaluating`."""
    if _refuse_step in optimizer._optimizer_step_pre_hooks.values():
        raise ParameterError("opt.evaluating() is open already: leave it before you enter it again")
    hook = optimizer.register_step_pre_hook(_refuse_step)
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            _show(optimizer, kept)
        yield
    finally:
        hook.remove()
        for tensor, trained in kept:
            tensor.copy_(trained)


def _refuse_step(*_: Any) -> None:
    raise ParameterError(
        "opt.evaluating() is open, and the parameters may hold other weights than those that are "
        "trained: leave it before opt.step()"
    )


def _show(optimizer: Optimizer, kept: list[tuple[Tensor, Tensor]]) -> None:
    """Put the weights to evaluate at into the parameters, and what was there into ``kept``."""
    sharing = optimizer._sharing
    # What fails in here fails before anything is on its way.
    with sharing.together("opt.evaluating()"):
        every = [(*entry, _showing(entry[1])) for entry in optimizer._bucketed()]
        shown = {p: recipe for group, _, _, recipe in every if recipe for p in group["params"]}
        own = {parameter: local(parameter).detach() for parameter in shown}
        kept.extend((tensor, tensor.clone()) for tensor in own.values())
        steps = {parameter: int(optimizer.state[parameter]["step"]) for parameter in shown}
        jobs = [Job(present_numbers(group, recipe), 1.0, eager) for group, recipe, *_ in every]
        # A last slot alone takes no note of its input: the weights stand in for gradients.
        now = Step(own, steps, jobs)
    with sharing.together():
        buckets = [_separate(buckets, recipe) for _, _, buckets, recipe in every]
        error = step_shards(optimizer._shards, optimizer.state, buckets, sharing.alone(now))
        if error := sharing.show(now, shown) or error:
            raise error


def _separate(buckets: list[Bucket], recipe: Recipe | None) -> list[Bucket]:
    members = (member for bucket in buckets for member in bucket.members)
    return separate_buckets(recipe, members) if recipe else []


def _showing(recipe: Recipe) -> Recipe | None:
    """What puts the better weights into the parameters; None if the recipe knows of none."""
    if found := _evaluated(recipe.apply):
        return Recipe(recipe.name, Shown(recipe.apply, *found))
    return None


def _evaluated(
    piece: Piece, path: tuple[str, ...] = ()
) -> tuple[Evaluated, tuple[str, ...]] | None:
    """The outermost piece that knows such weights, and under which names its state is kept.

    A piece keeps the state of one inside it under the name of the field, or the place in a tuple.
    """
    if isinstance(piece, Evaluated):
        return piece, path
    for field in dataclasses.fields(piece):  # type: ignore[arg-type]
        value = getattr(piece, field.name)
        parts = enumerate(value) if isinstance(value, tuple) else [(field.name, value)]
        for name, part in parts:
            if isinstance(part, Piece) and (found := _evaluated(part, (*path, str(name)))):
                return found
    return None
