"""Orthonormal eigenbases of symmetric matrices, largest eigenvalue first, and their refresh."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from stiefel.errors import MatrixError, check_choice
from stiefel.linalg.decompositions import eigh
from stiefel.linalg.householder import orthonormal_of_rank
from stiefel.linalg.products import matmul
from stiefel.linalg.stack import Stack, prepare, working_dtype
from stiefel.linalg.symmetric import prepare_symmetric

__all__ = [
    "BASIS_METHODS",
    "Refresh",
    "eigenbasis",
    "in_order",
    "orthogonal_iteration",
    "rayleigh_quotients",
]

BASIS_METHODS: tuple[str, ...] = ("eigh", "orthogonal_iteration")


class Refresh(NamedTuple):
    """A new basis, and which column of the previous one each of its columns continues.

    Attributes:
        basis: `[..., n, n]`, orthonormal columns, largest eigenvalue first.
        order: `[..., n]` indices. State kept per column (Adam's second moment in SOAP) moves along
            by ``state.take_along_dim(order, -1)``; it says nothing of signs, a square has none.
    """

    basis: Tensor
    order: Tensor


def eigenbasis(A: Tensor, previous: Tensor | None = None, *, method: str = "eigh") -> Refresh:
    """Eigenvectors of every symmetric matrix of a stack, as columns, largest eigenvalue first.

    Args:
        A: `[..., n, n]`, symmetric up to rounding.
        previous: `[..., n, n]`, the basis to continue. Its columns are ranked by the eigenvalues
            they estimate, ``diag(P^T A P)``; ``order`` is that ranking. Without it there is nothing
            to iterate or to continue: every method is ``"eigh"`` and ``order`` is 0, 1, 2, ...
        method: ``"eigh"`` (the eigenvectors), or ``"orthogonal_iteration"`` (one step towards them:
            Q of the QR decomposition of ``A P``, columns ranked first), as SOAP (arXiv 2409.11321)
            and 4-bit Shampoo (arXiv 2405.18144) refresh their bases.

    Returns:
        A `Refresh`. Its basis is orthonormal whatever ``A`` and ``previous`` hold: a singular or
        zero ``A``, a ``previous`` with zero, equal or unnormalised columns. The two references
        leave column signs to LAPACK; here QR takes the sign with ``diag(R) >= 0``, so a basis of
        eigenvectors of a positive definite matrix stays what it is. A matrix with a NaN or an Inf,
        in ``A`` or ``previous``, gives a NaN basis for itself only.

    Raises:
        MatrixError: not a stack of square symmetric matrices, ``previous`` of another shape,
            unknown method. Looking for asymmetry moves one flag from the device to the host.
        ConvergenceError: the eigendecomposition failed at every rung of its ladder.
    """
    check_choice("method", method, BASIS_METHODS, MatrixError)
    stack = prepare_symmetric(A)
    n = A.shape[-1]
    if previous is None:
        order = torch.arange(n, device=A.device).expand(A.shape[:-1]).clone()
        return Refresh(stack.restore(_eigenvectors(stack.values)), order)
    before = _prepare_previous(previous, A)
    stack = replace(stack, poisoned=stack.poisoned | before.poisoned)
    if method == "eigh":
        image = stack.values @ before.values
        found = Refresh(_eigenvectors(stack.values), _ranking(before.values, image))
    else:
        found = orthogonal_iteration(stack.values, before.values)
    return Refresh(stack.restore(found.basis), found.order.reshape(A.shape[:-1]))


def orthogonal_iteration(A: Tensor, P: Tensor, rank: int | None = None) -> Refresh:
    """One step of orthogonal iteration: ``orthonormal(A P)``, the columns of P ranked first.

    Args:
        A: `[..., n, n]`, symmetric: that is not checked.
        P: `[..., n, n]`, in the dtype of A, or in 16 bits: then the products are taken so, and the
            basis is as near as bfloat16 allows, see `orthonormal`.
        rank: of A at most, if less than n. Any basis of its null space will do, but this one does
            not depend on rounding.

    Returns:
        A `Refresh` in the dtype of P. Where A or P is not finite neither is the basis, and the
        order is 0, 1, 2, ...
    """
    image = _image(A, P)
    order = _ranking(P, image)
    ranked = in_order(image.mT, order).mT
    return Refresh(orthonormal_of_rank(ranked, A.shape[-1] if rank is None else rank), order)


def rayleigh_quotients(A: Tensor, P: Tensor) -> Tensor:
    """``diag(P^T A P)`` `[..., n]`, for symmetric A and P as in `orthogonal_iteration`.

    They are off the eigenvalues by the squares of what P is off the eigenvectors: for eigenvectors
    rounded to bfloat16 by 0.004 of each, and by 3e-6 of the largest at most (measured, columns of
    16 to 1024 numbers). For those that `eigh` found in float32 they are nearer than its own.
    """
    return _quotients(P, _image(A, P))


def in_order(X: Tensor, order: Tensor) -> Tensor:
    """The rows of every matrix of X `[..., n, c]`, sorted as ``order`` `[..., n]` says."""
    count, n = order.shape[:-1].numel(), order.shape[-1]
    starts = n * torch.arange(count, device=X.device).view(*order.shape[:-1], 1)
    rows = X.flatten(0, -2).contiguous()  # a row in one piece is picked at once
    return rows.index_select(0, (order + starts).flatten()).view(X.shape)


def _eigenvectors(A: Tensor) -> Tensor:
    return eigh(A)[1].flip(-1)


def _ranking(P: Tensor, image: Tensor) -> Tensor:
    """The columns of P by falling ``diag(P^T A P)``, given ``A P``; as they are if a NaN or an Inf
    is among these.
    """
    estimates = _quotients(P, image)
    finite = estimates.isfinite().all(-1, keepdim=True)
    return estimates.where(finite, 0.0).argsort(dim=-1, descending=True, stable=True)


def _quotients(P: Tensor, image: Tensor) -> Tensor:
    return (P * image).sum(-2, dtype=working_dtype(P.dtype))


def _image(A: Tensor, P: Tensor) -> Tensor:
    """``A P``, for P in 16 bits with A as two numbers of 16 bits: rounded to one, the large
    eigenvalues would drown the small ones.
    """
    if P.dtype == A.dtype:
        return matmul(A, P)
    coarse = A.to(P.dtype)
    return matmul(coarse, P).add_(matmul((A - coarse).to(P.dtype), P))


def _prepare_previous(previous: Tensor, A: Tensor) -> Stack:
    stack = prepare(previous, "previous")
    if previous.shape != A.shape:
        raise MatrixError(
            f"previous has shape {tuple(previous.shape)}, A {tuple(A.shape)}: give the basis that "
            "an earlier call returned for this matrix, or None"
        )
    return replace(stack, values=stack.values.to(working_dtype(A.dtype)))
