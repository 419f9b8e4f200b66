"""Newton-Schulz steps are a polynomial of the singular values, however they are taken."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.linalg import matrix_norm, svdvals

from stiefel.linalg import METHODS, TABLES, NewtonSchulz, Table, polar
from stiefel.linalg.iteration import iterate
from stiefel.linalg.methods import newton_schulz
from stiefel.linalg.minimax import minimax

FROBENIUS = [name for name, table in TABLES.items() if table.normalisation == "frobenius"]
tables = pytest.mark.parametrize("name", FROBENIUS)
LONG, SQUARE = (6, 20), (12, 13)  # with and without work to save by runs on the Gram matrix


def spectral(X: Tensor, S: Tensor) -> Tensor:
    """X with other singular values."""
    U, _, Vh = torch.linalg.svd(X, full_matrices=False)
    return (U * S.unsqueeze(-2)) @ Vh


def splittings(count: int) -> Iterator[tuple[int, ...]]:
    """Every way to write a number as a sum of positive ones, in every order."""
    if count == 0:
        yield ()
    for first in range(1, count + 1):
        yield from ((first, *rest) for rest in splittings(count - first))


def schatten_8(X: Tensor) -> Tensor:
    return (svdvals(X) ** 8).sum(-1, keepdim=True) ** (1 / 8)


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The lengths of the runs of every call that was made."""
    seen: list[list[int]] = []

    def recording(Y: Tensor, runs: Any, *args: Any, **options: Any) -> Any:
        seen.append([len(run) for run in runs])
        return iterate(Y, runs, *args, **options)

    monkeypatch.setattr(newton_schulz, "iterate", recording)
    return seen


# -- the polynomial ------------------------------------------------------------------------------


@tables
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (3, 6, 9)])
@pytest.mark.parametrize("stacked", [False, True])
def test_rescaled_is_the_polynomial_of_the_rescaled_singular_values(
    name: str, shape: tuple[int, ...], stacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Divided by the Schatten-8 norm, and by the table's headroom; by numbers or by tensors."""
    door = importlib.import_module("stiefel.linalg.polar")  # stiefel.linalg.polar is the function
    monkeypatch.setattr(door, "stacking_pays", lambda m, n, device: stacked)
    X = torch.randn(shape, dtype=torch.float64)
    for steps in (None, 2):
        expected = spectral(X, TABLES[name].image(svdvals(X) / schatten_8(X), steps))
        ours = polar(X, method=NewtonSchulz(TABLES[name], rescale=True), steps=steps)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("headroom", [1.0, 1.5])
def test_row_balanced(headroom: float) -> None:
    """The table's headroom counts beside its own normalisation too."""
    X = torch.randn(2, 6, 9, dtype=torch.float64)
    X[:, 2] = 0
    sums = (X @ X.mT).abs().sum(-1, keepdim=True)
    Y = X / sums.sqrt().where(sums > 0, 1.0)
    table = replace(TABLES["aol"], headroom=headroom)
    expected = spectral(Y, table.image(svdvals(Y)))
    for ours, of_one in zip(polar(X, method=NewtonSchulz(table)), expected, strict=True):
        torch.testing.assert_close(ours, of_one, rtol=0, atol=1e-12)
    alone = polar(X[0], method=NewtonSchulz(table))
    torch.testing.assert_close(alone, expected[0], rtol=0, atol=1e-12)
    assert float(svdvals(Y).max()) <= 1


def test_row_balanced_ignores_the_scale_of_orthogonal_rows() -> None:
    """Which is what it is for: a diagonal is sent to its signs at once."""
    X = torch.diag(torch.tensor([1.0, -1e-3, 1e3])).double()
    signs = TABLES["aol"].image(1.0) * torch.diag(torch.tensor([1.0, -1.0, 1.0])).double()
    torch.testing.assert_close(polar(X, method="aol"), signs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("deflate", [0, 8])
@pytest.mark.parametrize("shape", [(9, 30), (2, 9, 30)])
def test_every_splitting_into_runs_gives_the_same(
    rescale: bool, deflate: int, shape: tuple[int, ...], lengths: list[list[int]]
) -> None:
    X = torch.randn(shape, dtype=torch.float64)
    method = NewtonSchulz(minimax(1e-2, 4), rescale=rescale, deflate=deflate)
    one_by_one, info = polar(X, method=method, return_info=True)
    for runs in splittings(4):
        ours, of_runs = polar(X, method=replace(method, gram_runs=runs), return_info=True)
        torch.testing.assert_close(ours, one_by_one, rtol=0, atol=1e-11)
        torch.testing.assert_close(of_runs.defect, info.defect, rtol=0, atol=1e-10)
        assert lengths[-1] == list(runs)


@pytest.mark.parametrize(
    ("m", "n", "deflate", "oversample", "rank"),
    [
        (64, 64, 8, 0, 8),
        (64, 256, 8, 0, 16),
        (512, 512, 16, 32, 64),
        (768, 3072, 16, 32, 128),
        (48, 48, 16, 32, 16),  # no more than a third
        (2, 9, 16, 32, 0),
        (64, 64, 0, 32, 0),
    ],
)
def test_how_many_are_deflated(
    m: int, n: int, deflate: int, oversample: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks: list[int] = []

    def told(X: Tensor, rank: int, dtype: torch.dtype, *, exact: bool) -> Tensor:
        ranks.append(rank)
        return X.to(dtype)

    monkeypatch.setattr(newton_schulz, "deflate", told)
    polar(
        torch.randn(m, n),
        method=NewtonSchulz(TABLES["jordan"], deflate=deflate, oversample=oversample),
    )
    assert ranks == [rank] * (rank > 0)


@pytest.mark.parametrize("method", ["fast", "faithful"])
@pytest.mark.parametrize("shape", [(24, 32), (2, 24, 32), (384, 512)])
def test_a_power_of_two_changes_no_bit(method: str, shape: tuple[int, ...]) -> None:
    """Stacked or alone, down to where no number of the sketch or of the steps is subnormal."""
    X = torch.randn(shape)
    expected = polar(X, method=method)
    for exponent in (-21, -15, -12, -5, 5, 9):
        assert torch.equal(polar(X * 2.0**exponent, method=method), expected)


@pytest.mark.parametrize("shape", [(8, 8), (2, 5, 8), (9, 8), (20, 8)])
def test_small_matrices_get_a_table_of_their_own(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose steps are all that is done, unless a number of steps is asked for."""
    monkeypatch.setattr(newton_schulz, "ROWS", 8)
    X = torch.randn(shape, dtype=torch.float64)
    method = replace(METHODS["faithful"], small=TABLES["jordan"])
    P, info = polar(X, method=method, return_info=True)
    assert torch.equal(P, polar(X, method="jordan"))
    assert (info.method, info.steps) == (METHODS["jordan"], 5)
    for steps in (3, 4):  # also faithful's own
        P, info = polar(X, method=method, steps=steps, return_info=True)
        assert torch.equal(P, polar(X, method="faithful", steps=steps))
        assert (info.method, info.steps) == (method, steps)


@pytest.mark.parametrize("shape", [(9, 9), (2, 9, 20), (20, 9)])
def test_a_row_more_is_not_small(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton_schulz, "ROWS", 8)
    X = torch.randn(shape, dtype=torch.float64)
    method = replace(METHODS["faithful"], small=TABLES["jordan"])
    P, info = polar(X, method=method, return_info=True)
    assert torch.equal(P, polar(X, method="faithful"))
    assert (info.method, info.steps) == (method, 4)


@pytest.mark.parametrize("name", ["cubic5", "gram"])
def test_runs_of_any_degree(name: str) -> None:
    """Without a square of the Gram matrix as well as with."""
    X = torch.randn(6, 20, dtype=torch.float64)
    table = METHODS[name].table  # type: ignore[union-attr]
    expected = spectral(X, table.image(svdvals(X) / X.norm()))
    ours = polar(X, method=NewtonSchulz(table, gram_runs=(2, 3)))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)


def test_runs_where_they_save_work(lengths: list[list[int]]) -> None:
    """Where X is long, and for the number of steps that they are meant for."""
    for shape, steps, expected in (
        (LONG, None, [2, 3]),
        (LONG[::-1], 5, [2, 3]),
        ((2, *LONG), None, [2, 3]),
        (LONG, 4, [1] * 4),
        (LONG, 6, [1] * 6),
        (SQUARE, None, [1] * 5),
        (SQUARE[::-1], None, [1] * 5),
    ):
        polar(torch.randn(shape), method="gram", steps=steps)
        assert lengths[-1] == expected, (shape, steps)


# -- rounding and bounds -------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 24),
    rank=st.integers(1, 24),
    spread=st.floats(0, 6),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_no_singular_value_beyond_the_interval(
    m: int, rank: int, spread: float, seed: int, dtype: torch.dtype
) -> None:
    """The Schatten-8 norm is a bound, nearly reached by rank 1, and headroom is for rounding.

    Beyond 1.07 of its interval this table gives more than 2.
    """
    generator = torch.Generator().manual_seed(seed)
    S = 10 ** (-spread * torch.rand(min(m, rank), generator=generator))
    U, V = (torch.linalg.qr(torch.randn(k, len(S), generator=generator))[0] for k in (m, 30))
    method = NewtonSchulz(minimax(1e-3, 5), rescale=True)
    P = polar((U * S) @ V.mT, method=method, dtype=dtype)
    _, high = method.table.band
    assert float(matrix_norm(P, 2)) <= high + 4 * torch.finfo(torch.bfloat16).eps
    assert high < 1.2 and abs(method.table.image(1.07 * 1.02)) > 2


def test_every_value_starts_higher_than_from_the_frobenius_norm() -> None:
    X = torch.randn(32, 32, dtype=torch.float64)
    table = Table("one step that changes nothing", steps=1, head=((1.0, 0.0, 0.0),))
    frobenius, schatten = (
        svdvals(polar(X, method=NewtonSchulz(table, rescale=rescale))) for rescale in (False, True)
    )
    torch.testing.assert_close(frobenius, svdvals(X / X.norm()), rtol=1e-12, atol=0)
    ratio = schatten / frobenius
    assert float(ratio.min()) > 2 and float(schatten.max()) <= 1


def test_long_runs_lose_what_a_lifted_spectrum_has_not() -> None:
    """The Gram matrix has squares, which reach half as low into the rounding of 16 bits."""
    S = torch.logspace(0, -3, 6, dtype=torch.float64)
    X = spectral(torch.randn(6, 20, dtype=torch.float64), S)
    exact = spectral(X, torch.ones_like(S))
    errors = [
        float((polar(X.float(), method=replace(METHODS["gram"], gram_runs=runs)) - exact).norm())
        for runs in ((1, 1, 1, 1, 1), (5,))
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("noise", [1e-3, 1e-2, 1e-1])
@pytest.mark.parametrize("m", [2, 3, 6])
def test_no_run_goes_to_infinity(m: int, noise: float) -> None:
    """From an eigenvalue that rounding in bfloat16 made negative, as it does of such matrices."""
    outlier = torch.randn(400, m, 1).sign() @ torch.randn(400, 1, 8 * m + 1).sign()
    P = polar(outlier + noise * torch.randn_like(outlier), method="gram")
    assert float(matrix_norm(P, 2).max()) < 2.5


@tables
def test_a_tables_further_steps_come_after_its_own(name: str) -> None:
    """Classical steps lead on to the polar factor wherever the table got near."""
    if name == "jordan":
        return
    X = spectral(torch.randn(6, 9).double(), torch.linspace(1, 2, 6).double())
    exact = spectral(X, torch.ones(6).double())
    steps = TABLES[name].steps
    for rescale in (False, True):
        method = NewtonSchulz(TABLES[name], rescale=rescale)
        errors = [
            float((polar(X, method=method, steps=steps + more) - exact).norm()) for more in range(5)
        ]
        assert all(after < before or after < 1e-8 for before, after in pairwise(errors))


def test_is_data() -> None:
    """Frozen, comparable, usable as a key: a recipe's fingerprint rests on it."""
    method = METHODS["faithful"]
    assert replace(method) == method and hash(replace(method)) == hash(method)
    with pytest.raises(AttributeError):
        method.table = TABLES["jordan"]  # type: ignore[misc, union-attr]
