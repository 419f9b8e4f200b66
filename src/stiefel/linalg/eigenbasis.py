"""Orthonormal eigenbases of symmetric matrices, largest eigenvalue first, and their refresh."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from stiefel.errors import MatrixError
from stiefel.linalg.decompositions import eigh
from stiefel.linalg.stack import Stack, prepare, working_dtype
from stiefel.linalg.symmetric import prepare_symmetric

__all__ = ["BASIS_METHODS", "Refresh", "eigenbasis"]

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
    if method not in BASIS_METHODS:
        raise MatrixError(f"method={method!r} is unknown: choose one of {', '.join(BASIS_METHODS)}")
    stack = prepare_symmetric(A)
    n = A.shape[-1]
    if previous is None:
        order = torch.arange(n, device=A.device).expand(A.shape[:-1]).clone()
        return Refresh(stack.restore(_eigenvectors(stack.values)), order)
    before = _prepare_previous(previous, A)
    stack = replace(stack, poisoned=stack.poisoned | before.poisoned)
    image, order = _ranked(stack.values, before.values)
    basis = _eigenvectors(stack.values) if method == "eigh" else _orthonormal(image)
    return Refresh(stack.restore(basis), order.reshape(A.shape[:-1]))


def _eigenvectors(A: Tensor) -> Tensor:
    return eigh(A)[1].flip(-1)


def _ranked(A: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
    """The columns of ``A P`` by falling ``diag(P^T A P)``, and where each of them was."""
    image = A @ P
    order = (P * image).sum(-2).argsort(dim=-1, descending=True, stable=True)
    return image.take_along_dim(order.unsqueeze(-2), -1), order


def _orthonormal(X: Tensor) -> Tensor:
    """Q of ``X = Q R`` with ``diag(R) >= 0``: Householder's Q is orthonormal at any rank of X."""
    Q, R = torch.linalg.qr(X)
    negative = R.diagonal(dim1=-2, dim2=-1) < 0
    return torch.where(negative.unsqueeze(-2), -Q, Q)


def _prepare_previous(previous: Tensor, A: Tensor) -> Stack:
    stack = prepare(previous, "previous")
    if previous.shape != A.shape:
        raise MatrixError(
            f"previous has shape {tuple(previous.shape)}, A {tuple(A.shape)}: give the basis that "
            "an earlier call returned for this matrix, or None"
        )
    return replace(stack, values=stack.values.to(working_dtype(A.dtype)))
