"""torch's factorisations with a ladder: a failure on finite input is tried again, then named.

The rungs: as asked; in float64; a float64 copy disturbed by a few roundings (which breaks the ties
that stall an iteration). LAPACK raises for a whole stack when one matrix fails, so the later rungs
go matrix by matrix and leave the healthy ones alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from stiefel.errors import ConvergenceError

__all__ = ["eigh", "eigvalsh", "significant", "svd", "svdvals"]

Factors = tuple[Tensor, ...]


def svd(X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin ``X = U diag(S) Vh`` of a finite stack `[b, m, n]`; singular values descend."""
    U, S, Vh = _laddered(lambda Y: torch.linalg.svd(Y, full_matrices=False), X, "svd")
    return U, S, Vh


def eigh(A: Tensor) -> tuple[Tensor, Tensor]:
    """``A = Q diag(L) Q^T`` of a finite symmetric stack `[b, n, n]`; eigenvalues ascend."""
    L, Q = _laddered(torch.linalg.eigh, A, "eigh")
    return L, Q


def svdvals(X: Tensor) -> Tensor:
    """Singular values of a finite stack `[b, m, n]`, descending: `svd` without its vectors."""
    (S,) = _laddered(lambda Y: (torch.linalg.svdvals(Y),), X, "svdvals")
    return S


def eigvalsh(A: Tensor) -> Tensor:
    """Eigenvalues of a finite symmetric stack `[b, n, n]`, ascending: `eigh` without vectors."""
    (L,) = _laddered(lambda B: (torch.linalg.eigvalsh(B),), A, "eigvalsh")
    return L


def significant(S: Tensor, shape: torch.Size) -> Tensor:
    """Which singular values ``S`` of matrices of this shape are more than rounding noise.

    Those above ``max(m, n) eps S[0]``, the rule of torch.linalg.matrix_rank.
    """
    return S[..., :1] * max(shape[-2:]) * torch.finfo(S.dtype).eps < S


def _laddered(factorise: Callable[[Tensor], Factors], X: Tensor, name: str) -> Factors:
    try:
        return tuple(factorise(X))
    except LinAlgError:
        each = [_climb(factorise, matrix, name) for matrix in X]
        return tuple(torch.stack(parts) for parts in zip(*each, strict=True))


def _climb(factorise: Callable[[Tensor], Factors], X: Tensor, name: str) -> Factors:
    wide = X.double()
    for rung in (X, wide, _disturbed(wide, X.dtype)):
        try:
            return tuple(factor.to(X.dtype) for factor in factorise(rung))
        except LinAlgError:
            continue
    raise ConvergenceError(
        f"{name} of a finite {X.shape[0]} x {X.shape[1]} matrix failed in {X.dtype}, in float64 "
        "and on a disturbed copy: check the matrix, or choose an iterative method"
    )


def _disturbed(X: Tensor, dtype: torch.dtype) -> Tensor:
    """``X`` plus symmetric noise on the diagonal, a few units of the last place of ``dtype``."""
    k = min(X.shape[-2:])
    size = 4 * torch.finfo(dtype).eps * X.abs().amax()
    Y = X.clone()
    Y.diagonal().add_(size * torch.linspace(-1, 1, k, dtype=X.dtype, device=X.device))
    return Y
