"""Outlier deflation as mathematics: what H is, what it lowers, and how little it turns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.linalg import eigvalsh, matrix_norm, svdvals

from stiefel.linalg import METHODS, NewtonSchulz, polar
from stiefel.linalg.deflation import LEVELLING, _folded, deflate
from stiefel.linalg.minimax import minimax
from stiefel.linalg.products import lies_tall
from tests.linalg.spectra import cosine, orthonormal, svd_polar, with_values

SHAPES = [(16, 24), (64, 64), (40, 160)]
shapes = pytest.mark.parametrize(("m", "n"), SHAPES)


def spectrum(name: str, m: int) -> Tensor:
    """Descending singular values."""
    i = torch.arange(1, m + 1, dtype=torch.float64)
    return {
        "log": 10 ** (-4 * (i - 1) / (m - 1)),
        "1/i": 1 / i,
        "1/i^2": 1 / i**2,
        "outliers": torch.where(i <= m // 8, 300 - 100 * i / m, 1 - i / (2 * m)),
        "one outlier": torch.where(i <= 1, 100, 1 - i / (2 * m)),
        "flat": torch.ones_like(i),
        "even": 1.1 - i / m,
    }[name]


HEAVY = ["log", "1/i", "1/i^2", "outliers"]


def matrix(S: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """With these singular values, random singular vectors, and Frobenius norm 3."""
    X = with_values(S, len(S), n, generator)
    return X * (3 / matrix_norm(X))


def deflated(X: Tensor, k: int | None = None) -> Tensor:
    """In exact arithmetic, as far as float64 goes."""
    return deflate(X, k or X.shape[-2] // 8, torch.float64, exact=True)


def operator(X: Tensor, k: int | None = None) -> Tensor:
    """The H of ``deflate(X) = H X``; X has full row rank."""
    return deflated(X, k) @ torch.linalg.pinv(X, rtol=1e-15)


# -- H -------------------------------------------------------------------------------------------


@shapes
@pytest.mark.parametrize("name", [*HEAVY, "one outlier", "flat", "even"])
def test_is_a_symmetric_positive_definite_matrix_times_x(m: int, n: int, name: str) -> None:
    """The identity but for k directions, whose eigenvalues have a lower limit."""
    X = matrix(spectrum(name, m), n)
    H = operator(X)
    assert float(matrix_norm(H - H.mT) / matrix_norm(H)) < 1e-11
    torch.testing.assert_close(H @ X, deflated(X), rtol=0, atol=1e-12)
    L = eigvalsh((H + H.mT) / 2)
    low, _ = LEVELLING.band
    assert float(L.min()) > 0.7 / 256 * low * 0.99
    assert int(((L - 1).abs() > 1e-9).sum()) <= m // 8


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(2, 24),
    more=st.integers(0, 20),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**31),
    spread=st.floats(0, 5),
)
def test_turns_by_no_more_than_lis_bound(
    m: int, more: int, share: float, seed: int, spread: float
) -> None:
    """The one of the docstring; and whatever the spectrum, H is positive definite."""
    generator = torch.Generator().manual_seed(seed)
    S = 10 ** (-spread * torch.rand(m, dtype=torch.float64, generator=generator))
    X = matrix(S, m + more, generator)
    H = operator(X, 1 + int(share * (m - 1)))
    H = (H + H.mT) / 2
    assert float(eigvalsh(H).min()) > 0
    U, S, _ = torch.linalg.svd(X)
    P = (U * S) @ U.mT
    lowest = eigvalsh((H @ P + P @ H) / 2)[0]
    assume(float(lowest) > 0)
    bound = matrix_norm(H @ P - P @ H) / (svdvals(H @ P)[-1] + lowest)
    turned = matrix_norm(svd_polar(H @ X) - svd_polar(X))
    assert float(turned) <= float(bound) * (1 + 1e-6) + 1e-9


@shapes
def test_turns_a_flat_spectrum_not_at_all(m: int, n: int) -> None:
    """H is then a multiple of I on the range of Q, near 0.7, and commutes with ``X X^T``."""
    X = matrix(spectrum("flat", m), n)
    torch.testing.assert_close(svd_polar(deflated(X)), svd_polar(X), rtol=0, atol=1e-12)
    L, (low, high) = eigvalsh(operator(X)), LEVELLING.band
    assert 0.7 * low - 1e-9 < float(L[0]) and float(L[m // 8 - 1]) < 0.7 * high + 1e-9
    torch.testing.assert_close(L[m // 8 :], torch.ones_like(L[m // 8 :]), rtol=0, atol=1e-9)


@shapes
def test_turns_a_gaussian_matrix_hardly(m: int, n: int) -> None:
    X = torch.randn(m, n, dtype=torch.float64)
    assert cosine(svd_polar(deflated(X)), svd_polar(X)) > 0.999
    X = matrix(spectrum("even", m), n)
    assert cosine(svd_polar(deflated(X)), svd_polar(X)) > 0.999


def test_turns_with_the_longer_side() -> None:
    """The sketch is of the rows: a rotation of the columns changes no number of it."""
    X, right = matrix(spectrum("log", 16), 24), orthonormal(24, 24)
    torch.testing.assert_close(deflated(X @ right), deflated(X) @ right, rtol=0, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), name=st.sampled_from([*HEAVY, "even"]))
def test_turns_with_the_shorter_side_up_to_its_bias(seed: int, name: str) -> None:
    """The polar factor itself does exactly, and each side is within its own bias of it."""
    generator = torch.Generator().manual_seed(seed)
    X, left = matrix(spectrum(name, 16), 24, generator), orthonormal(16, 16, generator=generator)
    exact = svd_polar(X)
    bias = matrix_norm(svd_polar(deflated(X)) - exact)
    of_turned = matrix_norm(svd_polar(deflated(left @ X)) - left @ exact)
    method = NewtonSchulz(minimax(1e-3, 5), deflate=8, exact_deflation=True)
    with_it = polar(left @ X, method=method, steps=40) - left @ polar(X, method=method, steps=40)
    assert float(matrix_norm(with_it)) <= float(bias + of_turned) + 1e-9


# -- what comes down -----------------------------------------------------------------------------


@shapes
@pytest.mark.parametrize("name", HEAVY)
def test_outliers_come_down_and_the_rest_stays(m: int, n: int, name: str) -> None:
    """The k largest nearly to the k-th, so the spread falls by half of what it is above that."""
    k = m // 8
    X = matrix(spectrum(name, m), n)
    before, after = svdvals(X), svdvals(deflated(X))
    gain = (before[0] / before[m // 2]) / (after[0] / after[m // 2])
    assert float(gain) > 0.5 * float(before[0] / before[k - 1])
    # Interlacing: H is I on a space of codimension k, and adds nothing negative beside it.
    assert bool((after[:-k] >= before[k:] * (1 - 1e-9)).all())
    last = slice(-m // 4, None)
    torch.testing.assert_close(after[last], before[last], rtol=0.02, atol=0)


def test_levels_what_is_graded_over_thirty() -> None:
    """All k outliers come to one height, as far as the levelling polynomials go."""
    S = torch.full((64,), 1e-3, dtype=torch.float64)
    S[:8] = torch.logspace(0, -1, 8, base=24).double()
    after = svdvals(deflated(matrix(S, 96), 8))
    low, high = LEVELLING.band
    assert float(after[0] / after[7]) < high / low * 1.01


@shapes
def test_one_outlier_among_many(m: int, n: int) -> None:
    X = matrix(spectrum("one outlier", m), n)
    after = svdvals(deflated(X))
    assert float(after[0] / after[m // 2]) < 2.5


@pytest.mark.parametrize("gap", [1e4, 1e8])
def test_no_further_than_the_rounding_of_16_bits(gap: float) -> None:
    """Rows below 2**-8 of the longest may be its rounding."""
    S = torch.ones(16, dtype=torch.float64)
    S[0] = gap
    X = matrix(S, 24)
    after = svdvals(deflated(X))
    low, high = LEVELLING.band
    ratio = float(after[0] / svdvals(X)[0]) / (0.7 / 256)
    assert low * 0.99 < ratio < high * 1.01


def test_leaves_what_rounding_hides() -> None:
    """Of k directions those below 2**-9 of the first stay in X, to the last digit."""
    S = torch.full((64,), 1e-4, dtype=torch.float64)
    S[:3] = torch.tensor([1.0, 0.5, 0.01])
    X = matrix(S, 96)
    changed = (eigvalsh(operator(X, 8)) - 1).abs() > 1e-9
    assert int(changed.sum()) == 3


@pytest.mark.parametrize("k", [2, 4, 16])
def test_lowers_as_many_as_it_is_told_to_the_last_of_them(k: int) -> None:
    """With k - 1 outliers the k-th is one of the rest, with k it is an outlier."""
    for count in (k - 1, k, k + 1):
        S = torch.ones(64, dtype=torch.float64)
        S[:count] = 100
        after = svdvals(deflated(matrix(S, 96), k))
        spread = float(after[0] / after[k + 8])
        if count < k:
            assert spread < 10
        else:
            assert spread == pytest.approx(0.7 * 100 if count == k else 100, rel=0.05)


@pytest.mark.parametrize("gap", [35, 100, 200, 500])
def test_lowers_no_direction_far_below_the_rest(gap: float) -> None:
    """Of a flat rest under one outlier k - 1 directions are in Q, as short rows as are kept."""
    S = torch.ones(64, dtype=torch.float64)
    S[0] = gap
    after = svdvals(deflated(matrix(S, 96), 21))
    assert float(after[-1] / after.median()) > 0.4


# -- the count sketch ----------------------------------------------------------------------------


@pytest.mark.parametrize("tall", [False, True])
@pytest.mark.parametrize(
    ("m", "n", "rank", "sums"),
    [
        (10, 40, 1, 10),
        (10, 40, 5, 20),  # four for each direction
        (10, 39, 5, 39),
        (8, 63, 1, 9),
        (8, 67, 1, 9),
        (1, 5, 1, 5),
    ],
)
def test_every_column_is_in_one_sum(m: int, n: int, rank: int, sums: int, tall: bool) -> None:
    """With one of both signs; the j-th matrix here is zero but for its j-th column."""
    v = torch.arange(1.0, m + 1)
    X = torch.eye(n).unsqueeze(1) * v.view(1, m, 1)
    X = X.mT.contiguous().mT if tall else X.contiguous()
    folded = _folded(X, rank)
    assert folded.shape == (n, m, sums) and lies_tall(folded) == lies_tall(X)
    signs = folded[:, 0].sum(-1)
    assert set(signs.tolist()) == ({1.0, -1.0} if sums < n else {1.0})
    assert bool(((folded != 0).any(1).sum(-1) == 1).all())
    torch.testing.assert_close(folded.sum(-1), signs.unsqueeze(-1) * v, rtol=0, atol=0)


@pytest.mark.parametrize("name", HEAVY)
def test_sums_tell_the_outliers_of_a_long_matrix(name: str) -> None:
    """They come down as with the columns themselves, nearly, and the factor turns as little."""
    X = matrix(spectrum(name, 48), 48 * 8)
    whole, folded = (deflate(X, 6, torch.float64, exact=exact) for exact in (True, False))
    assert float(svdvals(folded)[0]) < 1.5 * float(svdvals(whole)[0])
    exact = svd_polar(X)
    turned = [1 - cosine(svd_polar(Y), exact) for Y in (whole, folded)]
    assert float(turned[1]) < float(turned[0]) + 0.02


@pytest.mark.parametrize("columns", [[40], [31, 40, 77], list(range(64, 96))])
def test_an_outlier_may_lie_in_any_columns(columns: list[int]) -> None:
    """An input that is always large makes one such column of a gradient."""
    X = torch.randn(32, 128, dtype=torch.float64)
    direction = torch.randn(32, 1, dtype=torch.float64)
    X[:, columns] += 100 * direction @ torch.randn(1, len(columns), dtype=torch.float64)
    before, after = svdvals(X), svdvals(deflate(X, 4, torch.float64, exact=False))
    assert float(after[0] / before[1]) < 2 < float(before[0] / before[1])


# -- what it is for ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fast", "faithful"])
@pytest.mark.parametrize("products", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("name", "margin"), [("log", 0.02), ("1/i^2", 0.2)])
@pytest.mark.parametrize(("m", "n"), [(64, 64), (64, 160)])
def test_nearer_to_the_polar_factor_at_equal_steps(
    method: str, products: torch.dtype, name: str, margin: float, m: int, n: int
) -> None:
    chosen = METHODS[method]
    assert isinstance(chosen, NewtonSchulz) and chosen.deflate
    X = torch.stack([matrix(spectrum(name, m), n) for _ in range(3)])
    with_it = polar(X.float(), method=chosen, dtype=products).double()
    without = polar(X.float(), method=replace(chosen, deflate=0), dtype=products).double()
    for ours, plain, exact in zip(with_it, without, svd_polar(X), strict=True):
        assert cosine(ours, exact) > cosine(plain, exact) + margin


def test_exact_deflation_keeps_what_outliers_would_round_away() -> None:
    """In 16 bits the entries of X lose 2**-9 of the outliers: more than the small ones have."""
    X = matrix(spectrum("1/i^2", 128), 256)
    turned = {}
    for exact in (False, True):
        Y = deflate(X.float(), 16, torch.bfloat16, exact=exact)
        assert Y.dtype == torch.bfloat16
        turned[exact] = float(matrix_norm(svd_polar(Y.double()) - svd_polar(X)))
    assert turned[True] < 0.6 * turned[False]
    ours, plain = (
        cosine(polar(X.float(), method=method).double(), svd_polar(X))
        for method in (METHODS["faithful"], replace(METHODS["faithful"], exact_deflation=False))
    )
    assert ours > plain + 0.1


# -- stacks and degenerate matrices --------------------------------------------------------------


@pytest.mark.parametrize("name", [*HEAVY, "even"])
def test_without_rounding_there_is_nothing_to_be_exact_about(name: str) -> None:
    X = matrix(spectrum(name, 24), 40)
    inexact = deflate(X, 3, torch.float64, exact=False)
    torch.testing.assert_close(inexact, deflated(X, 3), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("exact", [False, True])
def test_stacked_equals_one_at_a_time(dtype: torch.dtype, exact: bool, device: str) -> None:
    X = torch.stack([matrix(spectrum(name, 24), 40) for name in HEAVY]).to(device, dtype)
    together = deflate(X, 3, dtype, exact=exact)
    tolerance = 1e5 * torch.finfo(dtype).eps
    for single, expected in zip(X, together, strict=True):
        ours = deflate(single, 3, dtype, exact=exact)
        torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)
        assert ours.dtype == dtype and ours.device == X.device


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("exact", [False, True])
def test_degenerate_matrices(dtype: torch.dtype, exact: bool) -> None:
    """Fewer directions than are asked for: what there is comes down, and nothing blows up."""
    g = torch.randn(32, 48, dtype=torch.float64)
    cases = {
        "zero": torch.zeros_like(g),
        "rank 1": g[:, :1] @ g[:1],
        "rank 3": g[:, :3] @ g[:3],
        "repeated rows": g[:2].repeat(16, 1),
        "the same": torch.ones_like(g),
        "one entry": torch.zeros_like(g).index_fill(0, torch.tensor([5]), 0),
        "zero rows": g * (torch.arange(32) % 3 == 0).unsqueeze(-1),
    }
    cases["one entry"][5, 7] = -1
    X = torch.stack([Y / matrix_norm(Y).clamp_min(1) for Y in cases.values()])
    together = deflate(X, 8, dtype, exact=exact)
    for name, Y, of_stack in zip(cases, X, together, strict=True):
        for after in (of_stack.double(), deflate(Y, 8, dtype, exact=exact).double()):
            assert after.isfinite().all(), name
            assert float(svdvals(after)[0]) <= float(svdvals(Y)[0]) * 1.02, name
            assert (name == "zero") == (not after.any()), name


def test_input_untouched() -> None:
    for X in (torch.randn(16, 24), torch.randn(2, 16, 24)):
        before = X.clone()
        for exact in (False, True):
            Y = deflate(X, 2, torch.float32, exact=exact)
            assert torch.equal(X, before) and Y.data_ptr() != X.data_ptr()
