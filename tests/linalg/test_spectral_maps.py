"""Soft spectral clipping against float64 SVD, and msign."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.linalg import LinAlgError

from stiefel.errors import ConvergenceError, MatrixError
from stiefel.linalg import polar
from stiefel.linalg.spectral_maps import CLIP_METHODS, msign, soft_clip
from tests.linalg.spectra import with_values

methods = pytest.mark.parametrize("method", CLIP_METHODS)
SHAPES = [(1, 1), (1, 7), (7, 1), (5, 5), (4, 9), (9, 4), (2, 3, 9, 4), (3, 4, 9)]


def textbook(X: Tensor, c: float) -> Tensor:
    U, S, Vh = torch.linalg.svd(X.double(), full_matrices=False)
    return U @ torch.diag_embed(S / (1 + (S / c) ** 2).sqrt()) @ Vh


def error(ours: Tensor, expected: Tensor) -> float:
    return float((ours.double() - expected).norm() / expected.norm())


@methods
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_equals_the_svd_form(
    method: str, shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> None:
    X = torch.randn(shape, device=device).to(dtype)
    ours = soft_clip(X, 0.7, method=method)
    assert ours.dtype == dtype and ours.shape == X.shape and ours.device == X.device
    tolerance = {torch.float64: 1e-13, torch.float32: 2e-6}.get(dtype, 5e-3)
    assert error(ours.cpu(), textbook(X.cpu(), 0.7)) < tolerance


@methods
@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (8, 8)])
@pytest.mark.parametrize("c", [1e-6, 1e-2, 1.0, 1e3])
def test_steps_until_convergence(method: str, shape: tuple[int, int], c: float) -> None:
    X = with_values(torch.logspace(0, -3, 8), *shape)
    assert error(soft_clip(X, c, method=method, steps=None), textbook(X, c)) < 1e-9


@pytest.mark.parametrize(("ratio", "reached"), [(5, 1e-10), (10, 2e-8), (20, 2e-3), (100, 0.25)])
def test_what_ten_steps_reach(ratio: float, reached: float) -> None:
    X = with_values(torch.logspace(0, -3, 16), 16, 24)
    assert error(soft_clip(X, 1 / ratio), textbook(X, 1 / ratio)) < reached
    S = torch.linalg.svdvals(soft_clip(X, 1 / ratio))
    exact = torch.linalg.svdvals(textbook(X, 1 / ratio))
    assert float((S / exact).max()) < 1 + 1e-9  # what falls short falls below


@pytest.mark.parametrize(("dtype", "relative"), [(torch.bfloat16, 0.02), (torch.float16, 3e-3)])
@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (3, 16, 16)])
def test_products_in_16_bits(shape: tuple[int, ...], dtype: torch.dtype, relative: float) -> None:
    """Near what they are in full, at any scale, and hardly above c."""
    X = torch.randn(shape)
    for scale in (1.0, 1e-30, 1e30):
        c = float(torch.linalg.matrix_norm(X, 2).amax()) / 10 * scale
        ours = soft_clip(X * scale, c, dtype=dtype)
        assert ours.dtype == torch.float32
        assert 1e-6 < error(ours / scale, textbook(X, c / scale)) < relative
        assert float(torch.linalg.matrix_norm(ours.double(), 2).amax()) < c * (1 + relative)


@pytest.mark.parametrize("c", [0.5, 1e-1, 1e-2, 1e-4])
def test_16_bits_blow_nothing_up(c: float) -> None:
    """Gram matrices whose small eigenvalues are nothing but rounding."""
    equal = torch.randn(1, 48).expand(32, 48)
    low = torch.randn(32, 4) @ torch.randn(4, 48)
    sparse = torch.randn(128, 1) * (torch.rand(128, 1) < 0.05) @ torch.randn(1, 200)
    blocks = torch.block_diag(*(torch.randn(4, 1) @ torch.randn(1, 8) for _ in range(12)))
    ratios = torch.tensor([[1.0], [31 / 7], [31 / 5]]) @ torch.ones(1, 4)
    nearly = equal + 1e-3 * torch.randn(32, 48)
    for X in (equal, low, nearly, sparse, blocks, ratios, torch.zeros(32, 48)):
        unit = X / torch.linalg.matrix_norm(X, 2).clamp_min(1e-9)
        clipped = soft_clip(unit, c, dtype=torch.bfloat16)
        assert float(torch.linalg.matrix_norm(clipped, 2)) < 1.1 * c


def test_float16_adds_up_a_long_row() -> None:
    X = torch.full((2, 70_000), 0.99)
    X[1] *= torch.randn(70_000).sign()
    clipped = soft_clip(X, 30.0, dtype=torch.float16)
    assert error(clipped, soft_clip(X, 30.0)) < 0.01


@methods
def test_limits_are_the_identity_and_the_polar_factor(method: str) -> None:
    X = with_values(torch.linspace(1, 3, 5), 5, 8)
    for c in (1e9, 1e300, float("inf")):
        torch.testing.assert_close(soft_clip(X, c, method=method), X, rtol=0, atol=1e-14)
    for c in (1e-9, 1e-100):
        near = soft_clip(X, c, method=method, steps=None) / c
        torch.testing.assert_close(near, polar(X, method="exact"), rtol=0, atol=1e-11)


@methods
@pytest.mark.parametrize("exponent", [-120, -70, -1, 40, 100])
def test_scales_with_its_threshold(method: str, exponent: int, device: str) -> None:
    """Powers of two round nothing, so not one bit may change; the squares would overflow."""
    X = torch.randint(-9, 9, (4, 6), device=device).float()
    scaled = soft_clip(X * 2.0**exponent, 2.5 * 2.0**exponent, method=method)
    assert torch.equal(scaled, soft_clip(X, 2.5, method=method) * 2.0**exponent)


@methods
@pytest.mark.parametrize("size", [1e-44, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("c", [1e-30, 1.0, 1e30])
def test_matrix_and_threshold_far_apart(method: str, size: float, c: float, device: str) -> None:
    X = (with_values(torch.linspace(1, 3, 4), 4, 6) * size).float()
    ours = soft_clip(X.to(device), c, method=method, steps=None).cpu()
    expected = textbook(X, c).float()
    if c < 1e-38 * size:  # less than float32 can hold beside the matrix
        expected = torch.zeros_like(X)
    torch.testing.assert_close(ours, expected, rtol=0, atol=3e-6 * float(expected.abs().max()))


@methods
@pytest.mark.parametrize("c", [1e-30, 1e-8, 1e-2, 1.0])
@pytest.mark.parametrize("steps", [10, 100, None])
def test_rank_deficient(method: str, c: float, steps: int | None, device: str) -> None:
    """The Gram matrix's zero eigenvalues come out negative, and noise must not become c."""
    G = torch.randn(3, 40, 5, device=device)
    X = G @ torch.randn(3, 5, 60, device=device)
    S = torch.linalg.svdvals(soft_clip(X, c, method=method, steps=steps))
    assert float(S[:, 0].max()) < c * (1 + (1e-5 if steps == 10 or method == "exact" else 4e-4))
    assert float((S[:, 5:] / S[:, :1]).max()) < 1e-3


@methods
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_zero_stays_zero_and_nan_stays_at_home(method: str, bad: float, device: str) -> None:
    X = torch.randn(3, 5, 7, device=device)
    X[1] = 0
    for c in (1e-60, 1e-30, 1.0, 1e30):
        healthy = soft_clip(X, c, method=method)
        assert torch.equal(healthy[1], X[1])
    X[2, 3, 3] = bad
    poisoned = soft_clip(X, c, method=method)
    assert torch.equal(poisoned[:2], healthy[:2]) and poisoned[2].isnan().all()


@methods
@pytest.mark.parametrize("shape", [(0, 4, 4), (3, 0, 4), (3, 4, 0)])
def test_empty(method: str, shape: tuple[int, ...]) -> None:
    assert soft_clip(torch.empty(shape), 1.0, method=method).shape == shape


@methods
def test_batched_equals_one_at_a_time_and_strides_are_free(method: str) -> None:
    X = torch.randn(5, 9, 6, dtype=torch.float64) * torch.logspace(-2, 2, 5).view(5, 1, 1)
    single = torch.stack([soft_clip(x.contiguous(), 0.5, method=method) for x in X.mT])
    before = X.clone()
    torch.testing.assert_close(soft_clip(X.mT, 0.5, method=method), single, rtol=0, atol=1e-13)
    assert torch.equal(X, before)


@pytest.mark.parametrize("c", [0.0, -1.0, float("nan")])
def test_threshold_must_be_positive(c: float) -> None:
    with pytest.raises(MatrixError, match=f"threshold={c}.*threshold > 0"):
        soft_clip(torch.eye(2), c)


def test_bad_choices_are_named() -> None:
    with pytest.raises(MatrixError, match="'svd' is unknown.*newton_schulz, exact"):
        soft_clip(torch.eye(2), 1.0, method="svd")
    with pytest.raises(MatrixError, match="steps=0"):
        soft_clip(torch.eye(2), 1.0, steps=0)
    with pytest.raises(MatrixError, match="two dimensions"):
        soft_clip(torch.ones(2), 1.0)
    with pytest.raises(MatrixError, match=r"dtype=torch\.int8"):
        soft_clip(torch.eye(2), 1.0, dtype=torch.int8)
    with pytest.raises(MatrixError, match="method='exact'"):
        soft_clip(torch.eye(2), 1.0, method="exact", dtype=torch.bfloat16)
    with pytest.raises(MatrixError, match="steps=None"):
        soft_clip(torch.eye(2), 1.0, steps=None, dtype=torch.bfloat16)


def test_ladder_of_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: object, **options: object) -> None:
        raise LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "svd", failing)
    with pytest.raises(ConvergenceError):
        soft_clip(torch.eye(3), 1.0, method="exact")
    assert error(soft_clip(torch.eye(3), 1.0), torch.eye(3).double() * 0.5**0.5) < 1e-6


@methods
@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_gradient(method: str, shape: tuple[int, int]) -> None:
    X = with_values(torch.tensor([1.0, 2, 3]), *shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda Y: soft_clip(Y, 1.5, method=method), X)


@methods
def test_meta(method: str) -> None:
    assert soft_clip(torch.empty(2, 3, 4, device="meta"), 1.0, method=method).is_meta


def test_msign_is_the_polar_factor() -> None:
    X = torch.randn(2, 6, 4, dtype=torch.float64)
    U, _, Vh = torch.linalg.svd(X, full_matrices=False)
    torch.testing.assert_close(msign(X, method="exact"), U @ Vh, rtol=0, atol=1e-12)


def test_msign_is_the_matrix_sign_where_it_is_symmetric_only() -> None:
    A = torch.diag(torch.tensor([2.0, -3.0])).double()
    torch.testing.assert_close(msign(A, method="exact"), A.sign())
    shear = torch.tensor([[1.0, 5.0], [0.0, 1.0]]).double()  # whose matrix sign is I
    assert float((msign(shear, method="exact") - torch.eye(2)).abs().max()) > 0.5


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(CLIP_METHODS),
    m=st.integers(1, 10),
    n=st.integers(1, 10),
    c=st.floats(-2, 6),
    scale=st.floats(-30, 30),
    seed=st.integers(0, 2**31),
)
def test_properties(method: str, m: int, n: int, c: float, scale: float, seed: int) -> None:
    """Below c, below s, in the same order, along the same singular vectors."""
    make = torch.Generator().manual_seed(seed)
    X = torch.randn(2, m, n, dtype=torch.float64, generator=make) * 10**scale
    threshold = 10 ** (scale + c)
    H = soft_clip(X, threshold, method=method, steps=None)
    S, T = torch.linalg.svdvals(X), torch.linalg.svdvals(H)
    assert bool((threshold * (1 + 1e-9) >= T).all())
    assert bool((S * (1 + 1e-9) + 1e-12 * S[:, :1] >= T).all())
    for product in (H @ X.mT, H.mT @ X):  # symmetric where the singular vectors are shared
        assert float((product - product.mT).norm()) <= 1e-9 * float(H.norm() * X.norm())
