"""What `polar.py` measured, as a table for people, and held against the goals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

JORDAN = "torch.optim.Muon"
# A routine is ours, or a baseline that takes a stack of matrices as one or does not.
OURS, STACKED, ONE_BY_ONE = "ours", "stacked", "one by one"


@dataclass(frozen=True)
class Case:
    """What the routines of one block of the table take turns on.

    Args:
        b, m, n: shape of the stack.
        dtype: of the input, e.g. ``"float32"``.
        kind: of matrix, ``"gaussian"`` or ``"momentum"``.
    """

    b: int
    m: int
    n: int
    dtype: str
    kind: str

    def __str__(self) -> str:
        batch = f"{self.b} x " if self.b > 1 else ""
        return f"{batch}[{self.m}, {self.n}], {self.dtype}, {self.kind}"

    @property
    def needed_flops(self) -> float:
        """4 m^2 n for each matrix with short side m: a step cannot do with less than X X^T X."""
        return self.b * 4.0 * min(self.m, self.n) ** 2 * max(self.m, self.n)


@dataclass(frozen=True)
class Result:
    """One routine in one case.

    Args:
        role: OURS, STACKED or ONE_BY_ONE.
        milliseconds: of its fastest call.
        flops: of a call.
        peak: flops per second that a bfloat16 matmul reached meanwhile.
        defect, cosine, worst: mean of the defect, mean and least of the cosine over the matrices.
    """

    case: Case
    routine: str
    role: str
    milliseconds: float
    flops: float
    peak: float
    defect: float
    cosine: float
    worst: float


def ratio(
    result: Result, results: Sequence[Result], roles: Sequence[str] = (STACKED, ONE_BY_ONE)
) -> float:
    """Time over that of the fastest baseline of the same case."""
    rivals = (r for r in results if r.case == result.case and r.role in roles)
    return result.milliseconds / min(r.milliseconds for r in rivals)


# -- goals ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """A number of a routine that stays at most, or at least, at a bound in every case of a kind."""

    routine: str
    words: str
    value: Callable[[Result, Sequence[Result]], float]
    sign: str
    bound: float
    applies: Callable[[Case], bool]


@dataclass(frozen=True)
class Verdict:
    """A goal and its worst case: None where nothing that the goal speaks of was measured."""

    goal: Goal
    value: float = float("nan")
    case: Case | None = None

    @property
    def met(self) -> bool:
        """Whether the worst case keeps the bound."""
        if self.goal.sign == "<=":
            return self.value <= self.goal.bound
        return self.value >= self.goal.bound

    def __str__(self) -> str:
        words = f"{self.goal.routine}: {self.goal.words} {self.goal.sign} {self.goal.bound:g}"
        if self.case is None:
            return f"{'?':<8}{words}; not measured"
        return f"{'met' if self.met else 'MISSED':<8}{words}; {self.value:.3f} at {self.case}"


def check(results: Sequence[Result]) -> list[Verdict]:
    """Every goal with its worst case."""
    return [_judge(goal, results) for goal in GOALS]


def _judge(goal: Goal, results: Sequence[Result]) -> Verdict:
    ours = [r for r in results if r.role == OURS and r.routine == goal.routine]
    values = [(goal.value(r, results), r.case) for r in ours if goal.applies(r.case)]
    worst = max if goal.sign == "<=" else min
    return Verdict(goal, *worst(values, key=itemgetter(0))) if values else Verdict(goal)


def _ratio_to_loops(result: Result, results: Sequence[Result]) -> float:
    return ratio(result, results, roles=[ONE_BY_ONE])


def _cosine(result: Result, results: Sequence[Result]) -> float:
    return result.cosine


def _above_jordan(result: Result, results: Sequence[Result]) -> float:
    jordan = (r for r in results if r.case == result.case and r.routine == JORDAN)
    return result.cosine - next(jordan).cosine


def _anywhere(case: Case) -> bool:
    return True


def _small(case: Case) -> bool:
    return (case.b, case.m, case.n) == (64, 64, 64)


def _square(case: Case) -> bool:
    return case.m == case.n and not _small(case)


def _rectangle(case: Case) -> bool:
    return case.m != case.n


def _real(case: Case) -> bool:
    return case.kind == "momentum"


def _reference(case: Case) -> bool:
    # The runs of other widths are so short that their matrices are harder than any later ones.
    return _real(case) and min(case.m, case.n) == 512


def _reference_square(case: Case) -> bool:
    return _reference(case) and _square(case)


def _reference_rectangle(case: Case) -> bool:
    return _reference(case) and _rectangle(case)


GOALS = (
    Goal("fast", "time over the best baseline, 1:4 rectangles", ratio, "<=", 0.60, _rectangle),
    Goal("fast", "time over the best baseline, squares", ratio, "<=", 0.65, _square),
    Goal("fast", "time over the best loop, 64 x [64, 64]", _ratio_to_loops, "<=", 0.15, _small),
    Goal("fast", "time over the best baseline, anywhere", ratio, "<=", 1.05, _anywhere),
    Goal("faithful", "time over the best baseline, anywhere", ratio, "<=", 1.00, _anywhere),
    Goal("faithful", "cosine, real [512, 2048]", _cosine, ">=", 0.99, _reference_rectangle),
    Goal("faithful", "cosine, real [512, 512]", _cosine, ">=", 0.93, _reference_square),
    Goal("fast", "cosine less Jordan's, real", _above_jordan, ">=", 0.0, _real),
)


# -- table ---------------------------------------------------------------------------------------

WIDTH = 30
HEAD = f"{'ms':>10}{'ratio':>8}{'defect':>10}{'cosine':>9}{'worst':>9}{'FLOPs':>8}{'peak':>7}"


def block(results: Sequence[Result]) -> str:
    """One case: the baselines, then ours, from fast to slow; the fastest baseline has a star."""
    ordered = sorted(results, key=lambda r: (r.role == OURS, r.milliseconds))
    lines = [_line(r, results, star=r is ordered[0]) for r in ordered]
    title = f"{ordered[0].case}; bfloat16 matmul {ordered[0].peak / 1e9:.0f} GFLOP/s"
    return "\n".join([title, f"{'':<{WIDTH}}{HEAD}", *lines])


def _line(r: Result, results: Sequence[Result], star: bool) -> str:
    name = f"  {'stiefel ' if r.role == OURS else ''}{r.routine}{' *' if star else ''}"
    share = r.flops / r.milliseconds * 1e3 / r.peak
    return (
        f"{name:<{WIDTH}}{r.milliseconds:>10.3f}{ratio(r, results):>8.2f}{r.defect:>10.2g}"
        f"{r.cosine:>9.4f}{r.worst:>9.4f}{r.flops / r.case.needed_flops:>8.1f}{share:>7.0%}"
    )


# -- the page ------------------------------------------------------------------------------------


def page(figures: Mapping[str, Any]) -> str:
    """Markdown of a saved run: real matrices in float32, and what became of the goals."""
    results = [Result(**{**row, "case": Case(**row["case"])}) for row in figures["results"]]
    shown = [r for r in results if (r.case.kind, r.case.dtype) == ("momentum", "float32")]
    machine = ", ".join(f"{key} {value}" for key, value in figures["machine"].items())
    goals = "".join(f"- {verdict}\n" for verdict in check(results))
    return f"{table(shown)}\n{figures['date'][:10]}: {machine}.\n\n{goals}"


def table(results: Sequence[Result]) -> str:
    """A row for each stack: time over the fastest baseline's, and cosine."""
    ours = list(dict.fromkeys(r.routine for r in results if r.role == OURS))
    head = ["stack", "the fastest baseline", JORDAN, *(f"`{name}`" for name in ours)]
    lines = [head, ["---", "---", *["--:"] * (len(head) - 2)]]
    for case in dict.fromkeys(r.case for r in results):
        named = {r.routine: r for r in results if r.case == case}
        best = min((r for r in named.values() if r.role != OURS), key=lambda r: r.milliseconds)
        cells = [
            f"{r.milliseconds / best.milliseconds:.2f} / {r.cosine:.3f}"
            for r in (best, *(named[name] for name in (JORDAN, *ours)))
        ]
        stack = " x ".join(map(str, (case.b, case.m, case.n)))
        lines.append([stack, f"{best.routine}: {cells[0]}", *cells[1:]])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
