"""The guard: one look at all gradients decides whether, and how far, a step may happen."""

import enum
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

__all__ = ["Verdict", "inspect", "permitted", "total_norm"]


class Verdict(enum.Enum):
    """What the gradients are as a whole."""

    USABLE = "usable"
    ZERO = "zero"
    NONFINITE = "nonfinite"


def total_norm(grads: Sequence[Tensor]) -> float:
    """Of all gradients as one vector; the one device sync of a normal step."""
    return float(get_total_norm(grads))


def inspect(
    grads: Sequence[Tensor],
    total: float | None = None,
    entries: int | None = None,
    everywhere: Callable[[float], float] = float,
) -> tuple[Verdict, float]:
    """Judge all gradients by their total norm.

    The norm's squares may overflow or underflow although every entry is fine, so its two extreme
    values are confirmed entry by entry; a normal step pays for the norm alone.

    Args:
        grads: this rank's gradients.
        total: norm of the gradients of all ranks; None if these are all there are.
        entries: how many entries those have.
        everywhere: the maximum of a number over all ranks.

    Returns:
        The verdict, and the factor by which all gradients must be multiplied so that no method's
        sum of their squares overflows: 1 unless their norm is beyond `_limit`.
    """
    total = total_norm(grads) if total is None else total
    entries = sum(grad.numel() for grad in grads) if entries is None else entries
    limit = _limit(grads)
    if 0.0 < total <= limit:
        return Verdict.USABLE, 1.0
    largest = everywhere(max((_largest(grad) for grad in grads if grad.numel()), default=0.0))
    if largest == 0.0:
        return Verdict.ZERO, 1.0
    if not math.isfinite(largest):
        return Verdict.NONFINITE, 1.0
    return Verdict.USABLE, min(1.0, limit / largest / entries**0.5)


def permitted(groups: Sequence[dict[str, Any]], verdict: Verdict, factor: float) -> float:
    """The factor of `inspect`, or 0 if there is to be no step; a skipped one is counted."""
    if verdict is Verdict.NONFINITE:
        for group in groups:
            group["skipped_steps"] += 1
    # Tools that want to see optimiser state (distributed checkpoint) call a step with zero
    # gradients and lr 0; such a step must not even advance Adam's bias correction.
    idle = verdict is Verdict.ZERO and all(float(group["lr"]) == 0 for group in groups)
    return 0.0 if idle or verdict is Verdict.NONFINITE else factor


def _limit(grads: Sequence[Tensor]) -> float:
    """The largest norm that a step takes as it is: in float32 1.2e18, whose square leaves room for
    sums over 200 steps.
    """
    double = bool(grads) and all(g.dtype is torch.float64 for g in grads)
    return float(torch.finfo(torch.float64 if double else torch.float32).max ** 0.5 / 16)


def _largest(grad: Tensor) -> float:
    """The largest absolute value; infinite if there is a NaN."""
    largest = float(grad.abs().max())
    return math.inf if math.isnan(largest) else largest
