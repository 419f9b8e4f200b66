"""How a function of symmetric matrices takes its input: checked, and symmetric to the last bit."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stiefel.errors import MatrixError
from stiefel.linalg.stack import Stack, prepare

__all__ = ["prepare_symmetric", "seen"]


def prepare_symmetric(A: Tensor, name: str = "A", multiple: int = 1) -> Stack:
    """`prepare` for symmetric matrices: checked, and made symmetric to the last bit.

    Asymmetry up to ``sqrt(eps)`` of the largest entry, with the ``eps`` of the input's dtype, is
    taken for rounding.

    Raises:
        MatrixError: not square, or more asymmetric than that.
    """
    stack = prepare(A, name, multiple)
    if A.shape[-1] != A.shape[-2]:
        raise MatrixError(
            f"{name} has shape {tuple(A.shape)}: a symmetric matrix is square; "
            f"give {name} @ {name}.mT or {name}.mT @ {name}"
        )
    if A.numel() == 0:
        return stack
    X = stack.values
    tolerance = torch.finfo(A.dtype).eps ** 0.5
    asymmetric = (X - X.mT).abs().amax((-2, -1)) > tolerance * X.abs().amax((-2, -1))
    if seen(asymmetric):
        raise MatrixError(
            f"{name} is not symmetric: {int(asymmetric.sum())} of {len(X)} matrices differ from "
            f"their transpose by more than {tolerance:.1g} of their largest entry; give "
            f"({name} + {name}.mT) / 2 if its symmetric part is meant"
        )
    return replace(stack, values=(X + X.mT) / 2)


def seen(flags: Tensor) -> bool:
    """Whether any flag is raised: a look from the host (a meta tensor shows nothing)."""
    return not flags.is_meta and bool(flags.any())
