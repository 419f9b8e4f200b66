"""Orthonormal columns: the Q of LAPACK's QR, panel by panel, whatever the rank and the dtype."""

import pytest
import torch
from torch import Tensor

from stiefel.linalg import householder
from stiefel.linalg.householder import orthonormal, orthonormal_of_rank

SHAPES = [(1, 1), (7, 7), (8, 8), (17, 9), (9, 17), (24, 8)]


@pytest.fixture(autouse=True)
def panels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones, so that small matrices have several."""
    monkeypatch.setattr(householder, "PANEL", 4)
    monkeypatch.setattr(householder, "SMALLEST", 1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    make = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=make)


def textbook(X: Tensor) -> Tensor:
    """Gram-Schmidt, each column twice."""
    Q: list[Tensor] = []
    for column in X[:, : X.shape[0]].mT:
        rest = column.clone()
        for q in Q + Q:
            rest -= q * (q @ rest)
        Q.append(rest / rest.norm())
    return torch.stack(Q, -1)


def defect(Q: Tensor) -> float:
    Q = Q.double()
    return float((Q.mT @ Q - torch.eye(Q.shape[-1], dtype=Q.dtype)).abs().max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("condition", [1.0, 1e5])
def test_is_gram_schmidt(shape: tuple[int, int], condition: float) -> None:
    """Columns of falling length, as an orthogonal iteration meets them."""
    X = noise(*shape) * torch.logspace(0, -torch.tensor(condition).log10(), shape[1]).double()
    Q = orthonormal(X)
    assert Q.dtype == X.dtype and Q.shape == (shape[0], min(shape)) and Q.is_contiguous()
    torch.testing.assert_close(Q, textbook(X), rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_more_columns_complete_the_others(dtype: torch.dtype) -> None:
    X = noise(2, 17, 6).to(dtype)
    Q = orthonormal(X, 17)
    rounding = 4 * torch.finfo(dtype).eps
    assert Q.shape == (2, 17, 17) and max(map(defect, Q)) < rounding
    torch.testing.assert_close(Q[..., :6], orthonormal(X), rtol=0, atol=rounding)


@pytest.mark.parametrize("rank", [1, 5, 11])
def test_of_lower_rank_it_is_not_made_of_rounding(rank: int) -> None:
    """Columns that depend on others stand anywhere; what remains is Gram-Schmidt without them."""
    n = 12
    X = noise(n, rank) @ noise(rank, n, seed=1)
    X[:, 1] = 3 * X[:, 0]
    Q = orthonormal_of_rank(X, rank)
    assert defect(Q) < 1e-14
    free = [0, *range(2, rank + 1)]
    torch.testing.assert_close(Q[:, free], textbook(X[:, free]), rtol=0, atol=1e-10)
    nearly = X * (1 + 2e-16 * noise(n, n, seed=2))
    torch.testing.assert_close(orthonormal_of_rank(nearly, rank), Q, rtol=0, atol=1e-10)
    both = orthonormal_of_rank(torch.stack([X.mT, X]), rank)
    torch.testing.assert_close(both[1], Q, rtol=0, atol=1e-12)
    assert torch.equal(orthonormal_of_rank(X, n), orthonormal(X))


def test_triangle_is_upper_and_positive() -> None:
    """Also where columns are nearly dependent: condition number 1e10."""
    X = noise(20, 20)
    X[:, 1::2] = X[:, ::2] + 1e-10 * X[:, 1::2]
    Q = orthonormal(X)
    R = Q.mT @ X
    assert defect(Q) < 1e-14
    assert float(R.tril(-1).abs().max()) < 1e-13
    assert float(R.diagonal().min()) > 1e-12


DEPENDENT = {
    "zero": lambda X: 0 * X,
    "rank 1": lambda X: X[:, :1] @ X[:1],
    "equal columns": lambda X: X[:, :1].expand_as(X),
    "zero columns": lambda X: X * (torch.arange(X.shape[1]) % 3 > 0),
    "huge and tiny": lambda X: X * 10.0 ** torch.linspace(-35, 35, X.shape[1]),
}


@pytest.mark.parametrize("case", DEPENDENT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [11, 64])
def test_always_orthonormal(case: str, dtype: torch.dtype, size: int) -> None:
    Q = orthonormal(DEPENDENT[case](noise(size, size).float()).to(dtype))
    assert Q.dtype == dtype
    assert defect(Q) < (2e-6 if dtype is torch.float32 else 2**-7)


@pytest.mark.parametrize("seed", range(3))
def test_sixteen_bits_are_as_orthonormal_as_rounded_columns(seed: int) -> None:
    """And as near: a column is no further off than if it had been rounded a few times."""
    X = noise(96, 96, seed=seed) * torch.logspace(0, -6, 96).double()
    exact = textbook(X.bfloat16().double())
    Q = orthonormal(X.bfloat16())
    assert defect(Q) < 1.5 * defect(exact.bfloat16())
    error, rounding = ((near.double() - exact).norm(dim=0) for near in (Q, exact.bfloat16()))
    assert float(error.median()) < 8 * float(rounding.median())


def test_scale_does_not_matter() -> None:
    X = noise(12, 10).float()
    for scale in (2.0**-90, 2.0**90):
        torch.testing.assert_close(orthonormal(X * scale), orthonormal(X), rtol=0, atol=2e-6)


@pytest.mark.parametrize("batch", [(3,), (1, 1), (2, 3), (0,)])
def test_batched_equals_one_at_a_time(batch: tuple[int, ...]) -> None:
    X = noise(*batch, 9, 6).mT.contiguous().mT
    before = X.clone()
    Q = orthonormal(X)
    assert Q.shape == X.shape and torch.equal(X, before)
    for q, x in zip(Q.flatten(0, -3), X.flatten(0, -3), strict=True):
        assert torch.equal(q, orthonormal(x))


def test_small_matrices_and_gradients_go_to_lapack(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same answer."""
    X = noise(2, 9, 6)
    expected = orthonormal(X)
    X.requires_grad_()
    found = orthonormal(X)
    (slope,) = torch.autograd.grad(found[..., 0].sum(), X)
    assert float(slope.abs().max()) > 0
    monkeypatch.setattr(householder, "SMALLEST", 100)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    assert torch.equal(orthonormal(X.detach()), found)
    half = orthonormal(X.detach().bfloat16())
    exact = orthonormal(X.detach().bfloat16().double())
    torch.testing.assert_close(half, exact.bfloat16(), rtol=2**-7, atol=1e-6)
