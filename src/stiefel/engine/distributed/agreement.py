"""What ranks tell each other around a step, so that all of them do the same.

One small sum for every team carries it all: whether a rank has failed, the gradients' squared norm,
and which parameters have a gradient. Only what is out of the ordinary costs more.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stiefel.engine.bucket import grad_dtype
from stiefel.engine.distributed.layout import Layout
from stiefel.engine.distributed.routes import Key, Place, Route, Transit
from stiefel.engine.guard import total_norm
from stiefel.engine.transport import Team, is_astray, local
from stiefel.errors import DistributedError, GradientError, ParameterError

__all__ = ["Answer", "Common", "ask", "compare", "completed", "largest", "tell"]

# Counts the gradients that do not lie as their parameter does in one number with all others.
ASTRAY = 1 << 20


@dataclass(frozen=True)
class Common:
    """A parameter that a team holds."""

    name: str
    parameter: Tensor
    layout: Layout


Teams = Mapping[Team, Sequence[Common]]


@dataclass(frozen=True)
class Answer:
    """What all ranks know of the gradients.

    Attributes:
        norm: total norm over all shards; infinite when a rank's is not finite.
        counts: for every common parameter how many ranks have a gradient of it.
    """

    norm: float
    counts: Mapping[Tensor, int]


def tell(teams: Iterable[Team], error: Exception | None) -> None:
    """Raise here what went wrong on any rank.

    Raises:
        Exception: ``error`` itself on the rank that gave it, `DistributedError` on the others.
    """
    message = _message(error)
    for team in teams:
        if team.total([message is not None])[0]:
            message = _first(team, message)
    _raise(error, message)


def ask(teams: Teams, alone: Sequence[Tensor], norms: bool, error: Exception | None) -> Answer:
    """Find out what the ranks have: gradients, their norm, an error.

    Args:
        teams: the common parameters.
        alone: gradients of all other parameters.
        norms: whether the norm is asked for.
        error: what went wrong here before.

    Raises:
        Exception: as `tell`.
        GradientError: a partial sum on some ranks and no gradient on others.
    """
    message = _message(error)
    counts: dict[Tensor, int] = {}
    squares = _square(alone) if norms else 0.0
    for team, members in teams.items():
        flags = [_presence(member.parameter) for member in members]
        own = _squares(members) if norms else 0.0
        failed, squares_, *found = team.total([message is not None, own, *flags])
        squares = _finite_or_inf(squares + squares_)
        message = _first(team, message) if failed else message
        counts |= {m.parameter: int(c) for m, c in zip(members, found, strict=True)}
    _raise(error, message)
    _check_astray(teams, counts)
    # What lies in several teams may be summed in another order: nobody may decide otherwise.
    norm = largest(teams, math.sqrt(squares))
    return Answer(norm, {p: sum(divmod(c, ASTRAY)) for p, c in counts.items()})


def largest(teams: Iterable[Team], number: float) -> float:
    """The maximum over all ranks, which must not be a NaN."""
    for team in teams:
        number = team.largest(number)
    return number


def _finite_or_inf(number: float) -> float:
    return number if math.isfinite(number) else math.inf


def _presence(parameter: Tensor) -> int:
    if parameter.grad is None:
        return 0
    return ASTRAY if is_astray(parameter) else 1


def _squares(members: Sequence[Common]) -> float:
    """The squared norm of this rank's gradients, each divided by how many hold the same."""
    by_copies: dict[int, list[Tensor]] = {}
    for member in members:
        if member.parameter.grad is not None:
            grads = by_copies.setdefault(member.layout.copies, [])
            grads.append(local(member.parameter.grad))
    return sum(_square(grads) / copies for copies, grads in by_copies.items())


def _square(grads: Sequence[Tensor]) -> float:
    """Infinite where it is not finite."""
    norm = total_norm(grads)
    return _finite_or_inf(norm * norm)


def _check_astray(teams: Teams, counts: Mapping[Tensor, int]) -> None:
    for team, members in teams.items():
        for member in members:
            astray, settled = divmod(counts[member.parameter], ASTRAY)
            if astray and astray + settled < len(team):
                raise GradientError(
                    f"the gradient of parameter {member.name} is a partial sum on {astray} ranks "
                    f"of {list(team.ranks)} and missing on others: run the same layers on all"
                )


def completed(
    teams: Teams, counts: Mapping[Tensor, int], grads: Mapping[Tensor, Tensor]
) -> dict[Tensor, Tensor]:
    """``grads`` and those that this rank lacks and others have.

    They come from a rank that holds the same shard; where none has them they are zero, as for an
    expert that saw no token.
    """
    found = dict(grads)
    for team, members in teams.items():
        some = [m for m in members if 0 < counts[m.parameter] < len(team)]
        if some:
            found |= _fetched(team, some, grads)
    return found


def _fetched(
    team: Team, members: Sequence[Common], grads: Mapping[Tensor, Tensor]
) -> dict[Tensor, Tensor]:
    has = team.everyone([member.parameter in grads for member in members])
    parts: dict[Key, Tensor] = {}
    transits: list[Transit] = []
    for number, member in enumerate(members):
        key, dtype = ("grad", number), grad_dtype(member.parameter)
        part = grads.get(member.parameter)
        # All ranks must pack alike, whatever dtype a gradient was given.
        parts[key] = torch.zeros_like(local(member.parameter)) if part is None else part
        parts[key] = parts[key].to(dtype)
        transits += _copies(key, member, [ranks[number] for ranks in has], dtype)
    route = Route(team.me, len(team), transits)
    route.send(parts, team.wire, team.device).unpack(parts)
    return {m.parameter: parts["grad", number] for number, m in enumerate(members)}


def _copies(key: Key, member: Common, has: Sequence[bool], dtype: torch.dtype) -> Iterable[Transit]:
    """To every rank that lacks its shard, from the first that has the same."""
    layout = member.layout
    givers = {layout.shard(rank): rank for rank in reversed(layout.ranks) if has[rank]}
    for rank in layout.ranks:
        giver = givers.get(layout.shard(rank))
        if giver is not None and not has[rank]:
            for patch in layout.patches(rank):
                yield Transit(Place(giver, key, patch.local), Place(rank, key, patch.local), dtype)


def compare(teams: Teams, describe: Callable[[Tensor], str]) -> None:
    """Make sure that all ranks have built the same optimiser.

    Raises:
        ParameterError: they have not; the first parameter that differs is named.
    """
    for team, members in teams.items():
        lines = [f"{member.name}: {describe(member.parameter)}" for member in members]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        if len(set(team.everyone(digest))) > 1:
            raise ParameterError(_difference(team, lines))


def _difference(team: Team, lines: list[str]) -> str:
    every = team.everyone(lines)
    longest = max(len(other) for other in every)
    padded = [[*other, *["nothing"] * (longest - len(other))] for other in every]
    for row in zip(*padded, strict=True):
        for rank, line in zip(team.ranks, row, strict=True):
            if line != row[0]:
                return (
                    f"ranks hold different parameters: rank {team.ranks[0]} has {row[0]}, rank "
                    f"{rank} has {line}; build the same model and optimiser on every rank"
                )
    raise AssertionError("digests differ, lines do not")


def _message(error: Exception | None) -> str | None:
    return None if error is None else f"{type(error).__name__}: {error}"


def _first(team: Team, message: str | None) -> str:
    """What the first rank that failed says."""
    said = zip(team.ranks, team.everyone(message), strict=True)
    return next(m if m.startswith("rank ") else f"rank {rank}: {m}" for rank, m in said if m)


def _raise(error: Exception | None, message: str | None) -> None:
    if error is not None:
        raise error
    if message is not None:
        raise DistributedError(f"{message} (raised there; this rank has stopped with it)")
