"""What the coefficient tables claim, recomputed; and the laws of best polynomials."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stiefel.errors import MatrixError
from stiefel.linalg import TABLES, Table, polar
from stiefel.linalg.coefficients import CUBIC, Triple
from stiefel.linalg.minimax import minimax

FROBENIUS = [name for name, table in TABLES.items() if table.normalisation == "frobenius"]
every_table = pytest.mark.parametrize("name", TABLES)
degrees = pytest.mark.parametrize("degree", [3, 5])


def compose(triples: list[Triple], s: Tensor) -> Tensor:
    for a, b, c in triples:
        s = a * s + b * s**3 + c * s**5
    return s


def grid(low: float, high: float = 1.0, points: int = 50_001) -> Tensor:
    """Both evenly spaced and evenly spaced in the logarithm."""
    even = torch.linspace(low, high, points, dtype=torch.float64)
    ratio = torch.logspace(0, 1, points, base=high / low, dtype=torch.float64)
    return torch.cat([even, low * ratio])


def error(triples: list[Triple], s: Tensor) -> float:
    return float((1 - compose(triples, s)).abs().max())


def best(floor: float, steps: int, degree: int = 5) -> list[Triple]:
    """The minimax steps of precise arithmetic."""
    return minimax(floor, steps, cushion=0.0, safety=1.0, degree=degree).triples()


# -- tables --------------------------------------------------------------------------------------


@every_table
@pytest.mark.parametrize("floor", [1e-4, 2e-3, 0.3])
def test_band_is_the_image_of_the_interval(name: str, floor: float) -> None:
    table = TABLES[name]
    s = compose(table.triples(), grid(floor) / table.headroom)
    low, high = table.band_on(floor)
    assert low == pytest.approx(float(s.min()), rel=1e-6)
    assert high == pytest.approx(float(s.max()), rel=1e-6)
    assert table.band == table.band_on(table.floor)


@settings(max_examples=100, deadline=None)
@given(
    triples=st.lists(st.tuples(*[st.sampled_from([-2.0, -0.7, 0.0, 0.4, 1.5])] * 3), max_size=3),
    low=st.floats(0.01, 0.9),
    headroom=st.floats(0.7, 1.5),
)
def test_band_of_any_polynomials(triples: list[Triple], low: float, headroom: float) -> None:
    table = Table("", len(triples), tuple(triples), headroom=headroom)
    s = compose(triples, grid(low, points=20_001) / headroom)
    scale = 1e-5 * max(1.0, float(s.abs().max()))
    assert table.band_on(low) == pytest.approx((float(s.min()), float(s.max())), abs=scale)


@pytest.mark.parametrize("name", FROBENIUS)
def test_iteration_is_the_polynomial_of_the_singular_values(name: str) -> None:
    X = torch.randn(6, 9, dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(X, full_matrices=False)
    expected = U @ torch.diag(TABLES[name].image(S / X.norm())) @ Vh
    torch.testing.assert_close(polar(X, method=name), expected, rtol=0, atol=1e-11)


@every_table
@pytest.mark.parametrize("steps", [None, 0, 1, 4, 13])
def test_image_of_numbers_and_tensors(name: str, steps: int | None) -> None:
    table = TABLES[name]
    s = torch.tensor([[0.0, 0.01, 0.4], [0.7, 0.9, 1.0]], dtype=torch.float64)
    expected = compose(table.triples(steps), s / table.headroom)
    torch.testing.assert_close(table.image(s, steps), expected, rtol=1e-10, atol=0)
    numbers = [table.image(float(x), steps) for x in s.flatten()]
    assert numbers == pytest.approx(expected.flatten().tolist(), rel=1e-10)


@every_table
def test_steps_are_head_then_tail(name: str) -> None:
    table = TABLES[name]
    assert table.triples(20)[: len(table.head)] == list(table.head)
    assert set(table.triples(20)[len(table.head) :]) == {table.tail}
    assert len(table.triples()) == table.steps


@every_table
def test_further_steps_stay_near_or_converge(name: str) -> None:
    """Jordan's triple is repeated for ever and never converges; every other table does."""
    table = TABLES[name]
    low, high = table.band_on(table.floor, table.steps + 15)
    if name == "jordan":
        assert low > 0.6 and high < 1.3
    else:
        assert (low, high) == pytest.approx((1, 1), abs=1e-9)


@pytest.mark.parametrize("name", ["cubic", "classical"])
def test_fewer_steps_would_not_do(name: str) -> None:
    table = TABLES[name]
    assert table.band[0] > 0.99 > table.band_on(table.floor, table.steps - 1)[0]


@pytest.mark.parametrize("name", ["cubic5", "cubic"])
def test_cubics_need_no_square_of_the_gram_matrix(name: str) -> None:
    assert {c for _, _, c in TABLES[name].triples(30)} == {0.0}
    assert TABLES[name].tail == CUBIC


# -- published tables are special cases ----------------------------------------------------------


def assert_same(ours: list[Triple], published: list[Triple], digits: int) -> None:
    assert len(ours) == len(published)
    for triple, reference in zip(ours, published, strict=True):
        assert triple == pytest.approx(reference, rel=0, abs=0.51 * 10**-digits)


@pytest.mark.parametrize("name", ["polar_express", "polar_express_safe"])
def test_minimax_is_the_table_in_use(name: str) -> None:
    table = TABLES[name]
    ours = minimax(1e-3, table.steps)
    assert_same(ours.triples(), table.triples(), digits=8)
    assert_same(ours.triples()[:5], table.triples()[:5], digits=12)
    assert TABLES["polar_express"].headroom == ours.headroom


def test_minimax_is_the_table_of_the_paper() -> None:
    """It has another cushion, and divides by the factor of safety after the fact."""
    ours = minimax(1e-3, 8, cushion=0.02407327424182761, safety=1.0).triples()
    for name, steps, safety in (("polar_express_8", 7, 1.01), ("polar_express_dao", 5, 1.05)):
        divided = [(a / safety, b / safety**3, c / safety**5) for a, b, c in ours[:steps]]
        assert_same(divided, TABLES[name].triples()[:steps], digits=10)
    assert_same(ours[7:], TABLES["polar_express_8"].triples()[7:], digits=12)


def test_minimax_is_the_table_of_cans() -> None:
    assert_same(best(1e-3, 5), TABLES["cans"].triples(), digits=4)


def test_minimax_is_cubic5_times_a_constant() -> None:
    """Its steps have their maxima at 1.3 instead of a range centred at 1."""
    s = grid(7e-3, points=1001)
    ratio = TABLES["cubic5"].image(s) / compose(best(7e-3, 5, degree=3), s)
    assert float(ratio.max() / ratio.min()) - 1 < 1e-5
    for triple in TABLES["cubic5"].triples():
        top = compose([triple], grid(7e-3, 1.3)).max()
        assert float(top) == pytest.approx(1.3, abs=1e-6)


# -- laws of best polynomials --------------------------------------------------------------------


def remez(low: float, high: float) -> tuple[Triple, float]:
    """The textbook: interpolate 1 -+ e at four points, move them to the extrema, repeat."""
    points = [low, (3 * low + high) / 4, (low + 3 * high) / 4, high]
    for _ in range(60):
        s = torch.tensor(points, dtype=torch.float64)
        sign = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
        system = torch.stack([s, s**3, s**5, sign], 1)
        a, b, c, e = torch.linalg.solve(system, torch.ones_like(s)).tolist()
        root = sqrt(9 * b * b - 20 * a * c)
        points[1:3] = [sqrt((-3 * b - root) / (10 * c)), sqrt((-3 * b + root) / (10 * c))]
    return (a, b, c), e


@pytest.mark.parametrize("low", [1e-7, 1e-3, 0.05, 0.4, 0.8])
def test_one_step_is_the_textbook_polynomial(low: float) -> None:
    [triple] = best(low, 1)
    expected, e = remez(low, 1.0)
    assert triple == pytest.approx(expected, rel=1e-9)
    assert error([triple], grid(low)) == pytest.approx(e, rel=1e-9)


@degrees
@settings(max_examples=50, deadline=None)
@given(exponent=st.floats(-9, -0.05))
def test_error_alternates(degree: int, exponent: float) -> None:
    """Chebyshev: best if and only if the error is reached one time more than coefficients."""
    low = 10**exponent
    [triple] = best(low, 1, degree)
    s = grid(low, points=20_001).sort().values
    residual = compose([triple], s) - 1
    e = float(residual.abs().max())
    extreme = residual[residual.abs() > e * (1 - 1e-6)].sign()
    runs = 1 + int((extreme.diff() != 0).sum())
    assert runs == (degree + 3) // 2


@degrees
@pytest.mark.parametrize(("floor", "steps"), [(1e-2, 1), (1e-2, 3), (3e-2, 3), (1e-3, 4)])
def test_no_other_coefficients_are_better(degree: int, floor: float, steps: int) -> None:
    """Jointly, though each step was chosen on its own."""
    triples = torch.tensor(best(floor, steps, degree), dtype=torch.float64)
    s = grid(floor, points=2001)
    reached = error(triples.tolist(), s)
    free = torch.tensor([1.0, 1.0, float(degree == 5)], dtype=torch.float64)
    for size in (1e-1, 1e-3, 1e-5):
        for _ in range(40):
            other = triples * (1 + size * torch.randn_like(triples) * free)
            assert error(other.tolist(), s) > reached * (1 - 1e-6)


@degrees
@pytest.mark.parametrize("floor", [1e-7, 1e-3, 0.1, 0.9])
def test_error_falls_with_every_step(degree: int, floor: float) -> None:
    errors = []
    for steps in range(1, 30):
        low, high = minimax(floor, steps, cushion=0.0, safety=1.0, degree=degree).band
        # Coefficients of size 25 carry roundings of 1e-15, which the steps magnify by 1 / floor.
        assert high - 1 == pytest.approx(1 - low, abs=5e-14 / floor + 1e-12)
        errors.append(1 - low)
    assert errors[-1] < 1e-12
    assert all(later < earlier or later < 1e-12 for earlier, later in pairwise(errors))


@pytest.mark.parametrize(
    "options", [{}, {"cushion": 0.0}, {"safety": 1.0}, {"cushion": 0.1}, {"degree": 3}]
)
@pytest.mark.parametrize(("floor", "steps"), [(1e-2, 3), (1e-2, 4), (3e-2, 3), (1e-7, 9)])
def test_band_is_reached_and_centred(floor: float, steps: int, options: dict[str, float]) -> None:
    table = minimax(floor, steps, **options)  # type: ignore[arg-type]
    s = compose(table.triples(), grid(floor) / table.headroom)
    assert table.band == pytest.approx((float(s.min()), float(s.max())), rel=1e-5)
    assert sum(table.band) == pytest.approx(2, abs=0.05)


def test_cushion_keeps_large_singular_values_up() -> None:
    """What it is for: the first step may not take a large singular value near 0."""
    large = grid(0.5)
    low = {c: compose(minimax(1e-6, 8, cushion=c).triples(1), large).min() for c in (0.0, 0.02)}
    assert low[0.0] < 1e-4 and low[0.02] > 0.1


def test_safety_survives_a_lifted_singular_value() -> None:
    lifted = 1.02
    assert abs(minimax(1e-3, 5, safety=1.0).image(lifted)) > 100
    assert minimax(1e-3, 5).image(lifted) == pytest.approx(1, abs=0.15)


@degrees
@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-8, 1e-5, 1e-3, 1e-2])
def test_becomes_the_classical_step_near_one(degree: int, gap: float) -> None:
    [triple] = best(1 - gap, 1, degree)
    assert triple == pytest.approx((15 / 8, -10 / 8, 3 / 8) if degree == 5 else CUBIC, abs=2 * gap)
    order = (degree + 1) // 2
    assert error([triple], grid(1 - gap, points=101)) < gap**order + 1e-15


@pytest.mark.parametrize("floor", [5e-324, 1e-300, 1e-100, 1e-20])
def test_smallest_floors(floor: float) -> None:
    table = minimax(floor, 600)
    assert table.band == pytest.approx((1, 1), abs=1e-9)


def test_repeats_its_last_step() -> None:
    """Which sends its own image into itself."""
    table = minimax(1e-2, 3, cushion=0.0, safety=1.0)
    low, high = table.band
    more = table.band_on(table.floor, 9)
    assert low - 1e-12 <= more[0] and more[1] <= high + 1e-12


def test_same_table_again() -> None:
    assert minimax(1e-2, 3) is minimax(steps=3, floor=1e-2, degree=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"floor": 0.0}, r"floor=0.0: give a number in \(0, 1\]"),
        ({"floor": 1.5}, "floor=1.5"),
        ({"floor": float("nan")}, "floor=nan"),
        ({"steps": 0}, "steps=0: give a number at least 1"),
        ({"cushion": 1.0}, "cushion=1.0"),
        ({"cushion": -0.1}, "cushion=-0.1"),
        ({"safety": 0.99}, "safety=0.99: give a number at least 1"),
        ({"safety": float("inf")}, "safety=inf"),
        ({"degree": 4}, r"degree=\(4, 4, 4\): give a number 3 or 5, one a step"),
        ({"degree": (5, 3)}, r"degree=\(5, 3\): give a number 3 or 5, one a step"),
    ],
)
def test_what_it_refuses(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(MatrixError, match=message):
        minimax(**({"floor": 1e-2, "steps": 3} | arguments))  # type: ignore[arg-type]
