"""A parameter that several ranks hold: its matrices dealt out, and the state of this rank's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from stiefel.engine.bucket import Member, initial_state, members_of
from stiefel.engine.distributed.layout import Box
from stiefel.engine.distributed.lots import Lot
from stiefel.engine.transport import Team, local
from stiefel.recipe import Recipe
from stiefel.views import View

__all__ = ["Share"]

Phases = dict[str, tuple[float, ...]]


@dataclass(eq=False)
class Share:
    """One shared parameter as this rank sees it.

    A lot that this rank owns has a stand-in: a tensor of the unit's shape that the engine steps as
    if it were a parameter. It has memory during a step only.

    Attributes:
        parameter: the tensor; its number is its place among all shared ones.
        view: the matrices in all of it.
        recipe: what steps them.
        team: the ranks that hold it.
        lots: its units with their owners.
        owned: the stand-ins of the lots owned here.
        state: the state of every stand-in.
        group: index of its param group.
        phases: for every block where its matrices stand in the refresh period.
    """

    parameter: Tensor
    view: View
    recipe: Recipe
    team: Team
    lots: tuple[Lot, ...]
    owned: dict[Lot, Tensor] = field(init=False)
    state: dict[Tensor, dict[str, Tensor]] = field(init=False)
    group: int = 0
    phases: Phases = field(default_factory=dict)

    def __post_init__(self) -> None:
        mine = (lot for lot in self.lots if lot.owner == self.team.me)
        self.owned = {lot: self.blank(lot.unit.box) for lot in mine}
        self.reset()

    def blank(self, box: Box, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor of a rectangle's shape, without memory of its own."""
        dtype = dtype or self.parameter.dtype
        return torch.empty((), dtype=dtype, device=local(self.parameter).device).expand(box.shape)

    def reset(self) -> None:
        """Fresh state for every stand-in."""
        self.state = {
            stand_in: initial_state(stand_in, lot.unit.view, self.recipe)
            for lot, stand_in in self.owned.items()
        }
        for state in self.state.values():
            del state["step"]  # the parameter's own counts

    def settle(self) -> None:
        """Fit the state to a parameter that was cast or moved."""
        device = local(self.parameter).device
        for lot, stand_in in self.owned.items():
            for name, (_, like) in self.regions(lot).items():
                state = self.state[stand_in]
                state[name] = state[name].to(device, like.dtype)

    def members(self, lot: Lot) -> list[Member]:
        """The blocks of a lot as a bucket takes them, with the phases of the whole parameter's."""
        found = members_of(self.owned[lot], lot.unit.view, self.recipe)
        return [replace(member, phases=self._phases(member, lot)) for member in found]

    def _phases(self, member: Member, lot: Lot) -> tuple[float, ...]:
        if not self.phases:
            return ()
        whole = next(block for block in self.view.blocks if block.name == member.block.name)
        every = torch.tensor(self.phases[whole.name], dtype=torch.float64).view(whole.batch)
        place = lot.unit.view.blocks.index(member.block)
        region = lot.unit.region(place, member.block.batch)
        return tuple(region.of(every).flatten().tolist())

    def regions(self, lot: Lot) -> dict[str, tuple[Box, Tensor]]:
        """For every state tensor of a lot: where it lies in the parameter's, and one like it."""
        found: dict[str, tuple[Box, Tensor]] = {}
        for member in members_of(self.blank(lot.unit.box), lot.unit.view, self.recipe):
            place = lot.unit.view.blocks.index(member.block)
            for name, like in member.initial_state(self.recipe, "meta").items():
                found[name] = lot.unit.region(place, like.shape), like
        return found

    def held(self, lot: Lot) -> dict[str, tuple[Box, Tensor]]:
        """The same with the state itself, of a lot owned here."""
        state = self.state[self.owned[lot]]
        return {name: (region, state[name]) for name, (region, _) in self.regions(lot).items()}
