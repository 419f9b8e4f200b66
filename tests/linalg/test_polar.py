"""The polar factor against float64 SVD, on easy, hard and degenerate input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stiefel.errors import RecipeError
from stiefel.linalg import METHODS, TABLES, polar

methods = pytest.mark.parametrize("method", METHODS)
SHAPES = [(1, 1), (1, 7), (7, 1), (5, 5), (4, 9), (9, 4), (3, 4, 9), (2, 3, 9, 4)]


def svd_polar(X: Tensor) -> Tensor:
    U, _, Vh = torch.linalg.svd(X.double(), full_matrices=False)
    return U @ Vh


def test_further_steps_converge() -> None:
    X = torch.randn(6, 9, dtype=torch.float64)
    torch.testing.assert_close(polar(X, steps=12), svd_polar(X), rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_exact_is_the_svd(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    X = torch.randn(shape, device=device).to(dtype)
    ours = polar(X, method="exact")
    assert ours.dtype == dtype and ours.shape == X.shape and ours.device == X.device
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-4}.get(dtype, 2e-2)
    torch.testing.assert_close(ours.double(), svd_polar(X), rtol=0, atol=tolerance)


@methods
@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_in_band(method: str, shape: tuple[int, ...], device: str) -> None:
    """In the default bf16 iteration of float32 input, on well-conditioned matrices."""
    X = svd_polar(torch.randn(shape)).float().to(device)
    X = X * torch.linspace(1, 3, shape[-1], device=device)
    S = torch.linalg.svdvals(polar(X, method=method).double())
    low, high = TABLES[method].band if method in TABLES else (1.0, 1.0)
    assert low - 0.03 <= float(S.min()) and float(S.max()) <= high + 0.03


@methods
def test_batched_equals_one_at_a_time(method: str, device: str) -> None:
    X = torch.randn(5, 12, 20, device=device, dtype=torch.float64)
    single = torch.stack([polar(x, method=method) for x in X])
    torch.testing.assert_close(polar(X, method=method), single, rtol=0, atol=1e-12)


@methods
@pytest.mark.parametrize("exponent", [-120, -70, -1, 40, 70, 120])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_scale_invariance(method: str, exponent: int, dtype: torch.dtype, device: str) -> None:
    """Powers of two round nothing, so not one bit may change; the squares would overflow."""
    X = torch.randn(16, 24, device=device, dtype=dtype).clamp(1e-2)
    exponent = 8 * exponent if dtype is torch.float64 else exponent
    assert torch.equal(polar(X * 2.0**exponent, method=method), polar(X, method=method))


@methods
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_zero_stays_zero_and_nan_stays_at_home(method: str, bad: float, device: str) -> None:
    X = torch.randn(3, 8, 8, device=device)
    X[1] = 0
    alone = polar(X, method=method)
    assert torch.equal(alone[1], torch.zeros(8, 8, device=device))
    if method != "exact":  # whose SVD raises an error of its own
        X[2, 3, 3] = bad
        poisoned = polar(X, method=method)
        assert torch.equal(poisoned[:2], alone[:2]) and poisoned[2].isnan().all()


@methods
@pytest.mark.parametrize("shape", [(0, 4, 4), (3, 0, 4), (3, 4, 0)])
def test_empty(method: str, shape: tuple[int, ...]) -> None:
    assert polar(torch.empty(shape), method=method).shape == shape


@methods
def test_rank_deficient_has_no_noise_directions(method: str) -> None:
    X = torch.randn(12, 3, dtype=torch.float64) @ torch.randn(3, 9, dtype=torch.float64)
    S = torch.linalg.svdvals(polar(X, method=method))
    assert float(S[3:].max()) < 1e-9


@methods
def test_input_untouched_and_strides_free(method: str) -> None:
    X = torch.randn(6, 10, dtype=torch.float64).T
    before = X.clone()
    torch.testing.assert_close(
        polar(X, method=method), polar(X.contiguous(), method=method), rtol=0, atol=1e-12
    )
    assert torch.equal(X, before)


def test_unknown_method_is_named() -> None:
    with pytest.raises(RecipeError, match="'newton' is unknown.*jordan"):
        polar(torch.eye(2), method="newton")


@settings(max_examples=50, deadline=None)
@given(
    m=st.integers(1, 12),
    n=st.integers(1, 12),
    b=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    scale=st.floats(-30, 30),
)
def test_exact_properties(m: int, n: int, b: int, seed: int, scale: float) -> None:
    """X = P |X| with |X| = P^T X symmetric positive: what makes P the polar factor."""
    X = torch.randn(b, m, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    X = X * 10**scale
    P = polar(X, method="exact")
    H = P.mT @ X if m >= n else X @ P.mT
    unit = X.norm()
    assert float((H - H.mT).norm() / unit) < 1e-10
    assert float(torch.linalg.eigvalsh(H).min() / unit) > -1e-10
    assert float(((P @ H if m >= n else H @ P) - X).norm() / unit) < 1e-10
