"""Eigenbases: orthonormal whatever comes in, ordered, and stepping towards the eigenvectors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.linalg import LinAlgError

from stiefel.errors import ConvergenceError, MatrixError
from stiefel.linalg.eigenbasis import (
    BASIS_METHODS,
    eigenbasis,
    in_order,
    orthogonal_iteration,
    rayleigh_quotients,
)

methods = pytest.mark.parametrize("method", BASIS_METHODS)


def orthonormal(*shape: int, seed: int = 0) -> Tensor:
    noise = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(noise).Q


def with_basis(Q: Tensor, spectrum: Tensor) -> Tensor:
    A = (Q * spectrum.double()) @ Q.mT
    return (A + A.mT) / 2


def defect(Q: Tensor) -> float:
    Q = Q.double()
    return float((Q.mT @ Q - torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)).abs().max())


def rayleigh(Q: Tensor, A: Tensor) -> Tensor:
    return (Q.mT @ A @ Q).diagonal(dim1=-2, dim2=-1)


@pytest.mark.parametrize("shape", [(1, 1), (6, 6), (2, 3, 5, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_eigh_diagonalises(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    G = torch.randn(shape, dtype=torch.float64)
    A = (G @ G.mT).to(device, dtype)
    Q, order = eigenbasis(A)
    assert Q.dtype == dtype and Q.device == A.device and Q.shape == A.shape
    assert torch.equal(order.cpu(), torch.arange(shape[-1]).expand(shape[:-1]))
    tolerance = {torch.float64: 1e-13, torch.float32: 2e-6}.get(dtype, 1e-2)
    assert defect(Q) < tolerance
    L = torch.linalg.eigvalsh(A.double()).flip(-1)
    off = Q.double().mT @ A.double() @ Q.double() - torch.diag_embed(L)
    assert float(off.abs().max() / L.max()) < 8 * tolerance


@methods
def test_orthogonal_iteration_without_previous_is_eigh(method: str) -> None:
    A = with_basis(orthonormal(2, 5, 5), torch.linspace(1, 2, 5))
    assert torch.equal(eigenbasis(A, method=method).basis, eigenbasis(A).basis)


def test_one_step_is_qr_of_the_ranked_image() -> None:
    A = with_basis(orthonormal(4, 6, 6), torch.linspace(0.5, 4, 6))
    P = orthonormal(4, 6, 6, seed=1)
    Q, order = eigenbasis(A, P, method="orthogonal_iteration")
    for q, o, a, before in zip(Q, order, A, P, strict=True):
        estimates = rayleigh(before, a)[o]
        assert bool((estimates[:-1] >= estimates[1:]).all())
        upper = q.mT @ (a @ before[:, o])  # Q is the QR factor: R is upper triangular, positive
        torch.testing.assert_close(upper, upper.triu(), rtol=0, atol=1e-12)
        assert float(upper.diagonal().min()) > 0


@methods
def test_basis_of_eigenvectors_is_a_fixed_point(method: str) -> None:
    P = orthonormal(3, 6, 6)
    A = with_basis(P, torch.linspace(4, 1, 6))
    Q, order = eigenbasis(A, P, method=method)
    assert torch.equal(order, torch.arange(6).expand(3, 6))
    signs = 1 if method == "orthogonal_iteration" else (Q * P).sum(-2, keepdim=True).sign()
    torch.testing.assert_close(Q * signs, P, rtol=0, atol=1e-12)


@methods
def test_order_carries_state_to_its_eigenvector(method: str) -> None:
    """A shuffled eigenbasis is sorted back, and what is kept per column comes along."""
    P = orthonormal(3, 6, 6)
    spectrum = torch.linspace(4, 1, 6).double()
    A = with_basis(P, spectrum)
    shuffle = torch.stack([torch.randperm(6) for _ in range(3)])
    before = P.take_along_dim(shuffle.unsqueeze(-2), -1)
    state = spectrum[shuffle]
    Q, order = eigenbasis(A, before, method=method)
    torch.testing.assert_close(state.take_along_dim(order, -1), spectrum.expand(3, 6))
    torch.testing.assert_close((Q * P).sum(-2).abs(), torch.ones(3, 6).double())


def test_ties_keep_their_place() -> None:
    _, order = eigenbasis(torch.eye(40), torch.eye(40), method="orthogonal_iteration")
    assert torch.equal(order, torch.arange(40))


def test_iteration_converges_at_the_ratio_of_eigenvalues() -> None:
    target = orthonormal(5, 5)
    A = with_basis(target, 2.0 ** -torch.arange(5))
    Q = orthonormal(5, 5, seed=3)
    gaps = []
    for _ in range(30):
        Q = eigenbasis(A, Q, method="orthogonal_iteration").basis
        gaps.append(float(((Q.mT @ target).abs() - torch.eye(5)).abs().max()))
    assert gaps[-1] < 1e-6
    assert gaps[20] / gaps[10] == pytest.approx(2.0**-10, rel=0.2)


DEGENERATE = {
    "zero A": lambda A, P: (0 * A, P),
    "rank 1 A": lambda A, P: (A[:, :, :1] @ A[:, :, :1].mT, P),
    "zero previous": lambda A, P: (A, 0 * P),
    "zero columns": lambda A, P: (A, P * torch.tensor([1.0, 0, 0, 1, 1])),
    "equal columns": lambda A, P: (A, P[:, :, :1].expand_as(P)),
    "unnormalised": lambda A, P: (A, P * torch.tensor([1e-20, 1e20, 1, 1e-30, 5])),
    "indefinite A": lambda A, P: (A - 2 * torch.eye(5), P),
}


@methods
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1.0, 1e30])
def test_always_orthonormal(method: str, case: str, scale: float, device: str) -> None:
    A = with_basis(orthonormal(3, 5, 5), torch.linspace(0, 4, 5)).float()
    A, P = DEGENERATE[case](A, orthonormal(3, 5, 5, seed=1).float())
    Q, order = eigenbasis((A * scale).to(device), P.to(device), method=method)
    assert defect(Q) < 3e-6
    assert torch.equal(order.sort().values.cpu(), torch.arange(5).expand(3, 5))


@methods
@pytest.mark.parametrize("in_previous", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_stays_at_home(method: str, in_previous: bool, bad: float, device: str) -> None:
    A = with_basis(orthonormal(3, 5, 5), torch.linspace(1, 4, 5)).to(device)
    P = orthonormal(3, 5, 5, seed=1).to(device)
    healthy = eigenbasis(A, P, method=method)
    (P if in_previous else A)[1, 2, 3] = bad
    poisoned = eigenbasis(A, P, method=method)
    assert poisoned.basis[1].isnan().all()
    assert torch.equal(poisoned.basis[[0, 2]], healthy.basis[[0, 2]])
    assert torch.equal(poisoned.order[[0, 2]], healthy.order[[0, 2]])


@methods
@pytest.mark.parametrize("shape", [(0, 4, 4), (3, 0, 0), (0, 0)])
@pytest.mark.parametrize("warm", [False, True])
def test_empty(method: str, shape: tuple[int, ...], warm: bool) -> None:
    A = torch.empty(shape)
    Q, order = eigenbasis(A, A if warm else None, method=method)
    assert Q.shape == shape and order.shape == shape[:-1]


@methods
def test_batched_equals_one_at_a_time_and_strides_are_free(method: str) -> None:
    A = with_basis(orthonormal(2, 3, 5, 5), torch.linspace(1, 4, 5)).transpose(0, 1)
    P = orthonormal(3, 2, 5, 5, seed=1)
    before = A.clone(), P.clone()
    Q, order = eigenbasis(A, P.mT.contiguous().mT, method=method)
    for i in range(3):
        for j in range(2):
            alone = eigenbasis(A[i, j].contiguous(), P[i, j], method=method)
            torch.testing.assert_close(Q[i, j], alone.basis, rtol=0, atol=1e-12)
            assert torch.equal(order[i, j], alone.order)
    assert torch.equal(A, before[0]) and torch.equal(P, before[1])


def test_previous_may_be_wider_than_the_matrix() -> None:
    """And is not rounded to it."""
    A = with_basis(orthonormal(5, 5), torch.linspace(1, 4, 5)).bfloat16()
    P = orthonormal(5, 5, seed=1)
    Q, _ = eigenbasis(A, P, method="orthogonal_iteration")
    expected, _ = eigenbasis(A.double(), P, method="orthogonal_iteration")
    assert Q.dtype == torch.bfloat16
    torch.testing.assert_close(Q, expected.bfloat16(), rtol=2**-7, atol=1e-6)


def test_sixteen_bits_do_not_drown_small_eigenvalues(device: str) -> None:
    """A in one bfloat16 number would: its rounding is far above the smallest of them."""
    spectrum = torch.logspace(0, -6, 64).double()
    P = orthonormal(64, 64)
    A = with_basis(P + 1e-4 * orthonormal(64, 64, seed=1), spectrum)
    A, P = A.float().to(device), P.bfloat16().to(device)
    Q, order = orthogonal_iteration(A, P)
    exact, _ = orthogonal_iteration(A.double(), P.double())
    assert Q.dtype == torch.bfloat16 and Q.device == P.device
    assert defect(Q) < 2**-7
    near = rayleigh(Q.double(), A.double()) / rayleigh(exact, A.double())
    assert float((near[:48] - 1).abs().max()) < 0.1  # from 1 down to 3e-5
    assert torch.equal(order[:48].cpu(), torch.arange(48))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_step_says_that_it_failed(bad: float, dtype: torch.dtype) -> None:
    """Unchecked input: the basis is not finite, nothing changes place, the next matrix is well."""
    A = with_basis(orthonormal(2, 5, 5), torch.linspace(1, 4, 5)).float()
    P = orthonormal(2, 5, 5, seed=1).to(dtype)
    healthy = orthogonal_iteration(A[1], P[1])
    A[0, 2, 3] = bad
    Q, order = orthogonal_iteration(A, P)
    assert not Q[0].isfinite().all() and torch.equal(order[0], torch.arange(5))
    assert torch.equal(Q[1], healthy.basis) and torch.equal(order[1], healthy.order)


@pytest.mark.parametrize("batch", [(), (1, 1), (2, 3)])
def test_rows_in_order(batch: tuple[int, ...]) -> None:
    X = torch.randn(*batch, 4, 5).mT
    order = torch.randn(*batch, 5).argsort(dim=-1)
    assert torch.equal(in_order(X, order), X.take_along_dim(order.unsqueeze(-1), -2))


@pytest.mark.parametrize("failing", [{torch.float32}, {torch.float32, torch.float64}])
def test_ladder(failing: set[torch.dtype], monkeypatch: pytest.MonkeyPatch) -> None:
    eigh = torch.linalg.eigh

    def stubborn(A: Tensor) -> tuple[Tensor, Tensor]:
        if A.dtype in failing:
            raise LinAlgError("did not converge")
        return eigh(A)

    monkeypatch.setattr(torch.linalg, "eigh", stubborn)
    A = with_basis(orthonormal(2, 5, 5), torch.linspace(1, 4, 5)).float()
    if torch.float64 in failing:
        with pytest.raises(ConvergenceError, match="eigh of a finite 5 x 5"):
            eigenbasis(A)
    else:
        Q, _ = eigenbasis(A)
        off = Q.mT @ A @ Q - torch.diag_embed(torch.linspace(4, 1, 5).expand(2, 5))
        assert float(off.abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("A", "previous", "method", "says"),
    [
        (torch.eye(3)[:2], None, "eigh", r"shape \(2, 3\).*square"),
        (torch.eye(3).roll(1, 0), None, "eigh", "1 of 1 matrices differ"),
        (torch.eye(3), torch.eye(2), "eigh", r"previous has shape \(2, 2\), A \(3, 3\)"),
        (torch.eye(3), torch.ones(3), "eigh", "previous has shape.*two dimensions"),
        (torch.eye(3), None, "power", "'power' is unknown.*eigh, orthogonal_iteration"),
    ],
)
def test_bad_input_is_named(A: Tensor, previous: Tensor | None, method: str, says: str) -> None:
    with pytest.raises(MatrixError, match=says):
        eigenbasis(A, previous, method=method)


@methods
def test_gradient(method: str) -> None:
    """Of the projectors on the columns, which have no sign to choose."""
    A = with_basis(orthonormal(4, 4), torch.linspace(1, 3, 4)).requires_grad_()
    P = orthonormal(4, 4, seed=1)

    def projectors(X: Tensor) -> Tensor:
        Q = eigenbasis((X + X.mT) / 2, P, method=method).basis
        return torch.einsum("ik,jk->kij", Q, Q)

    assert torch.autograd.gradcheck(projectors, A)


@methods
def test_meta(method: str) -> None:
    A = torch.empty(2, 3, 3, device="meta")
    Q, order = eigenbasis(A, A, method=method)
    assert Q.is_meta and order.is_meta and order.shape == (2, 3)


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(BASIS_METHODS),
    n=st.integers(1, 9),
    rank=st.integers(1, 9),
    scale=st.floats(-30, 30),
    seed=st.integers(0, 2**31),
)
def test_properties(method: str, n: int, rank: int, scale: float, seed: int) -> None:
    """Orthonormal; the step never lowers what the leading columns hold of a semidefinite A."""
    make = torch.Generator().manual_seed(seed)
    G = torch.randn(2, n, rank, dtype=torch.float64, generator=make)
    A = G @ G.mT
    P = torch.linalg.qr(torch.randn(2, n, n, dtype=torch.float64, generator=make)).Q
    Q, order = eigenbasis(A * 10**scale, P, method=method)
    assert defect(Q) < 1e-12
    before = rayleigh(P, A).take_along_dim(order, -1)
    assert bool((before.diff(dim=-1) <= 1e-12 * A.norm()).all())
    assert float((rayleigh(Q, A)[:, 0] - before[:, 0]).min()) > -1e-12 * float(A.norm())


@pytest.mark.parametrize("n", [16, 256])
def test_rayleigh_quotients_in_16_bits_are_nearer_than_the_basis(n: int) -> None:
    """Eight orders of magnitude of eigenvalues; in one number of 16 bits the small ones drown."""
    spectrum = torch.logspace(0, -8, n, dtype=torch.float64)
    Q = orthonormal(n, n)
    A = with_basis(Q, spectrum)
    assert (rayleigh_quotients(A, Q) - spectrum).abs().max() < 1e-14
    off = (rayleigh_quotients(A.float(), Q.bfloat16()).double() - spectrum).abs()
    assert bool((off < 4e-3 * spectrum + 3e-6).all())
