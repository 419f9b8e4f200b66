"""The polar factor from a singular value or an eigenvalue decomposition, and its derivative."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stiefel.errors import MatrixError
from stiefel.linalg.decompositions import eigh, svd
from stiefel.linalg.products import symmetric_product

__all__ = ["GramEigh", "Svd"]


@dataclass(frozen=True)
class Svd:
    """``U V^T`` of ``X = U S V^T``, decomposed in float64.

    Singular values up to ``4 eps sigma_1``, eps of X's dtype, are rounding noise and contribute
    zero (up to ``max(m, n) eps sigma_1`` in float64). A decomposition in float32 would have to cut
    max(m, n) / 4 times higher, and drop directions of a real momentum matrix by the dozen.
    Differentiable once, at repeated singular values too.
    """

    def __call__(self, X: Tensor) -> Tensor:
        """Polar factors of a stack `[b, m, n]`."""
        U, S, Vh = (factor.to(X.dtype) for factor in svd(X.detach().double()))
        return _factor(X, U, _noise_to_inf(S, _rounding(X)), Vh)


@dataclass(frozen=True)
class GramEigh:
    """``(X X^T)^(-1/2) X``, with ``X X^T = U S^2 U^T`` decomposed in float64.

    Squaring pushes small singular values under the rounding of the large ones. What is not above
    both ``sqrt(max(m, n) eps64) sigma_1`` and `Svd`'s cut contributes zero.

    For float32 input the two are of one size: little is lost against `Svd`. (With a float32 Gram
    matrix and ``max(m, n) eps32`` on its eigenvalues, as some optimisers have it, half the
    directions of a real momentum matrix are dropped.) For float64 input `Svd` and `Qdwh` see eight
    more digits. Differentiable like `Svd`.
    """

    def __call__(self, X: Tensor) -> Tensor:
        """Polar factors of a stack `[b, m, n]`, wide for speed."""
        wide = X.detach().double()
        squares, U = eigh(symmetric_product(wide))
        cut = max(_rounding(X), math.sqrt(_rounding(wide)))
        S = _noise_to_inf(squares.clamp_min(0).sqrt(), cut)
        Vh = (U.mT @ wide) / S.unsqueeze(-1)
        return _factor(X, U.to(X.dtype), S.to(X.dtype), Vh.to(X.dtype))


def _rounding(X: Tensor) -> float:
    """What rounding X, and decomposing it in float64, may add to a singular value of 0."""
    return max(4 * torch.finfo(X.dtype).eps, max(X.shape[-2:]) * torch.finfo(torch.float64).eps)


def _noise_to_inf(S: Tensor, cut: float) -> Tensor:
    """Infinite where ``S <= cut sigma_1``: a direction of noise has inverse zero."""
    return S.masked_fill(cut * S.amax(-1, keepdim=True) >= S, math.inf)


def _factor(X: Tensor, U: Tensor, S: Tensor, Vh: Tensor) -> Tensor:
    kept = S.isfinite()
    factor: Tensor = _PolarFactor.apply(  # type: ignore[no-untyped-call]
        X, U * kept.unsqueeze(-2), S, Vh * kept.unsqueeze(-1)
    )
    return factor


class _PolarFactor(torch.autograd.Function):
    """``U V^T`` as a function of X, of which (U, S, Vh) is the decomposition.

    With ``K_ij = 1 / (s_i + s_j)`` and ``B = U^T dX V``

        ``dP = U [K * (B - B^T)] V^T + U S^-1 U^T dX (I - V V^T) + (I - U U^T) dX V S^-1 V^T``.

    P is the gradient of the nuclear norm, so this map is its own adjoint: it also takes a gradient
    at P to the one at X. Only sums of singular values are inverted. Repeated ones do no harm, where
    the derivative of the decomposition itself divides by their differences. A dropped direction is
    held at zero: the derivative is the one along the matrices of the same rank.
    """

    @staticmethod
    def forward(ctx: Any, X: Tensor, U: Tensor, S: Tensor, Vh: Tensor) -> Tensor:
        ctx.save_for_backward(U, S, Vh)
        return U @ Vh

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, None, None, None]:
        if torch.is_grad_enabled():  # by create_graph=True: U, S and V would count as constants
            raise MatrixError(
                "a decomposed polar factor has a first derivative only: ask for it with "
                "create_graph=False, or choose qdwh, which autograd differentiates again"
            )
        U, S, Vh = ctx.saved_tensors
        left, right = U.mT @ G, G @ Vh.mT
        B = left @ Vh.mT
        inverse = S.reciprocal()
        turn = (B - B.mT) / (S.unsqueeze(-1) + S.unsqueeze(-2))
        inside = turn @ Vh + inverse.unsqueeze(-1) * (left - B @ Vh)
        outside = (right - U @ B) * inverse.unsqueeze(-2)
        return U @ inside + outside @ Vh, None, None, None
