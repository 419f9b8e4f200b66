"""One reduction over all gradients decides whether a step may happen."""

import enum
import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn.utils import get_total_norm

__all__ = ["Verdict", "inspect"]


class Verdict(enum.Enum):
    """What the gradients are as a whole."""

    USABLE = "usable"
    ZERO = "zero"
    NONFINITE = "nonfinite"


def inspect(grads: Sequence[Tensor]) -> Verdict:
    """Judge all gradients by their total norm, with one device sync.

    The norm's squares may overflow or underflow although every entry is fine, so its two extreme
    values are confirmed entry by entry; a normal step pays for the norm alone.
    """
    total = float(get_total_norm(grads))
    if not math.isfinite(total):
        return Verdict.USABLE if all(_finite(g) for g in grads) else Verdict.NONFINITE
    if total == 0.0:
        return Verdict.USABLE if any(bool(g.any()) for g in grads) else Verdict.ZERO
    return Verdict.USABLE


def _finite(grad: Tensor) -> bool:
    return bool(grad.isfinite().all())
