"""Every error stiefel raises by name: it states the value, the rule it breaks and what to do.

All derive from `StiefelError`, which is a `ValueError`, so that code written for
`torch.optim` (which raises `ValueError` for bad arguments) keeps working.
"""

from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ConvergenceError",
    "DistributedError",
    "GradientError",
    "HyperparameterError",
    "MatrixError",
    "ParameterError",
    "RecipeError",
    "RoleError",
    "StiefelError",
    "ViewError",
    "check_choice",
]


class StiefelError(ValueError):
    """Base of every named error of the package."""


class HyperparameterError(StiefelError):
    """A number outside its range: a negative learning rate, a NaN momentum."""


class MatrixError(StiefelError):
    """What a function of `stiefel.linalg` cannot take, or a precision it cannot deliver."""


class ConvergenceError(StiefelError, RuntimeError):
    """A factorisation that failed on finite input at every rung of its ladder."""


class ParameterError(StiefelError):
    """A parameter that cannot be stepped: 1-D under a matrix recipe, sharded, complex."""


class GradientError(StiefelError, RuntimeError):
    """A gradient that cannot be used: sparse or complex (torch raises `RuntimeError` for these)."""


class RecipeError(StiefelError):
    """An unknown recipe, an unknown named rule, or pieces that do not fit their slots."""


class RoleError(StiefelError):
    """An unknown role in a mapping from roles to recipes."""


class ViewError(StiefelError):
    """A matrix view that does not fit the shape of its tensor."""


class DistributedError(StiefelError, RuntimeError):
    """What another rank reports, or a call that only some ranks made."""


class CheckpointError(StiefelError):
    """A state dict that belongs to another model, another recipe, or is damaged."""


def check_choice(
    name: str, value: object, choices: Iterable[object], error: type[StiefelError]
) -> None:
    """Raise ``error`` unless ``value``, given for the parameter ``name``, is one of ``choices``."""
    known = tuple(choices)
    if value not in known:
        listed = ", ".join(map(str, known))
        raise error(f"{name}={value!r} is unknown: choose one of {listed}")
