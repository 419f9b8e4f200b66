"""One step of shared parameters, round by round: gather, step, return.

While a round computes, the gradients of the next one travel, and the results of the last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stiefel.engine.bucket import Bucket, Job, make_buckets, members_of, separate_buckets
from stiefel.engine.distributed.orders import Manner, Order
from stiefel.engine.distributed.routes import Delivery, Key, Route, Tensors, nothing
from stiefel.engine.transport import Team, local
from stiefel.recipe import Recipe

__all__ = ["Round", "Step", "make_rounds", "play"]

# What one rank owns in one round: small against its memory, and large enough for a collective's
# latency not to matter.
ROUND_BYTES = 32 << 20


@dataclass(frozen=True)
class Step:
    """A step as the rounds need it.

    Attributes:
        grads: this rank's part of every gradient.
        steps: the number of this step for every parameter.
        jobs: what every param group is to do.
    """

    grads: Mapping[Tensor, Tensor]
    steps: Mapping[Tensor, int]
    jobs: Sequence[Job]


class Round:
    """Lots that are gathered, stepped and returned together, as one rank sees them.

    Args:
        team: the ranks.
        orders: the lots, of all owners.
        stacked: step matrices of one shape as one stack, which then holds their states.
    """

    def __init__(self, team: Team, orders: Sequence[Order], stacked: bool = True) -> None:
        me, ranks = team.me, len(team)
        self.team, self.stacked = team, stacked
        self.mine = [order for order in orders if order.lot.owner == me]
        self.shares = {order.lot.parameter: order.share for order in orders}
        self.coming = Route(me, ranks, (t for o in orders for t in o.coming(me)))
        self.going = Route(me, ranks, (t for o in orders for t in o.going(me)))
        # All ranks know all lots, so they leave out the same collectives.
        self.gathers = any(order.gathers() for order in orders)
        self.returns = self.gathers or any(len(order.lot.unit.holders) > 1 for order in orders)
        self.owned = list(self._owned())
        self.patches = {
            place: self.shares[place.key[1]].blank(place.box)
            for place in self.going.targets
            if place.key[0] == "update"
        }
        self.applied = list(self._applied())

    def _owned(self) -> Iterator[tuple[int, Bucket]]:
        """What this rank steps as owner, with the index of the param group."""
        together: dict[tuple[int, bool], list[Order]] = defaultdict(list)
        for order in self.mine:
            order.stand_in.data = order.share.blank(order.lot.unit.box, order.dtype)
            together[order.share.group, order.manner is Manner.UPDATE].append(order)
        for (group, _), orders in together.items():
            members = [m for o in orders for m in o.share.members(o.lot)]
            buckets = make_buckets if self.stacked else separate_buckets
            yield from ((group, bucket) for bucket in buckets(orders[0].recipe, members))

    def _applied(self) -> Iterator[tuple[int, Bucket]]:
        """The last slots on this rank's shards, with the index of the param group."""
        together: dict[int, list[Tensor]] = defaultdict(list)
        recipes: dict[int, Recipe] = {}
        for place, patch in self.patches.items():
            share = self.shares[place.key[1]]
            together[share.group].append(patch)
            recipes[share.group] = Recipe(share.recipe.name, share.recipe.apply)
        for group, patches in together.items():
            members = (m for patch in patches for m in members_of(patch, None, recipes[group]))
            yield from ((group, bucket) for bucket in make_buckets(recipes[group], members))

    # -- the four parts of a step ------------------------------------------------------------------

    def gather(self, now: Step) -> Delivery:
        """Send this rank's part of the gradients to their owners."""
        tensors: dict[Any, Tensor] = {}
        for number, share in self.shares.items():
            tensors["grad", number] = now.grads[share.parameter]
            tensors["weight", number] = local(share.parameter)
        return self.coming.send(
            tensors, self.team.wire if self.gathers else nothing, self.team.device
        )

    def step(self, delivery: Delivery, now: Step) -> Exception | None:
        """Step the lots that this rank owns; what went wrong is returned, for others wait."""
        try:
            self._step_owned(self._taken_in(delivery, now), now)
        except Exception as error:
            for order in self.mine:
                if order.manner is Manner.UPDATE:
                    nothing_moves = order.stand_in.new_zeros(())
                    order.stand_in.data = nothing_moves.expand(order.stand_in.shape)
            return error
        return None

    def _taken_in(self, delivery: Delivery, now: Step) -> dict[Tensor, Tensor]:
        """The gradients of the stand-ins, which get the memory of their weights."""
        room = self._room()
        delivery.unpack(room)
        grads: dict[Tensor, Tensor] = {}
        for order in self.mine:
            weight, grads[order.stand_in] = self._at_owner(order, room, now)
            order.stand_in.data = weight
        return grads

    def _room(self) -> dict[Key, Tensor]:
        """Memory for what arrives, and for what is made of it."""
        room: dict[Key, Tensor] = {}
        for order in self.mine:
            if needs := order.gathers():
                for kind, dtype in {**needs, "weight": order.dtype}.items():
                    shape = order.lot.unit.box.shape
                    room[kind, order.lot.key] = torch.empty(
                        shape, dtype=dtype, device=self.team.device
                    )
        return room

    def _at_owner(self, order: Order, room: Tensors, now: Step) -> tuple[Tensor, Tensor]:
        """Weight and gradient of a lot: what was gathered, or the owner's own."""
        if order.gathers():
            return room["weight", order.lot.key], room["grad", order.lot.key]
        parameter, box = order.share.parameter, order.lot.home
        return box.of(local(parameter)), box.of(now.grads[parameter])

    def _step_owned(self, grads: Mapping[Tensor, Tensor], now: Step) -> None:
        state = {o.stand_in: o.share.state[o.stand_in] for o in self.mine}
        steps = {o.stand_in: now.steps[o.share.parameter] for o in self.mine}
        for group, bucket in self.owned:
            bucket.step(state, steps, grads, now.jobs[group])

    def give(self) -> Delivery:
        """Send the results to all shards."""
        tensors = {(o.result, o.lot.key): o.stand_in for o in self.mine}
        return self.going.send(
            tensors, self.team.wire if self.returns else nothing, self.team.device
        )

    def finish(self, delivery: Delivery, now: Step) -> Exception | None:
        """Take the results in: new weights as they are, updates by the recipes' last slots.

        What went wrong is returned, for others wait.
        """
        failed: Exception | None = None
        try:
            self._take_results(delivery, now)
        except Exception as error:
            failed = error
        for order in self.mine:  # a stand-in has memory during a step only
            order.stand_in.data = order.share.blank(order.lot.unit.box, order.dtype)
        return failed

    def _take_results(self, delivery: Delivery, now: Step) -> None:
        grads: dict[Tensor, Tensor] = {}
        steps: dict[Tensor, int] = {}
        for place, values in delivery.arrived():
            parameter = self.shares[place.key[1]].parameter
            shard = place.box.of(local(parameter))
            if place.key[0] == "weight":
                shard.copy_(values)
            else:
                patch = self.patches[place]
                patch.data, grads[patch], steps[patch] = shard, values, now.steps[parameter]
        for group, bucket in self.applied:
            bucket.step({}, steps, grads, replace(now.jobs[group], factor=1.0))


def play(rounds: Sequence[Round], now: Step) -> Exception | None:
    """One step; what went wrong on this rank is returned after all its collectives were made."""
    failed: Exception | None = None
    coming = [round.gather(now) for round in rounds[:1]]
    giving: list[tuple[Round, Delivery]] = []
    for place, round in enumerate(rounds):
        coming += [following.gather(now) for following in rounds[place + 1 : place + 2]]
        failed = round.step(coming.pop(0), now) or failed
        giving.append((round, round.give()))
        if place:
            failed = _finish(giving.pop(0), now) or failed
    for last in giving:
        failed = _finish(last, now) or failed
    return failed


def _finish(given: tuple[Round, Delivery], now: Step) -> Exception | None:
    round, delivery = given
    return round.finish(delivery, now)


def make_rounds(team: Team, orders: Sequence[Order], stacked: bool = True) -> list[Round]:
    """Sort a step's lots into rounds of at most `ROUND_BYTES` for every owner.

    Lots of like matrices are neighbours, so that a round can step them as one stack.
    """
    loads = [0] * len(team)
    found: dict[int, list[Order]] = defaultdict(list)
    for order in sorted(orders, key=_kind):
        owner = order.lot.owner
        found[loads[owner] // ROUND_BYTES].append(order)
        loads[owner] += order.lot.unit.box.numel * order.dtype.itemsize
    return [Round(team, found[index], stacked) for index in sorted(found)]


def _kind(order: Order) -> tuple[Any, ...]:
    sizes = [(block.m, block.n) for block in order.lot.unit.view.blocks]
    return order.share.group, order.manner.value, str(order.dtype), sizes, order.lot.key
