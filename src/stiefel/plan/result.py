"""What `stiefel.plan` returns."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence

import torch

from stiefel.plan.communication import Communication, Cuts, communication
from stiefel.plan.coverage import coverage, entry_count, low_coverage
from stiefel.plan.entry import Entry
from stiefel.plan.groups import Group, Section, refine
from stiefel.plan.memory import Memory, state_memory
from stiefel.plan.table import render, shortened
from stiefel.recipe import Recipe
from stiefel.roles import Role

__all__ = ["Plan"]

WIDTH_OF_A_FILE = 120


class Plan(Mapping[str, Entry]):
    """Every parameter's role, recipe and view, and why; `stiefel.plan` makes it.

    ``print(plan)`` shows a table, ``plan["lm_head.weight"]`` is one `Entry` (by any of its names),
    ``plan.groups()`` is what `stiefel.Optimizer` takes.

    Attributes:
        primary: the recipe of the hidden matrices.
        warning: one sentence when a matrix recipe was asked for but steps little; else empty.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        sections: Sequence[Section],
        primary: Recipe,
        *,
        matrix_recipe: bool,
    ) -> None:
        self.primary = primary
        self.warning = low_coverage(entries) if matrix_recipe else ""
        self._entries = {entry.name: entry for entry in entries}
        self._tied = {other: entry for entry in entries for other in entry.tied}
        self._sections = tuple(sections)

    def __getitem__(self, name: str) -> Entry:
        return self._tied[name] if name in self._tied else self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def coverage(self) -> float:
        """Share of the trainable parameters, counted by their entries, under a matrix recipe."""
        return coverage(list(self.values()))

    def groups(self) -> list[Group]:
        """Param groups for `stiefel.Optimizer`: one for every group of yours and recipe in it.

        Frozen parameters are left out.
        """
        return [group for section in self._sections for group in refine(section, self.values())]

    def memory(self, mesh: Sequence[int] | None = None, cuts: Cuts | None = None) -> Memory:
        """Exact bytes of optimiser state, before anything is allocated; print it.

        Given a mesh, as in `communication`, also those on each of its ranks.
        """
        ranks = self.communication(mesh, cuts).state if mesh else ()
        return state_memory(self.values(), ranks)

    def communication(
        self,
        mesh: Sequence[int],
        cuts: Cuts | None = None,
        *,
        wire: torch.dtype | None = None,
    ) -> Communication:
        """What a step moves between ranks, and who works on and remembers how much; print it.

        Nothing is run or allocated: the model may be on the meta device, the mesh of any size.

        Args:
            mesh: number of ranks along each axis of the mesh.
            cuts: for each of them the axis of the tensors that it shards, None for replicas; or a
                function of an `Entry` that says so. None is what ``fully_shard`` does: the last
                axis of the mesh shards rows, the others hold replicas.
            wire: as in `stiefel.Optimizer`.
        """
        usual = (*[None] * (len(mesh) - 1), 0) if isinstance(mesh, Sequence) else ()
        by_parameter = {entry.parameter: entry for entry in self.values()}
        groups = [[by_parameter[p] for _, p in group["params"]] for group in self.groups()]
        return communication(groups, mesh, usual if cuts is None else cuts, wire)

    def table(self, width: int | None = None) -> str:
        """The plan as text, ``width`` columns wide; by default as wide as the terminal."""
        columns = width or shutil.get_terminal_size((WIDTH_OF_A_FILE, 0)).columns
        return "\n".join([render(list(self.values()), columns), "", *self._notes()])

    def _notes(self) -> Iterator[str]:
        trained = [entry for entry in self.values() if not entry.frozen]
        covered = entry_count(entry for entry in trained if entry.by_matrix)
        if covered or self.warning:  # under AdamW alone there is nothing to cover
            yield (
                f"Coverage: matrix recipes step {self.coverage:.2%} of the parameters "
                f"({covered:,} of {entry_count(trained):,})."
            )
        unknown = [entry for entry in self.values() if entry.role is Role.UNKNOWN]
        if unknown:
            yield f"Not recognised: {shortened(unknown)}."
        if self.warning:
            yield f"Warning: {self.warning}."

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"<Plan of {len(self)} parameters, {self.coverage:.2%} under matrix recipes>"
