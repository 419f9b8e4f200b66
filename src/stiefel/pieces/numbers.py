"""Arithmetic of hyper-parameters, which are numbers in an eager step and 0-d in a compiled one."""

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["larger", "rounded_up"]


def larger(x: Any, y: Any) -> Any:
    """``max(x, y)`` of numbers or tensors, without a look at the latter."""
    if isinstance(x, Tensor):
        return torch.maximum(x, y) if isinstance(y, Tensor) else x.clamp(min=y)
    return larger(y, x) if isinstance(y, Tensor) else max(x, y)


def rounded_up(share: float, count: int) -> int:
    """``share * count``, rounded up; 7.000000000000001, which is what 0.07 * 100 makes, is 7."""
    return math.ceil(share * count * (1 - 1e-12))
