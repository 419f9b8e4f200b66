"""What `polar` promises of every method, on easy, hard and degenerate input."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode

from stiefel.errors import MatrixError, RecipeError
from stiefel.linalg import METHODS, TABLES, NewtonSchulz, PolarInfo, Qdwh, polar
from tests.linalg.spectra import cosine, orthonormal, svd_polar, true_defect, with_values

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (1, 7), (7, 1), (5, 5), (4, 9), (9, 4), (3, 4, 9), (2, 3, 9, 4)]
ITERATED = [name for name, method in METHODS.items() if isinstance(method, NewtonSchulz)]
EXACT = [name for name in METHODS if name not in ITERATED]
# What a method does to a matrix depends on its singular values alone: no sketch, no row sums.
SPECTRAL = [
    name
    for name in METHODS
    if name in EXACT or (METHODS[name].deflate == 0 and name != "aol")  # type: ignore[union-attr]
]
methods = pytest.mark.parametrize("method", METHODS)
exact_methods = pytest.mark.parametrize("method", EXACT)
dtypes = pytest.mark.parametrize("dtype", DTYPES)
# Enough rows for two directions to be deflated.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "single": lambda X: X[0],
    "tall": lambda X: X[0].mT.contiguous(),
    "stack": lambda X: X,
    "tall stack": lambda X: X.mT.contiguous(),
}
layouts = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.fixture(params=["as one", "one by one"])
def stacks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to handle a stack, whatever pays on this machine."""
    door = importlib.import_module("stiefel.linalg.polar")  # stiefel.linalg.polar is the function
    monkeypatch.setattr(door, "stacking_pays", lambda m, n, device: request.param == "as one")


def mild(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Condition number 3: every method sends every singular value into its band."""
    count = torch.Size(shape[:-2]).numel()
    S = torch.linspace(1, 3, min(shape[-2:]), dtype=torch.float64)
    matrices = [with_values(S, shape[-2], shape[-1]) for _ in range(count)]
    return torch.stack(matrices).reshape(shape).to(dtype)


def between(low: float, high: float, *shape: int) -> Tensor:
    """Random signs and magnitudes; in every dtype exactly, so that powers of two round nothing."""
    size = torch.empty(shape, dtype=torch.float64).uniform_(low, high).bfloat16().half().double()
    return size * torch.randn(shape, dtype=torch.float64).sign()


# -- the answer ----------------------------------------------------------------------------------


@exact_methods
@dtypes
def test_exact_is_the_svd(method: str, dtype: torch.dtype, device: str) -> None:
    tolerance = max(torch.finfo(dtype).eps, 100 * torch.finfo(torch.float32).eps)
    tolerance = 1e-13 if dtype == torch.float64 else tolerance
    for shape in SHAPES:
        X = mild(*shape).to(device, dtype)
        ours = polar(X, method=method)
        assert ours.dtype == dtype and ours.shape == X.shape and ours.device == X.device
        torch.testing.assert_close(ours.double(), svd_polar(X), rtol=0, atol=tolerance)


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 12),
    n=st.integers(1, 12),
    b=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    scale=st.floats(-30, 30),
)
def test_polar_decomposition(m: int, n: int, b: int, seed: int, scale: float) -> None:
    """X = P |X| with |X| = P^T X symmetric positive: what makes P the polar factor."""
    X = torch.randn(b, m, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    X = X * 10**scale
    P = polar(X, method="exact")
    H = P.mT @ X if m >= n else X @ P.mT
    unit = X.norm()
    assert float((H - H.mT).norm() / unit) < 1e-10
    assert float(torch.linalg.eigvalsh(H).min() / unit) > -1e-10
    assert float(((P @ H if m >= n else H @ P) - X).norm() / unit) < 1e-10


@pytest.mark.parametrize("method", ["exact", "qdwh", "zolo"])
@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (25, 25)])
def test_condition_number_1e12(method: str, shape: tuple[int, int]) -> None:
    U, V = orthonormal(shape[0], 20), orthonormal(shape[1], 20)
    X = (U * torch.logspace(6, -6, 20, dtype=torch.float64)) @ V.mT
    P, info = polar(X, method=method, return_info=True)
    if min(shape) == 20:  # else there are directions of rounding noise beside the twenty
        assert float(info.defect) < 1e-14
    # Rounding moves the last direction by eps kappa, and the others by less.
    moved = (U.mT @ P @ V - torch.eye(20)).norm(dim=0)
    assert float(moved[:10].max()) < 1e-8 and float(moved.max()) < 1e-3


@pytest.mark.parametrize("method", ITERATED)
def test_singular_values_in_band(method: str, device: str) -> None:
    """In the default precision for float32 input, bfloat16 where the table survives it."""
    chosen = METHODS[method]
    assert isinstance(chosen, NewtonSchulz)
    low, high = chosen.table.band
    # A Gram matrix in 16 bits on its own, and a sketch, round more often.
    rounding = torch.finfo(torch.bfloat16).eps * (8 if chosen.gram_runs else 3)
    for shape in [*SHAPES, (9, 20), (40, 64)]:
        S = torch.linalg.svdvals(polar(mild(*shape).float().to(device), method=method).double())
        assert low - rounding <= float(S.min()) and float(S.max()) <= high + rounding, shape


@pytest.mark.parametrize("method", SPECTRAL)
def test_turns_with_its_argument(method: str) -> None:
    X, left, right = torch.randn(5, 8).double(), orthonormal(5, 5), orthonormal(8, 8)
    turned = polar(left @ X @ right, method=method)
    torch.testing.assert_close(turned, left @ polar(X, method=method) @ right, rtol=0, atol=1e-11)


@methods
def test_turns_with_its_longer_side(method: str) -> None:
    """Even where a sketch or row sums are taken of the shorter one."""
    X, right = mild(16, 24), orthonormal(24, 24)
    torch.testing.assert_close(
        polar(X @ right, method=method), polar(X, method=method) @ right, rtol=0, atol=1e-11
    )


@methods
def test_transpose(method: str) -> None:
    X = torch.randn(3, 9, 14)
    assert torch.equal(polar(X.mT, method=method), polar(X, method=method).mT)
    if method in SPECTRAL:
        X = mild(9, 9)
        ours = polar(X.mT, method=method)
        torch.testing.assert_close(ours, polar(X, method=method).mT, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", SPECTRAL)
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (7, 7)])
def test_either_side(method: str, shape: tuple[int, int]) -> None:
    X = mild(*shape)
    left, of_left = polar(X, method=method, side="left", return_info=True)
    right, of_right = polar(X, method=method, side="right", return_info=True)
    torch.testing.assert_close(left, right, rtol=0, atol=1e-11)
    for info in (of_left, of_right):
        torch.testing.assert_close(info.defect, true_defect(left), rtol=0, atol=1e-11)


def test_side_is_the_one_iterated_with() -> None:
    """Row sums belong to rows: a diagonal times rows of ones shows which side was balanced."""
    X = torch.diag(torch.tensor([1.0, 2.0, 4.0, 8.0]).double()) @ mild(4, 4)
    left, right = (polar(X, method="aol", side=side) for side in ("left", "right"))
    torch.testing.assert_close(left, polar(X.mT, method="aol", side="right").mT, rtol=0, atol=1e-13)
    torch.testing.assert_close(left, polar(X, method="aol"), rtol=0, atol=1e-13)
    assert float((left - right).abs().max()) > 1e-3


@pytest.mark.parametrize("steps", [1, 3, 9])
def test_number_of_steps(steps: int) -> None:
    X = torch.randn(6, 9, dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(X, full_matrices=False)
    expected = (U * TABLES["polar_express"].image(S / X.norm(), steps)) @ Vh
    ours, info = polar(X, method="polar_express", steps=steps, return_info=True)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)
    assert info.steps == steps


def test_further_steps_converge() -> None:
    X = mild(16, 24)
    torch.testing.assert_close(
        polar(X, method="polar_express", steps=12), svd_polar(X), rtol=0, atol=1e-12
    )


def test_auto_is_faithful() -> None:
    X = torch.randn(16, 24)
    assert torch.equal(polar(X), polar(X, method="faithful"))
    assert torch.equal(polar(X), polar(X, method=METHODS["faithful"]))


# -- degenerate matrices -------------------------------------------------------------------------


@methods
@pytest.mark.parametrize("rank", [1, 3])
def test_rank_deficient(method: str, rank: int) -> None:
    """The range is that of X; in the null space only qdwh and zolo put anything (see there)."""
    U, V = orthonormal(20, rank), orthonormal(12, rank)
    P = polar(U @ V.mT * 3, method=method)
    S = torch.linalg.svdvals(P)
    assert float(S.max()) < 1.4
    inside = U.mT @ P @ V
    if method in EXACT:
        torch.testing.assert_close(inside, torch.eye(rank).double(), rtol=0, atol=1e-12)
    if method not in ("qdwh", "zolo", "aol"):
        torch.testing.assert_close(P, U @ inside @ V.mT, rtol=0, atol=1e-9)


@exact_methods
def test_rank_deficient_with_noise(method: str) -> None:
    """Noise above the rounding counts: the factor of the noise is the factor within it."""
    X = with_values(torch.tensor([3.0, 2.0, 1.0]).double(), 12, 20) + 1e-5 * torch.randn(12, 20)
    torch.testing.assert_close(polar(X, method=method), svd_polar(X), rtol=0, atol=1e-5)


@methods
def test_zero(method: str, stacks: None, device: str) -> None:
    for layout in LAYOUTS.values():
        X = layout(torch.zeros(2, 9, 14, device=device))
        P, info = polar(X, method=method, return_info=True)
        assert torch.equal(P, X)
        assert torch.equal(info.defect, torch.ones(X.shape[:-2], device=device))


@methods
@pytest.mark.parametrize("tall", [False, True])
def test_a_poisoned_matrix_keeps_to_itself(
    method: str, tall: bool, stacks: None, device: str
) -> None:
    """Not a bit of another matrix changes, nor of its defect."""
    X = torch.randn(3, 14, 9, device=device) if tall else torch.randn(3, 9, 14, device=device)
    X[1] = 0
    clean, clean_info = polar(X, method=method, return_info=True)
    for bad in (float("nan"), float("inf"), -float("inf")):
        X[1, 3, 3] = bad
        P, info = polar(X, method=method, return_info=True)
        assert torch.equal(P[::2], clean[::2]) and P[1].isnan().all()
        assert torch.equal(info.defect[::2], clean_info.defect[::2]) and info.defect[1].isnan()
        P, info = polar(X[1], method=method, return_info=True)
        assert P.isnan().all() and info.defect.isnan()


@methods
def test_empty(method: str) -> None:
    for shape in [(0, 4, 4), (3, 0, 4), (3, 4, 0), (0, 4), (2, 0, 4, 3)]:
        P, info = polar(torch.empty(shape), method=method, return_info=True)
        assert P.shape == shape and info.defect.shape == shape[:-2]


def nasty(kind: str, m: int, n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)

    def gaussian(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    X = gaussian(m, n)
    if kind == "repeated rows":
        X = X[torch.randint(0, max(1, m // 3), (m,), generator=generator)]
    elif kind == "all the same":
        X = torch.ones_like(X)
    elif kind == "outlier":
        X.view(-1)[seed % X.numel()] = 1e4
    elif kind == "low rank":
        X = gaussian(m, 2) @ gaussian(2, n)
    elif kind == "low rank and noise":
        X = gaussian(m, 2) @ gaussian(2, n) + 1e-6 * X
    elif kind == "graded rows":
        X = X * torch.logspace(-12, 0, m, dtype=torch.float64).unsqueeze(-1)
    elif kind == "graded columns":
        X = X * torch.logspace(0, -12, n, dtype=torch.float64)
    elif kind == "one entry":
        X = torch.zeros_like(X)
        X.view(-1)[seed % X.numel()] = -1
    elif kind == "one direction":
        X = gaussian(m, 1) @ gaussian(1, n) + 1e-4 * X
    return X


KINDS = [
    *("gaussian", "repeated rows", "all the same", "outlier", "low rank", "low rank and noise"),
    *("graded rows", "graded columns", "one entry", "one direction"),
]


@methods
@settings(max_examples=15, deadline=None)
@given(
    m=st.integers(1, 20),
    n=st.integers(1, 33),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from(DTYPES),
    products=st.sampled_from([None, *DTYPES]),
    scale=st.sampled_from([0.0, 0.8, -0.8]),
)
def test_finite_input_gives_finite_factors(
    method: str,
    m: int,
    n: int,
    seed: int,
    dtype: torch.dtype,
    products: torch.dtype | None,
    scale: float,
) -> None:
    """And none of a spectral norm that the polynomials do not have.

    But for runs on the Gram matrix of a spectrum not lifted yet: rounding in 16 bits moves a small
    eigenvalue to where they give up to 2.
    """
    chosen = METHODS[method]
    if isinstance(chosen, NewtonSchulz) and not chosen.table.survives_16_bits:
        products = None
    limits = torch.finfo(dtype)
    size = limits.max**scale if scale >= 0 else limits.tiny**-scale
    X = torch.stack([nasty(kind, m, n, seed) for kind in KINDS])
    X = (X * size).clamp(limits.min, limits.max).to(dtype)
    P, info = polar(X, method=method, dtype=products, return_info=True)
    Q, of_one = polar(X[seed % len(X)], method=method, dtype=products, return_info=True)
    lifted = getattr(chosen, "gram_runs", ())[:1] in ((), (1,)) or info.dtype.itemsize > 2
    for factors, defects in ((P, info.defect), (Q, of_one.defect)):
        assert factors.isfinite().all() and defects.isfinite().all()
        norm = float(torch.linalg.matrix_norm(factors.double(), 2).max())
        assert norm < (1.4 if lifted else 2.5)


# -- invariance ----------------------------------------------------------------------------------


@methods
@dtypes
@layouts
def test_powers_of_two_change_no_bit(
    method: str, dtype: torch.dtype, layout: str, device: str
) -> None:
    """Down to the smallest normal number and up to the largest; squares would overflow."""
    X = LAYOUTS[layout](between(2**-6, 3.9, 2, 9, 14)).to(device, dtype)
    limits = torch.finfo(dtype)
    for products in (None, torch.float16):
        P, info = polar(X, method=method, dtype=products, return_info=True)
        for factor in (limits.tiny * 2**6, 2.0**-3, 2.0**5, 2.0 ** int(math.log2(limits.max) - 2)):
            scaled = X * factor
            assert torch.equal(scaled / factor, X)  # the test itself rounds nothing
            Q, of_scaled = polar(scaled, method=method, dtype=products, return_info=True)
            assert torch.equal(P, Q) and torch.equal(info.defect, of_scaled.defect), factor


@methods
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_subnormal_numbers_count_in_full(method: str, dtype: torch.dtype) -> None:
    """Times a power of two, in a wider dtype, they are normal ones."""
    X = (torch.randn(2, 9, 14) * (torch.finfo(dtype).tiny / 16)).to(dtype)
    scaled = (X.double() / torch.finfo(dtype).tiny).float()
    assert float(X.abs().max()) < torch.finfo(dtype).tiny and float(scaled.abs().max()) > 0.1
    for Y, Z in ((X, scaled), (X[0], scaled[0])):
        assert torch.equal(polar(Y, method=method), polar(Z, method=method).to(dtype))


@methods
def test_stacked_equals_one_at_a_time(method: str, stacks: None, device: str) -> None:
    X = torch.randn(2, 3, 12, 20, device=device, dtype=torch.float64)
    X[1, 1] *= 1e100
    together, info = polar(X, method=method, return_info=True)
    for index in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        P, of_one = polar(X[tuple(index)], method=method, return_info=True)
        torch.testing.assert_close(together[tuple(index)], P, rtol=0, atol=1e-12)
        torch.testing.assert_close(info.defect[tuple(index)], of_one.defect, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "shape", [(1, 6), (7, 12), (13, 5), (64, 64), (48, 512), (112, 256), (240, 512), (512, 512)]
)
@methods
def test_company_changes_no_bit(method: str, shape: tuple[int, int]) -> None:
    """On the CPU, in the default precision: where matrices lie together depends on the layout."""
    X = torch.randn(5 if shape[0] < 512 else 2, *shape)
    together = polar(X, method=method)
    assert torch.equal(together, torch.cat([polar(one, method=method) for one in X.split(1)]))
    assert torch.equal(together, torch.cat([polar(some, method=method) for some in X.split(2)]))


STRIDES: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda X: X.mT.contiguous().mT,
    "every other": lambda X: X.repeat_interleave(2, -1)[..., ::2],
    "batch last": lambda X: X.movedim(0, -1).contiguous().movedim(-1, 0),
    "expanded": lambda X: X[:1].expand_as(X),
}


@pytest.mark.parametrize("method", ITERATED)
@pytest.mark.parametrize("shape", [(9, 20), (20, 9), (3, 9, 20), (3, 20, 9), (9, 9)])
def test_lies_in_memory_as_its_argument(method: str, shape: tuple[int, ...], stacks: None) -> None:
    """An optimiser adds it to what lies so too: across the rows that takes nine times as long."""
    X = torch.randn(shape)
    for Y in (X, X.mT):
        assert polar(Y, method=method).stride() == Y.stride()


@methods
def test_strides_are_free_and_input_untouched(method: str) -> None:
    for strided in STRIDES.values():
        X = strided(torch.randn(2, 9, 14, dtype=torch.float64))
        before = X.clone()
        assert not X.is_contiguous()
        P = polar(X, method=method)
        contiguous = polar(X.contiguous(), method=method)
        torch.testing.assert_close(P, contiguous, rtol=0, atol=1e-11)
        P.zero_()
        assert torch.equal(X, before)


@pytest.mark.parametrize("method", [name for name in ITERATED if name != "cans"])
def test_products_in_float16(method: str) -> None:
    """Which has few exponents: squares overflow at 256 and vanish at 2e-4, unless kept near 1."""
    X = torch.stack([mild(80, 300), torch.ones(80, 300).double(), 1e-9 * mild(80, 300)]).float()
    for Y in (X, X[0], X[1], X[2].mT):
        half, info = polar(Y, method=method, dtype=torch.float16, return_info=True)
        single = polar(Y, method=method, dtype=torch.float32)
        assert info.dtype == torch.float16 and half.dtype == torch.float32
        assert float((half - single).norm() / single.norm()) < 0.05


@pytest.mark.parametrize("method", ["fast", "faithful"])
def test_products_in_float16_after_deflation(method: str) -> None:
    """What an outlier leaves is a thousand times below the matrix that it was found in.

    Steps on the Gram matrix, which long matrices take, see the square of what it leaves.
    """
    for n, tolerance in ((20, 0.02), (24, 0.1)):
        X = mild(3, 16, n).float()
        X[0, 0, 0], X[1, 5, 6] = 1e4, 1e3
        for Y in (X, X[0]):
            half, single = (
                polar(Y, method=method, dtype=dtype) for dtype in (torch.float16, torch.float32)
            )
            assert float((half - single).norm() / single.norm()) < tolerance


@pytest.mark.parametrize("method", ["fast", "faithful"])
@pytest.mark.parametrize("products", [torch.float16, torch.bfloat16, torch.float32])
def test_outliers_do_not_drown_the_rest(method: str, products: torch.dtype) -> None:
    X = mild(3, 16, 24).float()
    X[:2] += 10 * torch.randn(2, 16, 1) @ torch.randn(2, 1, 24)
    for Y in (X, X[0]):
        ours, exact = polar(Y, method=method, dtype=products), svd_polar(Y)
        assert float(cosine(ours, exact).min()) > 0.93


@pytest.mark.parametrize(
    ("given_", "method", "asked", "used"),
    [
        (torch.float64, "jordan", None, torch.float64),
        (torch.float32, "jordan", None, torch.bfloat16),
        (torch.float16, "jordan", None, torch.bfloat16),
        (torch.float32, "jordan", torch.float32, torch.float32),
        (torch.bfloat16, "jordan", torch.float64, torch.float64),
        (torch.bfloat16, "cans", None, torch.float32),
        (torch.float64, "cans", None, torch.float64),
        (torch.bfloat16, "exact", None, torch.float32),
        (torch.float64, "qdwh", torch.bfloat16, torch.float32),
        (torch.float32, "eigh", torch.float64, torch.float64),
    ],
)
def test_precision_of_the_products(
    given_: torch.dtype, method: str, asked: torch.dtype | None, used: torch.dtype
) -> None:
    X = mild(6, 9, dtype=given_)
    P, info = polar(X, method=method, dtype=asked, return_info=True)
    assert P.dtype == given_ and info.dtype == used
    if given_ == torch.float64:  # where the output shows it
        error = float((P - polar(X, method=method)).abs().max())
        assert (error > torch.finfo(torch.float64).eps) == (used != given_)


# -- info ----------------------------------------------------------------------------------------


def hard(m: int, n: int) -> Tensor:
    """Well and badly conditioned, rank-deficient, an outlier, zero."""
    outlier = mild(m, n)
    outlier[0, 0] = 1e4
    graded = with_values(torch.logspace(0, -5, min(m, n)).double(), m, n)
    low_rank = with_values(torch.ones(3).double(), m, n)
    return torch.stack([mild(m, n), graded, low_rank, outlier, torch.zeros(m, n).double()])


@methods
@pytest.mark.parametrize("products", [None, torch.float32, torch.float16])
def test_defect_is_that_of_the_result(
    method: str, products: torch.dtype | None, stacks: None
) -> None:
    """Whatever the products are rounded to: it is measured on what they gave."""
    products = None if method == "cans" else products
    for shape, dtype in (((12, 30), torch.float64), ((30, 12), torch.float32), ((16, 16), None)):
        X = hard(*shape).to(dtype or torch.float32)
        P, info = polar(X, method=method, dtype=products, return_info=True)
        assert isinstance(info, PolarInfo) and info.method == METHODS[method]
        assert info.defect.shape == (5,) and info.defect.dtype == X.dtype
        assert info.steps == getattr(getattr(info.method, "table", None), "steps", 0)
        exactly = X.dtype == info.dtype == torch.float64
        tolerance = 4 * torch.finfo(torch.float64 if exactly else torch.float32).eps
        torch.testing.assert_close(info.defect.double(), true_defect(P), rtol=0, atol=tolerance)


@methods
def test_defect_in_narrow_dtypes(method: str) -> None:
    """Before the factor is rounded to them, which the docstring says."""
    for dtype in (torch.bfloat16, torch.float16):
        X = mild(2, 2, 9, 14, dtype=dtype)
        P, info = polar(X, method=method, return_info=True)
        assert info.defect.shape == (2, 2) and info.defect.dtype == dtype
        tolerance = 2 * torch.finfo(dtype).eps
        torch.testing.assert_close(info.defect.double(), true_defect(P), rtol=0, atol=tolerance)


@pytest.mark.parametrize("method", ["exact", "eigh"])
@pytest.mark.parametrize("rank", [0, 1, 5, 12])
def test_defect_tells_the_rank(method: str, rank: int) -> None:
    X = with_values(torch.ones(rank, dtype=torch.float64), 30, 12)
    defect = polar(X, method=method, return_info=True)[1].defect
    assert float(defect) == pytest.approx((1 - rank / 12) ** 0.5, abs=1e-12)


def test_info_does_not_change_the_factor() -> None:
    X = torch.randn(3, 16, 24)
    for method in METHODS:
        assert torch.equal(polar(X, method=method, return_info=True)[0], polar(X, method=method))


# -- derivatives ---------------------------------------------------------------------------------


@methods
def test_derivative(method: str, stacks: None) -> None:
    """Of what was computed, polynomials and their scale included."""
    for shape in [(3, 5), (5, 3), (4, 4), (2, 3, 4), (9, 20)]:
        X = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda X: polar(X, method=method), X, fast_mode=True)


@methods
def test_a_graph_changes_nothing(method: str) -> None:
    X = torch.randn(2, 9, 14, dtype=torch.float64)
    for Y in (X, X[0]):
        P = polar(Y.clone().requires_grad_(), method=method)
        assert P.requires_grad
        torch.testing.assert_close(P.detach(), polar(Y, method=method), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["jordan", "faithful", "fast"])
@pytest.mark.parametrize("shape", [(384, 400), (2, 9, 14), (2, 9, 40)])
def test_forward_and_reverse_mode_agree(method: str, shape: tuple[int, ...]) -> None:
    """Also of a large matrix alone, whose norm the host looks at where nobody derives it."""
    X, dX, dP = (torch.randn(shape, dtype=torch.float64) for _ in range(3))
    _, forward = torch.func.jvp(lambda X: polar(X, method=method), (X,), (dX,))
    (reverse,) = torch.func.vjp(lambda X: polar(X, method=method), X)[1](dP)
    torch.testing.assert_close(torch.sum(forward * dP), torch.sum(reverse * dX))
    difference = polar(X + 1e-6 * dX, method=method) - polar(X - 1e-6 * dX, method=method)
    assert float((forward - difference / 2e-6).norm() / forward.norm()) < 1e-6


@pytest.mark.parametrize("method", ["fast", "faithful"])
def test_no_number_of_a_graph_is_looked_at(method: str) -> None:
    """In 16 bits, where a lone matrix goes without its batch dimension."""
    X = torch.randn(384, 416, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns where a derivative is dropped
        polar(X, method=method).sum().backward()


@methods
def test_no_derivative_along_the_matrix_and_none_of_a_neighbour(method: str) -> None:
    """Homogeneous of degree 0; and what one matrix of a stack does is nothing to the others."""
    X = torch.randn(2, 9, 14, dtype=torch.float64, requires_grad=True)
    (G,) = torch.autograd.grad((polar(X, method=method)[0] * torch.randn(9, 14)).sum(), X)
    assert not G[1].any() and float(G[0].norm()) > 1e-3
    along = (G * X.detach()).sum()
    assert abs(float(along)) < 1e-9 * float(G.norm() * X.detach().norm())


def test_a_derivative_after_inference_mode() -> None:
    """What is kept between calls must not be tied to the mode of the first one."""
    X = torch.randn(11, 13, requires_grad=True)  # a shape that no other test has
    with torch.inference_mode():
        polar(X)
    polar(X).sum().backward()


# -- without a look at the numbers ---------------------------------------------------------------


@methods
def test_runs_without_numbers(method: str) -> None:
    X = torch.empty(2, 3, 14, 9, device="meta", dtype=torch.bfloat16)
    P, info = polar(X, method=method, return_info=True)
    assert P.shape == X.shape and P.dtype == X.dtype and P.device == X.device
    assert info.defect.shape == (2, 3)


@pytest.mark.parametrize("method", ["jordan", "faithful", "fast", "aol"])
def test_compiles_in_one_graph(method: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(polar, fullgraph=True, backend="eager")
    X = torch.randn(3, 9, 14)
    X[1] = float("inf")
    P, info = compiled(X, method=method, return_info=True)
    eager, eager_info = polar(X, method=method, return_info=True)
    torch.testing.assert_close(P, eager, equal_nan=True, rtol=0, atol=1e-6)
    torch.testing.assert_close(info.defect, eager_info.defect, equal_nan=True, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["jordan", "faithful", "fast", "gram"])
@pytest.mark.parametrize("shape", [(384, 416), (32, 64)])
def test_one_graph_of_a_lone_matrix(method: str, shape: tuple[int, int]) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(polar, fullgraph=True, backend="eager")
    X = torch.randn(shape)
    assert float((compiled(X, method=method) - polar(X, method=method)).norm() / X.norm()) < 1e-3


@pytest.mark.parametrize("method", ["jordan", "faithful", "fast"])
def test_one_graph_for_all_shapes(method: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(polar, fullgraph=True, dynamic=True, backend="eager")
    for shape in ((24, 32), (40, 96)):
        X = torch.randn(shape, dtype=torch.float64)
        ours = compiled(X, method=method)
        torch.testing.assert_close(ours, polar(X, method=method), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["jordan", "faithful", "fast"])
def test_a_trace_with_fake_tensors_leaves_none_behind(method: str) -> None:
    X = torch.randn(31, 37)
    with FakeTensorMode():
        polar(torch.empty(31, 37, requires_grad=True), method=method)
    assert bool(polar(X, method=method).isfinite().all())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["jordan", "faithful"])
def test_compiles_to_kernels(method: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(polar, fullgraph=True)
    X = torch.randn(3, 9, 14)
    difference = compiled(X, method=method, dtype=torch.float32) - polar(
        X, method=method, dtype=torch.float32
    )
    assert float(difference.abs().max()) < 1e-4


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"X": [[1.0]]}, "X is a list: give a torch.Tensor"),
        ({"X": torch.ones(3)}, r"X has shape \(3,\)"),
        ({"X": torch.ones(2, 2, dtype=torch.int64)}, "X has dtype torch.int64"),
        ({"X": torch.ones(2, 2, dtype=torch.complex64)}, "X has dtype torch.complex64"),
        ({"side": "top"}, "side='top': give 'left'"),
        ({"method": "jordan", "steps": 0}, "steps=0: give a whole number >= 1"),
        ({"steps": -1}, "steps=-1"),
        ({"steps": 1.5}, "steps=1.5"),
        ({"steps": True}, "steps=True"),
        ({"method": "exact", "steps": 3}, "steps=3.*method='exact'"),
        ({"method": Qdwh(), "steps": 3}, "steps=3.*Qdwh"),
        ({"dtype": torch.int32}, "dtype=torch.int32.*torch.bfloat16"),
        ({"dtype": torch.complex64}, "dtype=torch.complex64"),
        ({"dtype": torch.float8_e4m3fn}, "dtype=torch.float8_e4m3fn"),
        ({"dtype": "bfloat16"}, "dtype='bfloat16'"),
        ({"method": "exact", "dtype": "bfloat16"}, "dtype='bfloat16'"),
    ],
)
def test_what_it_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MatrixError, match=message):
        polar(**{"X": torch.ones(2, 2), **arguments})


@pytest.mark.parametrize("method", ["newton", "", None, 3])
def test_unknown_method_is_named(method: Any) -> None:
    with pytest.raises(RecipeError, match=f"{method!r} is unknown.*jordan.*exact"):
        polar(torch.eye(2), method=method)


@methods
def test_bad_input_is_refused_before_it_is_computed(method: str) -> None:
    """Also where there is nothing to compute."""
    with pytest.raises(MatrixError, match="dtype"):
        polar(torch.empty(0, 3, 3), method=method, dtype=torch.int8)
    with pytest.raises(MatrixError, match="side"):
        polar(torch.empty(0, 3, 3), method=method, side="up")  # type: ignore[arg-type]
