"""Newton-Schulz tables of one's own: compositions of best odd polynomials, step after step.

On ``[low, high]`` one step takes the odd polynomial with the smallest ``max |1 - p(s)|``; it sends
the interval to ``[1 - e, 1 + e]``, which the next step starts from. No composition of that many
polynomials of that degree has a smaller error (N. Amsel et al., The Polar Express, arXiv
2505.16932).
"""

from __future__ import annotations

from functools import cache
from math import sqrt

from stiefel.errors import MatrixError
from stiefel.linalg.coefficients import (
    CLASSICAL,
    CUBIC,
    Table,
    Triple,
    contracted,
    evaluate,
)

__all__ = ["minimax"]


def minimax(
    floor: float,
    steps: int,
    *,
    cushion: float = 0.02,
    safety: float = 1.02,
    degree: int | tuple[int, ...] = 5,
) -> Table:
    """The table whose worst singular value of ``[floor, 1]`` comes nearest to 1.

    The defaults are those of the ``"polar_express"`` table, which is ``minimax(1e-3, 5)``, and
    survive bfloat16. ``cushion=0, safety=1`` is the true minimax table, for precise arithmetic.

    Args:
        floor: smallest singular value to care for, of a normalised matrix.
        steps: number of steps.
        cushion: a step takes no singular value below this fraction of the largest into account,
            and is centred at 1 again afterwards: a best polynomial that reaches lower takes large
            singular values so near to 0 that rounding drowns them.
        safety: every step but the last divides its input by this, and so does the table's
            headroom: what rounding lifts above the interval, the next steps would blow up.
        degree: of the polynomials: 5, or 3 (a third fewer products a step, but more steps); or one
            for each step, such as ``(5, 5, 3)``.

    Returns:
        A table of ``steps`` triples; further steps are classical, which converge from there.

    Raises:
        MatrixError: a number outside its range.
    """
    degrees = degree if isinstance(degree, tuple) else (degree,) * max(steps, 1)
    return _table(floor, steps, cushion, safety, degrees)


@cache
def _table(
    floor: float, steps: int, cushion: float, safety: float, degrees: tuple[int, ...]
) -> Table:
    _check(floor, steps, cushion, safety, degrees)
    low, high, head = floor, 1.0, []
    for step in range(steps):
        triple = _best(low, high, cushion, degrees[step])
        if step < steps - 1:
            triple = contracted(triple, safety)
        head.append(triple)
        low = evaluate(triple, low)
        high = 2 - low
    return Table(
        source=f"minimax({floor}, {steps}, cushion={cushion}, safety={safety}, degree={degrees})",
        steps=steps,
        head=tuple(head),
        tail=CUBIC if degrees[-1] == 3 else CLASSICAL,
        headroom=safety,
        floor=floor,
    )


def _check(
    floor: float, steps: int, cushion: float, safety: float, degrees: tuple[int, ...]
) -> None:
    for name, value, right, rule in (
        ("floor", floor, 0 < floor <= 1, "in (0, 1], e.g. 1e-3"),
        ("steps", steps, steps >= 1, "at least 1, e.g. 5"),
        ("cushion", cushion, 0 <= cushion < 1, "in [0, 1), e.g. 0.02"),
        ("safety", safety, 1 <= safety < float("inf"), "at least 1, e.g. 1.02"),
        ("degree", degrees, set(degrees) <= {3, 5} and len(degrees) == steps, "3 or 5, one a step"),
    ):
        if not right:
            raise MatrixError(f"{name}={value!r}: give a number {rule}")


def _best(low: float, high: float, cushion: float, degree: int) -> Triple:
    """The best odd polynomial on the cushioned interval, its range on all of it centred at 1."""
    a, b, c, peak = (_cubic if degree == 3 else _quintic)(max(low, cushion * high), high)
    scale = 2 / (evaluate((a, b, c), low) + evaluate((a, b, c), peak))
    return scale * a, scale * b, scale * c


def _cubic(low: float, high: float) -> tuple[float, float, float, float]:
    """Up to scale, the cubic with ``p(low) = p(high)``, and its maximum."""
    square = (low * low + low * high + high * high) / 3
    return 3 * square, -1.0, 0.0, sqrt(square)


def _quintic(low: float, high: float) -> tuple[float, float, float, float]:
    """Up to scale, the quintic with ``p(low) = p(r)`` and ``p(q) = p(high)``, and q.

    It equals 1 - e, 1 + e, 1 - e, 1 + e at low < q < r < high (Chebyshev), where q and r are its
    extrema: ``p' = 15 (s^2 - q^2) (s^2 - r^2)``. So ``p(s) - p(r)`` has a double zero at r, and
    what is left of it after division, at s = low, gives q from r; likewise r from q at high. Only
    positive terms: nothing cancels as low -> high, where the linear system of the Remez algorithm,
    which the paper solves, turns singular, nor as low -> 0. The error falls ninefold a round.
    """
    q = r = high
    for _ in range(20):
        q = _partner(r, low)
        r = _partner(q, high)
    return 15 * q * q * r * r, -5 * (q * q + r * r), 3.0, q


def _partner(extremum: float, end: float) -> float:
    """The other extremum of a quintic with the same value at ``extremum`` and at ``end``."""
    t, s = extremum, end
    return sqrt((3 * s**3 + 6 * t * s**2 + 4 * t**2 * s + 2 * t**3) / (5 * (s + 2 * t)))
