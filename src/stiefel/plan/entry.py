"""One line of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from stiefel.piece import MATRIX
from stiefel.recipe import Recipe
from stiefel.roles import Role
from stiefel.views import View

__all__ = ["Entry"]


@dataclass(frozen=True, eq=False)
class Entry:
    """What happens to one parameter, and why.

    Attributes:
        name: its first name in the model.
        parameter: the tensor.
        role: what it does in the model.
        recipe: the method that steps it.
        view: the matrices that it holds; None for tables, vectors and what is not recognised.
        reason: how role and view were found.
        tied: other names of the same tensor.
    """

    name: str
    parameter: nn.Parameter
    role: Role
    recipe: Recipe
    view: View | None
    reason: str
    tied: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.parameter.shape)

    @property
    def frozen(self) -> bool:
        """Listed, but not trained."""
        return not self.parameter.requires_grad

    @property
    def by_matrix(self) -> bool:
        """Whether its recipe sees matrices."""
        return self.recipe.scope is MATRIX

    def __repr__(self) -> str:
        """One line, without the tensor's numbers."""
        view = f" as {self.view}" if self.view else ""
        return (
            f"<Entry {self.name} {list(self.shape)}: {self.role}{view} by {self.recipe.name} "
            f"({self.reason})>"
        )
