"""Newton-Schulz coefficient tables as data: where each comes from and what it achieves.

One step maps ``X -> a X + b (X X^T) X + c (X X^T)^2 X``, so every singular value s moves by the odd
polynomial ``p(s) = a s + b s^3 + c s^5`` and the singular vectors stay. A table's ``band`` is the
interval into which its default number of steps sends every singular value of ``[floor, 1]``; the
tests recompute it from the polynomials.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, islice, repeat

__all__ = ["TABLES", "Table", "Triple"]

Triple = tuple[float, float, float]

# The quintic Newton-Schulz step: p(1) = 1, p'(1) = p''(1) = 0. It converges from every singular
# value in (0, sqrt(7/3)), so it may follow any table that has come near 1.
CLASSICAL: Triple = (15 / 8, -10 / 8, 3 / 8)


@dataclass(frozen=True)
class Table:
    """A sequence of quintic steps.

    Args:
        source: where the coefficients were published.
        head: the first triples, one a step.
        tail: the triple of every further step.
        steps: default number of steps.
        headroom: the input is divided by this times its Frobenius norm; above 1 it keeps
            rounding from pushing a singular value beyond the interval the table was made for.
        floor: smallest singular value (of a matrix of Frobenius norm 1) the band speaks of.
        band: where ``steps`` steps send ``[floor, 1]``.
    """

    source: str
    head: tuple[Triple, ...]
    tail: Triple
    steps: int
    headroom: float
    floor: float
    band: tuple[float, float]

    def triples(self, steps: int | None = None) -> list[Triple]:
        """The triples of ``steps`` steps (the default number if None)."""
        count = self.steps if steps is None else steps
        return list(islice(chain(self.head, repeat(self.tail)), count))


_JORDAN: Triple = (3.4445, -4.7750, 2.0315)

TABLES: dict[str, Table] = {
    "jordan": Table(
        source="K. Jordan et al., Muon (2024); torch.optim.Muon",
        head=(),
        tail=_JORDAN,
        steps=5,
        headroom=1.0,
        floor=2e-3,
        band=(0.681, 1.203),
    ),
    "polar_express": Table(
        source=(
            "N. Amsel et al., The Polar Express (arXiv 2505.16932), minimax steps for [1e-3, 1] "
            "with a cushion; the five triples that modded-nanogpt, dion and nanochat ship"
        ),
        head=(
            (8.156554524902461, -22.48329292557795, 15.878769915207462),
            (4.042929935166739, -2.808917465908714, 0.5000178451051316),
            (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
            (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
            (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
        ),
        tail=CLASSICAL,
        steps=5,
        headroom=1.02,
        floor=2e-3,
        band=(0.858, 1.142),
    ),
}
