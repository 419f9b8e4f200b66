"""Newton-Schulz coefficient tables as data: where each comes from and what it achieves.

One step maps ``X -> a X + b (X X^T) X + c (X X^T)^2 X``, so every singular value s moves by the odd
polynomial ``p(s) = a s + b s^3 + c s^5`` and the singular vectors stay. What a table achieves is
therefore a statement about numbers, and `Table.band_on` computes it without a matrix.
`stiefel.linalg.minimax` makes tables of one's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat
from math import copysign, sqrt
from typing import Literal, TypeVar

from torch import Tensor

__all__ = ["TABLES", "Table", "Triple", "contracted", "evaluate"]

Triple = tuple[float, float, float]
Interval = tuple[float, float]
Value = TypeVar("Value", float, Tensor)

# The quintic Newton-Schulz step: p(1) = 1, p'(1) = p''(1) = 0. It converges from every singular
# value in (0, sqrt(7/3)), so it may follow any table that has come near 1.
CLASSICAL: Triple = (15 / 8, -10 / 8, 3 / 8)
# The cubic one, p(1) = 1, p'(1) = 0: two products a step instead of three, from (0, sqrt(3)).
CUBIC: Triple = (3 / 2, -1 / 2, 0.0)


def evaluate(triple: Triple, s: Value) -> Value:
    """``a s + b s^3 + c s^5``."""
    a, b, c = triple
    square = s * s
    return s * (a + square * (b + square * c))


def contracted(triple: Triple, factor: float) -> Triple:
    """The coefficients of ``p(s / factor)``: room for a singular value that rounding lifted."""
    a, b, c = triple
    return a / factor, b / factor**3, c / factor**5


def _extrema(triple: Triple) -> Iterator[float]:
    """Where ``p'(s) = a + 3 b s^2 + 5 c s^4`` vanishes."""
    a, b, c = triple
    discriminant = 9 * b * b - 20 * a * c
    if discriminant < 0:
        return
    half = -3 * b - copysign(sqrt(discriminant), b)  # of the sign that does not cancel
    for numerator, denominator in ((2 * a, half), (half, 10 * c)):
        if numerator * denominator > 0:
            s = sqrt(numerator / denominator)
            yield from (s, -s)


def _image(triple: Triple, low: float, high: float) -> Interval:
    """The image of an interval: from the smallest to the largest value at its ends and extrema."""
    points = [low, high, *(s for s in _extrema(triple) if low < s < high)]
    values = [evaluate(triple, s) for s in points]
    return min(values), max(values)


@dataclass(frozen=True)
class Table:
    """A sequence of quintic steps.

    Args:
        source: where the coefficients were published.
        steps: default number of steps.
        head: the first triples, one a step.
        tail: the triple of every further step. For a published list that just ends it is our
            choice: the classical step of that degree, which converges from where the list leads.
        headroom: the input is divided by this times its norm; above 1 it keeps rounding from
            pushing a singular value beyond the interval the table was made for.
        floor: smallest singular value (of a normalised matrix) that `band` speaks of. 2e-3 for all
            published tables, so that their bands compare.
        normalisation: what brings the singular values into [0, 1]. ``"frobenius"``: the norm.
            ``"aol"``: row i of a wide X is divided by ``sqrt(sum_j |X X^T|_ij)``, which leaves the
            singular values nearer to 1 but has another polar factor than X.
        survives_16_bits: whether no matrix blows up in bfloat16. What rounding lifts above 1 does
            where the first polynomials climb steeply there and ``headroom`` is 1.
    """

    source: str
    steps: int
    head: tuple[Triple, ...] = ()
    tail: Triple = CLASSICAL
    headroom: float = 1.0
    floor: float = 2e-3
    normalisation: Literal["frobenius", "aol"] = "frobenius"
    survives_16_bits: bool = True

    @property
    def band(self) -> Interval:
        """The interval that ``steps`` steps send ``[floor, 1]`` to."""
        return self.band_on(self.floor)

    def triples(self, steps: int | None = None) -> list[Triple]:
        """The triples of ``steps`` steps (the default number if None)."""
        count = self.steps if steps is None else steps
        return list(islice(chain(self.head, repeat(self.tail)), count))

    def image(self, s: Value, steps: int | None = None) -> Value:
        """Where ``steps`` steps (the default number if None) send singular values ``s``."""
        s = s / self.headroom
        for triple in self.triples(steps):
            s = evaluate(triple, s)
        return s

    def band_on(self, floor: float, steps: int | None = None) -> Interval:
        """The interval that ``steps`` steps send the singular values ``[floor, 1]`` to.

        Exact and cheap: a step sends an interval to an interval, so no grid is needed.
        """
        low, high = floor / self.headroom, 1 / self.headroom
        for triple in self.triples(steps):
            low, high = _image(triple, low, high)
        return low, high


_JORDAN: Triple = (3.4445, -4.7750, 2.0315)

# Polar Express as its authors list it: a cushion of 0.0241, and safety left to the user.
_POLAR_EXPRESS: tuple[Triple, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)

# And as recomputed with a cushion of 0.02, each step but the last divided by 1.02.
_POLAR_EXPRESS_BF16: tuple[Triple, ...] = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
)

TABLES: dict[str, Table] = {
    "jordan": Table(
        source="K. Jordan et al., Muon (2024); torch.optim.Muon",
        steps=5,
        tail=_JORDAN,
    ),
    "you": Table(
        source=(
            "You Jiacheng (2025), fitted numerically, in modded-nanogpt; Emerging-Optimizers and "
            "timm ('quintic'), HeavyBall, an option of dion and optax"
        ),
        steps=5,
        head=(
            (4.0848, -6.8946, 2.9270),
            (3.9505, -6.3029, 2.6377),
            (3.7418, -5.5913, 2.3037),
            (2.8769, -3.1427, 1.2046),
            (2.8366, -3.0525, 1.2012),
        ),
    ),
    "polar_express": Table(
        source=(
            "N. Amsel et al., The Polar Express (arXiv 2505.16932), minimax(1e-3, 5); the five "
            "triples that modded-nanogpt, dion and nanochat ship"
        ),
        steps=5,
        head=(
            *_POLAR_EXPRESS_BF16,
            (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
        ),
        headroom=1.02,
    ),
    "polar_express_8": Table(
        source=(
            "N. Amsel et al., The Polar Express (arXiv 2505.16932), eight steps, all but the last "
            "divided by 1.01; rounded in Emerging-Optimizers, which divides by the norm alone"
        ),
        steps=8,
        head=tuple(contracted(triple, 1.01) for triple in _POLAR_EXPRESS),
        headroom=1.01,
    ),
    "polar_express_safe": Table(
        source="timm ('polar_express_safer'), minimax(1e-3, 8); four steps as 'polar_express'",
        steps=8,
        head=(
            *_POLAR_EXPRESS_BF16,
            (2.3005307116270983, -1.6111665557258408, 0.3833374427545273),
            (1.8631210546382593, -1.2042160621002727, 0.3421879560523383),
            (1.8382572152247512, -1.1779263289537742, 0.3396513038637379),
        ),
    ),
    "polar_express_dao": Table(
        source="J. Zhang et al., Gram Newton-Schulz (2026): five steps of The Polar Express / 1.05",
        steps=5,
        head=tuple(contracted(triple, 1.05) for triple in _POLAR_EXPRESS[:5]),
    ),
    "cans": Table(
        source=(
            "E. Grishina et al., CANS (arXiv 2506.10935), minimax(1e-3, 5, cushion=0, safety=1); "
            "diverges in bfloat16, where rounding lifts a singular value above its interval"
        ),
        survives_16_bits=False,
        steps=5,
        head=(
            (8.4703, -25.1081, 18.6293),
            (4.1828, -3.1087, 0.5806),
            (3.9619, -2.9541, 0.5630),
            (3.2866, -2.4647, 0.5074),
            (2.2737, -1.6447, 0.4162),
        ),
    ),
    # Emerging-Optimizers' set of this name is an older one, used there under the Frobenius norm.
    "aol": Table(
        source="T. Boissin et al., Turbo-Muon (arXiv 2512.04632); flash-newton-schulz",
        steps=4,
        head=(
            (4.6051, -9.6552, 5.6769),
            (4.7505, -6.0861, 2.1790),
            (2.7763, -2.3190, 0.5523),
            (2.4231, -2.2861, 0.8193),
        ),
        normalisation="aol",
    ),
    "deepseek": Table(
        source="DeepSeek-V4 (2026), eight steps of Jordan's and two that settle at 1",
        steps=10,
        head=(_JORDAN,) * 8,
        tail=(2.0, -1.5, 0.5),
    ),
    "cubic5": Table(
        source=(
            "H. Huang, How Much Orthogonalization Does Muon Need? (arXiv 2606.00371), "
            "minimax(7e-3, 5, cushion=0, safety=1, degree=3) with each maximum set to 1.3"
        ),
        steps=5,
        head=(
            (3.3656576, -3.3420992, 0.0),
            (2.5744352, -1.4957376, 0.0),
            (2.5368962, -1.4312570, 0.0),
            (2.4418906, -1.2764040, 0.0),
            (2.2230472, -0.9630650, 0.0),
        ),
        tail=CUBIC,
    ),
    "cubic": Table(
        source="Å. Björck and C. Bowie (1971), first order; steps until within 1% of 1",
        steps=18,
        tail=CUBIC,
    ),
    "classical": Table(
        source="Å. Björck and C. Bowie (1971), second order; steps until within 1% of 1",
        steps=12,
    ),
}
