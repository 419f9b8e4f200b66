"""The roles that a parameter may have."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from stiefel.errors import RoleError

__all__ = ["MATRIX_ROLES", "UNDECAYED_ROLES", "Role", "as_role"]


class Role(StrEnum):
    """What a parameter does in its model. The value is what users type and tables show."""

    EMBEDDING = "embedding"
    """A table with one row for every token; also when it is tied with the head."""
    HEAD = "head"
    """The matrix that makes the model's output."""
    HIDDEN = "hidden"
    """A linear map from activations to activations."""
    EXPERT = "expert"
    """A stack of such maps, one for every expert."""
    ROUTER = "router"
    """The matrix that scores experts."""
    CONV = "conv"
    """A convolution, grouped ones included."""
    CONV_FIRST = "conv_first"
    """A convolution that sees the model's input."""
    CONV_DEPTHWISE = "conv_depthwise"
    """A convolution with one input channel a group: no matrix at all."""
    POSITIONAL = "positional"
    """A table with one row for every position, or an array added to activations."""
    VECTOR = "vector"
    """Biases and gains: at most one dimension is longer than 1."""
    SCALAR = "scalar"
    """One entry."""
    LOW_RANK = "low_rank"
    """A factor of a low-rank update, as in LoRA."""
    UNKNOWN = "unknown"
    """Nothing was recognised."""


# What a matrix method was made for. Everything else steps entry by entry unless the user says so.
MATRIX_ROLES: Final = (Role.HIDDEN, Role.EXPERT, Role.CONV)
# What common practice does not decay.
UNDECAYED_ROLES: Final = (Role.VECTOR, Role.SCALAR, Role.POSITIONAL)


def as_role(name: str) -> Role:
    """The role of that name.

    Raises:
        RoleError: there is none.
    """
    try:
        return Role(name)
    except ValueError:
        raise RoleError(f"role {name!r} is unknown: choose one of {', '.join(Role)}") from None
