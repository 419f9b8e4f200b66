"""The polar factor to a tolerance: reached or refused, whatever the spectrum and what it costs."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stiefel.errors import MatrixError
from stiefel.linalg import METHODS, NewtonSchulz, PolarInfo, polar, tolerance
from stiefel.linalg.methods import GramEigh, Svd
from stiefel.linalg.tolerance import measured_defect, reachable
from tests.linalg.spectra import svd_polar, true_defect, with_values

# What each dtype is asked for, down to the least it can do.
TOLERANCES = {
    torch.float64: (0.3, 1e-2, 1e-4, 1e-8, 1e-12, 16 * 2.0**-52),
    torch.float32: (0.3, 0.1, 1e-2, 1e-4, 1e-5, 16 * 2.0**-23),
    torch.bfloat16: (0.5, 0.3, 0.125),
    torch.float16: (0.3, 0.1, 16 * 2.0**-10),
}
asked = pytest.mark.parametrize(
    ("dtype", "tol"), [(dtype, tol) for dtype, tols in TOLERANCES.items() for tol in tols]
)


def spectra(m: int, n: int, kappa: float) -> Tensor:
    """Easy and hard ones, down to sigma_1 / kappa."""
    k = min(m, n)
    log = torch.logspace(0, -1, k, base=kappa, dtype=torch.float64)
    outlier = torch.full((k,), kappa**-0.5, dtype=torch.float64)
    outlier[0] = 1
    gaussian = torch.randn(m, n, dtype=torch.float64)
    flat = torch.ones(k, dtype=torch.float64)
    return torch.stack([gaussian, *(with_values(S, m, n) for S in (log, outlier, flat))])


def solved(X: Tensor, tol: float, **options: Any) -> tuple[Tensor, PolarInfo]:
    return polar(X, tol=tol, return_info=True, **options)


@pytest.fixture
def rounds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tolerance, "decomposition_cost", lambda *args: 1e30)


@pytest.fixture
def decomposition_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tolerance, "decomposition_cost", lambda *args: -1.0)


# -- reached -------------------------------------------------------------------------------------


@asked
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (12, 12), (30, 80), (80, 30)])
def test_the_defect_is_within(
    dtype: torch.dtype, tol: float, shape: tuple[int, int], device: str
) -> None:
    """In a stack of easy and hard ones, and of each alone."""
    kappa = {torch.float64: 1e10, torch.float32: 1e4}.get(dtype, 10)
    X = spectra(*shape, kappa).to(device, dtype)
    for Y in (X, *X):
        P, info = solved(Y, tol)
        assert P.dtype == dtype and P.shape == Y.shape and P.device == Y.device
        assert float(true_defect(P).max()) <= tol and float(info.defect.max()) <= tol
        assert info.defect.shape == Y.shape[:-2] and info.defect.dtype == dtype


@pytest.mark.parametrize("way", ["rounds_only", "decomposition_only"])
@asked
def test_the_defect_is_within_on_either_way(
    way: str, dtype: torch.dtype, tol: float, request: pytest.FixtureRequest
) -> None:
    """A decomposition of the Gram matrix loses digits to the squares, and must win them back."""
    request.getfixturevalue(way)
    kappa = {torch.float64: 1e10, torch.float32: 1e6}.get(dtype, 10)
    X = spectra(20, 30, kappa).to(dtype)
    P, info = solved(X, tol)
    assert isinstance(info.method, NewtonSchulz) == (way == "rounds_only")
    assert (info.steps > 0) == (way == "rounds_only")
    assert float(true_defect(P).max()) <= tol and float(info.defect.max()) <= tol


@pytest.mark.parametrize("tol", [0.1, 1e-2, 1e-4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_defect_is_told(tol: float, dtype: torch.dtype) -> None:
    for X in (spectra(20, 30, 1e3).to(dtype), spectra(64, 64, 1e3).to(dtype)):
        P, info = solved(X, tol)
        torch.testing.assert_close(info.defect.double(), true_defect(P), rtol=0.05, atol=1e-6)


@pytest.mark.parametrize("way", ["rounds_only", "decomposition_only"])
@pytest.mark.parametrize("tol", [1e-2, 1e-5])
def test_it_is_the_polar_factor(way: str, tol: float, request: pytest.FixtureRequest) -> None:
    """Not any orthonormal matrix: as far from it as the singular values are from 1."""
    request.getfixturevalue(way)
    for shape in [(12, 30), (30, 12), (20, 20)]:
        X = spectra(*shape, 100).float()
        distance = torch.linalg.matrix_norm(solved(X, tol)[0] - svd_polar(X))
        assert float(distance.max()) <= (tol + 2e-5) * min(shape) ** 0.5


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 16),
    n=st.integers(1, 24),
    decades=st.floats(0, 5),
    digits=st.floats(0.3, 5.6),
    seed=st.integers(0, 2**31),
)
def test_any_spectrum_and_tolerance(
    m: int, n: int, decades: float, digits: float, seed: int
) -> None:
    torch.manual_seed(seed)
    S = 10 ** (-decades * torch.rand(min(m, n), dtype=torch.float64))
    X, tol = with_values(S, m, n).float(), 10**-digits
    P, info = solved(X, tol)
    assert float(true_defect(P)) <= tol and float(info.defect) <= tol


def test_shapes_and_scales() -> None:
    """As polar: any leading dimensions, no bit of the scale, transposes."""
    X = spectra(12, 30, 1e3).float().reshape(2, 2, 12, 30)
    P, info = solved(X, 1e-3)
    assert P.shape == X.shape and info.defect.shape == (2, 2)
    for factor in (2.0**-100, 2.0**100):
        assert torch.equal(polar(X * factor, tol=1e-3), P)
    assert torch.equal(polar(X.mT, tol=1e-3), P.mT)
    for shape in [(0, 3, 4), (2, 0, 4), (2, 4, 0)]:
        P, info = solved(torch.empty(shape), 1e-3)
        assert P.shape == shape and info.defect.shape == shape[:1]


# -- precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "tol", "products", "expected"),
    [
        (torch.float32, 0.3, None, torch.bfloat16),
        (torch.float32, 0.125, None, torch.bfloat16),
        (torch.float32, 0.124, None, torch.float32),
        (torch.float64, 0.3, None, torch.bfloat16),
        (torch.float64, 0.1, None, torch.float64),
        (torch.float16, 0.1, None, torch.float32),
        (torch.float32, 0.3, torch.float64, torch.float64),
        (torch.float32, 0.1, torch.float16, torch.float16),
    ],
)
def test_the_narrowest_products_that_reach_it(
    dtype: torch.dtype, tol: float, products: torch.dtype | None, expected: torch.dtype
) -> None:
    P, info = solved(spectra(12, 12, 10).to(dtype), tol, dtype=products)
    assert info.dtype == expected and float(true_defect(P).max()) <= tol


@pytest.mark.parametrize(
    ("dtype", "products", "expected"),
    [
        (torch.float32, None, torch.float32),
        (torch.bfloat16, None, torch.float32),
        (torch.float64, None, torch.float64),
        (torch.float64, torch.bfloat16, torch.float64),
        (torch.float32, torch.float64, torch.float64),
    ],
)
def test_the_precision_of_a_decomposition_is_told(
    dtype: torch.dtype,
    products: torch.dtype | None,
    expected: torch.dtype,
    decomposition_only: None,
) -> None:
    """Which is taken where bfloat16 was enough for rounds."""
    _, info = solved(spectra(12, 12, 10).to(dtype), 0.3, dtype=products)
    assert info.steps == 0 and info.dtype == expected
    assert info.method == (Svd() if expected == torch.float64 else GramEigh())


@pytest.mark.parametrize(
    ("dtype", "tol", "products"),
    [
        (torch.bfloat16, 1e-3, None),
        (torch.bfloat16, 1e-3, torch.float64),
        (torch.float16, 1e-3, None),
        (torch.float32, 1e-9, None),
        (torch.float32, 1e-9, torch.float64),
        (torch.float32, 1e-3, torch.bfloat16),
        (torch.float64, 1e-3, torch.float16),
        (torch.float64, 1e-9, torch.float32),
        (torch.float64, 1e-16, None),
    ],
)
def test_out_of_reach_is_refused_with_what_can_be_reached(
    dtype: torch.dtype, tol: float, products: torch.dtype | None
) -> None:
    X = spectra(6, 9, 10).to(dtype)
    with pytest.raises(MatrixError, match=f"tol={tol:g} cannot be reached.*{dtype}") as refusal:
        polar(X, tol=tol, dtype=products)
    least = float(re.search("the least is ([^;]+);", str(refusal.value))[1])  # type: ignore[index]
    assert least == max(reachable(dtype), reachable(products or torch.float64) if products else 0)
    P, info = solved(X, least, dtype=products)
    assert float(info.defect.max()) <= least
    if dtype.itemsize > 2:
        assert float(true_defect(P).max()) <= least
    with pytest.raises(MatrixError, match="cannot be reached"):
        polar(X, tol=least * 0.999, dtype=products)


def test_a_tolerance_needs_numbers() -> None:
    with pytest.raises(MatrixError, match="tol=0.1 looks at numbers.*meta"):
        polar(torch.empty(3, 4, device="meta"), tol=0.1)


@pytest.mark.parametrize("tol", [0, 0.0, -1e-3, float("nan"), -float("inf")])
def test_a_tolerance_is_positive(tol: float) -> None:
    with pytest.raises(MatrixError, match=f"tol={tol!r}: give a positive number"):
        polar(torch.eye(3), tol=tol)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "jordan"},
        {"method": "exact"},
        {"method": METHODS["faithful"]},
        {"steps": 5},
        {"side": "left"},
    ],
)
def test_what_it_finds_itself_is_not_given(options: dict[str, Any]) -> None:
    with pytest.raises(MatrixError, match="tol=0.1 finds method, steps and side"):
        polar(torch.eye(3), tol=0.1, **options)


# -- rounds or decomposition ---------------------------------------------------------------------


def test_harder_takes_more_steps(rounds_only: None) -> None:
    taken = []
    for kappa in (1, 1e3, 1e7, 1e11):
        X = with_values(torch.logspace(0, -1, 12, base=kappa).double(), 12, 20)
        P, info = solved(X, 1e-10)
        assert float(true_defect(P)) <= 1e-10
        taken.append(info.steps)
    assert taken == sorted(taken) and len(set(taken)) == 4
    # A round of four lifts a hundredfold, and a few classical steps follow in the end.
    assert taken[-1] <= 4 * 7 + 8


@pytest.mark.parametrize("kappa", [1.0, 1e4, 1e9])
def test_rounds_are_polynomials_of_the_singular_values(kappa: float, rounds_only: None) -> None:
    """The first divided by the Schatten-8 norm, the others by headroom alone; then classical."""
    X = with_values(torch.logspace(0, -1, 12, base=kappa).double(), 12, 20)
    U, S, Vh = torch.linalg.svd(X, full_matrices=False)
    S, rounds = S / (S**8).sum() ** (1 / 8), 0
    while float((S**2 - 1).norm()) > 0.1 * 12**0.5:
        S, rounds = tolerance.ROUND.image(S), rounds + 1
    P, info = solved(X, 0.3, dtype=torch.float64)
    assert info.steps == 4 * rounds + 1
    S = (15 * S - 10 * S**3 + 3 * S**5) / 8
    torch.testing.assert_close(P, (U * S) @ Vh, rtol=0, atol=1e-6 if kappa > 1e6 else 1e-10)


def test_one_direction_of_many_is_not_overlooked(rounds_only: None) -> None:
    """Of 128 rows a single one that is not lifted is within the 0.1 of a round done."""
    S = torch.ones(2, 128, dtype=torch.float64)
    S[1, -1] = 1e-5
    X = torch.stack([with_values(values, 128, 130) for values in S])
    P, info = solved(X, 1e-3)
    assert float(true_defect(P).max()) <= 1e-3 and float(info.defect.max()) <= 1e-3


def test_a_tighter_tolerance_takes_more_steps(rounds_only: None) -> None:
    X = with_values(torch.linspace(1, 2, 12).double(), 12, 20)
    taken = [solved(X, tol)[1].steps for tol in (0.3, 1e-2, 1e-6, 1e-12)]
    assert taken == sorted(taken) and taken[0] < taken[-1]


@pytest.mark.parametrize(("dtype", "method"), [(torch.float64, Svd()), (torch.float32, GramEigh())])
@pytest.mark.parametrize("budget", [0.0, 7.0, 25.0])
def test_rounds_cost_no_more_than_the_decomposition_before_it_is_taken(
    dtype: torch.dtype, method: Svd | GramEigh, budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in steps, one round more at most."""
    taken = 0
    steps = tolerance.iterate

    def counting(Y: Tensor, runs: Any, **options: Any) -> Any:
        nonlocal taken
        taken += len(runs)
        return steps(Y, runs, **options)

    monkeypatch.setattr(tolerance, "iterate", counting)
    monkeypatch.setattr(tolerance, "step_cost", lambda *args: 1.0)
    monkeypatch.setattr(tolerance, "decomposition_cost", lambda *args: budget)
    X = with_values(torch.ones(12).double(), 12, 20).to(dtype)
    X[3] = 0  # nothing lifts it
    P, info = solved(X, 1e-5)
    assert info.method == method and info.steps == 0
    most = {torch.float32: 4, torch.float64: 8}[dtype]  # rounds that lift above rounding
    assert taken == 1 + 4 * min(int(budget // 4) + 1, most)
    assert float(info.defect) == pytest.approx((1 / 12) ** 0.5, abs=1e-6)
    torch.testing.assert_close(
        P.double(), svd_polar(X) * X.any(-1, keepdim=True), rtol=0, atol=1e-5
    )


def test_the_machine_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs are asked for the matrix at hand."""
    asked_for = []

    def cost(m: int, n: int, *rest: Any) -> float:
        asked_for.append((m, n, *rest))
        return 1.0

    monkeypatch.setattr(tolerance, "step_cost", cost)
    X = spectra(30, 12, 10).float()
    solved(X, 0.3)
    assert set(asked_for) == {(12, 30, torch.bfloat16, X.device)}


@pytest.mark.parametrize("way", ["rounds_only", "decomposition_only"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_null_space_for_ever(
    way: str, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    """A singular matrix among others: an end, the truth, and the others within."""
    request.getfixturevalue(way)
    X = spectra(12, 20, 10).to(dtype)
    X[1, ::4] = 0
    P, info = solved(X, 1e-5)
    assert float(info.defect[1]) == pytest.approx(0.5, abs=1e-5)
    assert float(P[1, ::4].abs().max()) < 1e-6
    assert float(true_defect(P[[0, 2, 3]]).max()) <= 1e-5
    _, alone = solved(X[1], 1e-5)
    assert float(alone.defect) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("tall", [False, True])
@pytest.mark.parametrize("tol", [0.2, 1e-3])
def test_zero_and_poisoned_matrices_keep_to_themselves(tol: float, tall: bool) -> None:
    """Nothing lifts them, which must not send the others to a decomposition."""
    X = spectra(12, 20, 1e2).float()
    X = X.mT.contiguous() if tall else X
    _, info = solved(X, tol)
    assert isinstance(info.method, NewtonSchulz)
    X[1] = 0
    clean, of_clean = solved(X, tol)
    assert isinstance(of_clean.method, NewtonSchulz) and not clean[1].any()
    assert float(of_clean.defect[1]) == 1
    for bad in (float("nan"), float("inf")):
        X[1, 2, 3] = bad
        P, info = solved(X, tol)
        others = [0, 2, 3]
        assert torch.equal(P[others], clean[others]) and P[1].isnan().all()
        assert torch.equal(info.defect[others], of_clean.defect[others])
        assert info.defect[1].isnan() and polar(X[1], tol=tol).isnan().all()
    assert not polar(torch.zeros(3, 4), tol=tol).any()


@pytest.mark.parametrize("tol", [0.3, 1e-2, 1e-3, 1e-5, 1e-8, 1e-12])
def test_nearly_orthonormal_is_done_in_one_round(tol: float, rounds_only: None) -> None:
    """Of four steps, and as many classical ones as bring its band within the tolerance."""
    P, info = solved(with_values(torch.linspace(1, 2, 12).double(), 12, 20), tol)
    assert 4 < info.steps <= 4 + 3 and float(true_defect(P)) <= tol
    X = with_values(torch.ones(12).double(), 12, 20)
    torch.testing.assert_close(polar(X, tol=1e-12), X, rtol=0, atol=1e-12)


@pytest.mark.parametrize("way", ["rounds_only", "decomposition_only"])
def test_derivative(way: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(way)
    X = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda X: polar(X, tol=1e-11), X)


# -- the measure ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", [(2, 5, 9), (2, 9, 5), (3, 4, 4), (1, 1, 1)])
def test_measured_defect(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    U = torch.randn(shape, dtype=torch.float64).to(dtype)
    ours = measured_defect(U)
    assert ours.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(ours.double(), true_defect(U), rtol=1e-5, atol=0)


def test_measured_defect_of_nothing() -> None:
    assert torch.equal(measured_defect(torch.empty(2, 0, 3)), torch.zeros(2))
    assert torch.equal(measured_defect(torch.zeros(2, 3, 4)), torch.ones(2))
