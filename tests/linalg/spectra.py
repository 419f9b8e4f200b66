"""Matrices made of given singular values, and what an SVD in float64 says of any matrix."""

from __future__ import annotations

import torch
from torch import Tensor


def orthonormal(*shape: int, generator: torch.Generator | None = None) -> Tensor:
    """Random orthonormal columns `[..., rows, columns]` in float64."""
    return torch.linalg.qr(torch.randn(shape, dtype=torch.float64, generator=generator))[0]


def with_values(S: Tensor, m: int, n: int, generator: torch.Generator | None = None) -> Tensor:
    """``U diag(S) V^T`` `[m, n]` with random U and V, in float64."""
    U, V = (orthonormal(side, len(S), generator=generator) for side in (m, n))
    return (U * S) @ V.mT


def svd_polar(X: Tensor) -> Tensor:
    """The polar factor of X in float64; X has full rank."""
    U, _, Vh = torch.linalg.svd(X.double(), full_matrices=False)
    return U @ Vh


def true_defect(U: Tensor) -> Tensor:
    """``|U U^T - I|_F / sqrt(m)`` in float64, m the short side."""
    U = U.double().mT if U.shape[-2] > U.shape[-1] else U.double()
    m = U.shape[-2]
    return torch.linalg.matrix_norm(U @ U.mT - torch.eye(m, dtype=torch.float64)) / m**0.5


def cosine(A: Tensor, B: Tensor) -> Tensor:
    """``<A, B> / (|A|_F |B|_F)`` of every matrix, in float64."""
    A, B = A.double(), B.double()
    norms = torch.linalg.matrix_norm(A) * torch.linalg.matrix_norm(B)
    return (A * B).sum((-2, -1)) / norms
