"""All that an optimiser has in common with other ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from stiefel.engine.bucket import Member
from stiefel.engine.distributed import agreement
from stiefel.engine.distributed.agreement import Answer, Common
from stiefel.engine.distributed.layout import Layout
from stiefel.engine.distributed.lots import deal
from stiefel.engine.distributed.orders import Order, checked_wire, manner
from stiefel.engine.distributed.rounds import Round, Step, make_rounds, play
from stiefel.engine.distributed.share import Share
from stiefel.engine.transport import Team, globally, layout_of, refuse_absent, settled, team_of
from stiefel.piece import MATRIX
from stiefel.recipe import Recipe
from stiefel.views import View

__all__ = ["Sharing"]

Views: TypeAlias = Mapping[Tensor, View | None]


class Sharing:
    """The parameters that other ranks hold too, and who owns which of their matrices.

    Args:
        group: process group whose ranks hold the same plain tensors; None if there is none.
        wire: dtype of gradients and updates on the wire where that is narrower than their own.

    Attributes:
        teams: the ranks that hold something in common, and what.
        shares: the parameters under matrix recipes among it.
    """

    def __init__(self, group: Any = None, wire: torch.dtype | None = None) -> None:
        self.replicas, self.wire = globally(group), checked_wire(wire)
        self.teams: dict[Team, list[Common]] = {}
        self.shares: dict[Tensor, Share] = {}
        self._comparing = False
        self.forget()

    def forget(self) -> None:
        """Make the rounds anew at the next step."""
        self._key: Any = None
        self._rounds: list[list[Round]] = []

    def know(self, parameters: Iterable[Tensor]) -> None:
        """Note who must hear of it if these are refused."""
        for parameter in parameters:
            if team := team_of(parameter, self.replicas):
                self.teams.setdefault(team, [])

    def admit(self, names: Mapping[Tensor, str], views: Views, recipe: Recipe) -> None:
        """Note the parameters of a group, and deal their matrices out."""
        dealt: dict[Team, list[tuple[Tensor, View, Layout]]] = {}
        for parameter, name in names.items():
            refuse_absent(name, parameter)
            if team := team_of(parameter, self.replicas):
                layout = layout_of(name, parameter, team)
                self.teams.setdefault(team, []).append(Common(name, parameter, layout))
                if recipe.scope is MATRIX and (view := views[parameter]):
                    dealt.setdefault(team, []).append((parameter, view, layout))
        for team, seen in dealt.items():
            matrices = ((view, layout) for _, view, layout in seen)
            lots = deal(matrices, self._loads(team), first=len(self.shares))
            for (parameter, view, _), own in zip(seen, lots, strict=True):
                self.shares[parameter] = Share(parameter, view, recipe, team, own)

    def _loads(self, team: Team) -> list[int]:
        """The cost of what every rank owns so far."""
        loads = [0] * len(team)
        for share in self.shares.values():
            for lot in share.lots if share.team == team else ():
                loads[lot.owner] += lot.unit.cost
        return loads

    def dismiss(self, parameters: Iterable[Tensor]) -> None:
        """Forget parameters that were admitted to a group which then was refused."""
        gone = set(parameters)
        for members in self.teams.values():
            members[:] = [member for member in members if member.parameter not in gone]
        self.shares = {p: share for p, share in self.shares.items() if p not in gone}

    def without_shares(self, group: int, members: Iterable[Member]) -> list[Member]:
        """The members of a param group that need no other rank; what the others are is noted."""
        alone: list[Member] = []
        for member in members:
            if share := self.shares.get(member.parameter):
                share.group = group
                share.phases[member.block.name] = member.phases
            else:
                alone.append(member)
        return alone

    @contextmanager
    def together(self, call: str = "") -> Iterator[None]:
        """Do what every rank does: what one of them raises, all of them raise.

        With the name of a ``call`` they do not wait for ever for a rank that knows nothing of it.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        self.agree(call, error)

    @contextmanager
    def compared(self, describe: Callable[[Tensor], str]) -> Iterator[None]:
        """Build something on every rank, and make sure that it is the same; see `compare`."""
        if self._comparing:  # a param group of an optimiser under construction
            yield
            return
        self._comparing = True
        try:
            with self.together("the optimiser"):
                yield
            agreement.compare(self.teams, describe)
        finally:
            self._comparing = False

    def agree(self, call: str, error: Exception | None = None) -> None:
        """Tell what went wrong, and with the name of a ``call`` do not wait for ever to tell it."""
        for team in self.teams if call else ():
            team.meet(call)
        self.tell(error)

    # -- a step ------------------------------------------------------------------------------------

    def ask(self, ready: Mapping[Tensor, Tensor], norms: bool, error: Exception | None) -> Answer:
        """See `stiefel.engine.distributed.agreement.ask`."""
        common = {member.parameter for members in self.teams.values() for member in members}
        alone = [grad for parameter, grad in ready.items() if parameter not in common]
        return agreement.ask(self.teams, alone, norms, error)

    def gradients(self, ready: Mapping[Tensor, Tensor], answer: Answer) -> dict[Tensor, Tensor]:
        """This rank's part of every gradient that some rank has."""
        own = {parameter: settled(parameter, grad) for parameter, grad in ready.items()}
        return agreement.completed(self.teams, answer.counts, own)

    def largest(self, number: float) -> float:
        """The maximum over all ranks."""
        return agreement.largest(self.teams, number)

    def step(self, now: Step) -> Exception | None:
        """Step all shares that have a gradient; returns what went wrong on this rank."""
        failed: Exception | None = None
        for rounds in self._rounds_of(now.steps):
            failed = play(rounds, now) or failed
        return failed

    def _rounds_of(self, steps: Mapping[Tensor, int]) -> list[list[Round]]:
        stepping = [share for parameter, share in self.shares.items() if parameter in steps]
        key = [(id(share), steps[share.parameter] == 1) for share in stepping]
        if key != self._key:
            orders = (
                order
                for share, (_, first) in zip(stepping, key, strict=True)
                for order in self._orders(share, share.recipe, first)
            )
            self._rounds = [make_rounds(team, some) for team, some in _by_team(orders)]
            self._key = key
        return self._rounds

    def _orders(self, share: Share, recipe: Recipe, first: bool) -> Iterator[Order]:
        for lot in share.lots:
            yield Order(share, lot, recipe, manner(lot, recipe, first), self.wire)

    def show(self, now: Step, shown: Mapping[Tensor, Recipe]) -> Exception | None:
        """Step shares by other recipes, which leave all state alone; returns what went wrong."""
        orders = (
            order
            for parameter, recipe in shown.items()
            if (share := self.shares.get(parameter))
            for order in self._orders(share, recipe, first=True)
        )
        failed: Exception | None = None
        for team, some in _by_team(orders):
            failed = play(make_rounds(team, some, stacked=False), now) or failed
        return failed

    def alone(self, now: Step) -> Step:
        """The same step of the parameters that need no other rank."""
        grads = {p: grad for p, grad in now.grads.items() if p not in self.shares}
        return replace(now, grads=grads)

    def total(self, counts: Mapping[Tensor, int]) -> dict[Tensor, int]:
        """The sum over all ranks of a number for every share."""
        found: dict[Tensor, int] = {}
        for team in self.teams:
            mine = [parameter for parameter, share in self.shares.items() if share.team == team]
            sums = team.total([counts[parameter] for parameter in mine])
            found |= {p: int(total) for p, total in zip(mine, sums, strict=True)}
        return found

    def tell(self, error: Exception | None) -> None:
        """See `stiefel.engine.distributed.agreement.tell`."""
        agreement.tell(self.teams, error)


def _by_team(orders: Iterable[Order]) -> Iterable[tuple[Team, list[Order]]]:
    found: dict[Team, list[Order]] = {}
    for order in orders:
        found.setdefault(order.share.team, []).append(order)
    return found.items()
