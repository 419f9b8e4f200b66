"""Maps that change the singular values of a matrix and keep its singular vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from stiefel.errors import MatrixError, check_choice
from stiefel.linalg.decompositions import significant, svd
from stiefel.linalg.newton import check_steps, identity, norm_bound, square_roots
from stiefel.linalg.polar import polar
from stiefel.linalg.products import symmetric_product
from stiefel.linalg.stack import check_precision, prepare

__all__ = ["CLIP_METHODS", "msign", "soft_clip"]

CLIP_METHODS: tuple[str, ...] = ("newton_schulz", "exact")

# A threshold this many times the largest entry clips nothing that float64 could tell.
NO_CLIP = 2.0**60


msign = polar
"""`polar` under the name that the Muon literature gives it: every singular value becomes 1.

``msign(X) = U V^T`` for ``X = U S V^T``, of any shape (J. Su's articles on Muon; The Polar Express,
arXiv 2505.16932). It is not the classical matrix sign function ``X (X^2)^(-1/2)``, which keeps the
eigenvectors of a square X; the two agree where X is symmetric.
"""


def soft_clip(
    X: Tensor,
    threshold: float,
    *,
    steps: int | None = 10,
    method: str = "newton_schulz",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Soft spectral clipping: every singular value s becomes ``s / sqrt(1 + s^2 / c^2) < c``.

    ``H_c(X) = (I + X X^T / c^2)^(-1/2) X`` of SPECTRA (arXiv 2603.14315): it leaves singular values
    far below the threshold c alone and brings those far above it to c. ``H_c -> X`` as c grows and
    ``H_c / c -> polar(X)`` as c falls.

    Args:
        X: `[..., m, n]`.
        threshold: c > 0, in the units of X.
        steps: of ``"newton_schulz"``: SPECTRA's 10, or None until convergence, which looks from the
            host after each step. Too few leave the smaller singular values too small. Measured with
            10, relative error 1e-8 where the largest is 10 c, 1e-3 at 20 c, 0.2 at 100 c.
        method: ``"newton_schulz"`` (products only, as SPECTRA) or ``"exact"`` (singular value
            decomposition).
        dtype: of the products of ``"newton_schulz"``; None is the working precision, at least
            float32. SPECTRA's is bfloat16: a fifth of the time on a CPU with bfloat16 units, and a
            relative error on real momentum of 0.01 where the largest singular value is 10 c, 0.02
            at 16 c. From there on the rounding of ``X X^T`` takes the place of c: small singular
            values shrink, to a half at 33 c (error 0.3), but none ends above 1.1 c. Without that a
            sparse momentum of rank one ended at 200 c (measured).

    Returns:
        Same shape and dtype. ``soft_clip(a X, a c) = a soft_clip(X, c)`` for a > 0. The iteration
        works on ``X X^T``: it does not resolve singular values below ``sqrt(eps)`` of the largest,
        and run to convergence it may leave the largest above c by ``sqrt(eps) c``. ``"exact"``
        takes those that are rounding noise for zero. A matrix with a NaN or an Inf gives NaN for
        itself only. ``"exact"`` is differentiable where singular values are distinct.

    Raises:
        MatrixError: a threshold that is not positive, unknown method, bad ``steps``, no matrix; a
            dtype without a number of steps, or for ``"exact"``.
        ConvergenceError: the singular value decomposition failed at every rung of its ladder.
    """
    check_choice("method", method, CLIP_METHODS, MatrixError)
    if not threshold > 0:
        raise MatrixError(f"threshold={threshold!r} is out of range: give threshold > 0")
    check_steps(steps)
    check_precision(dtype)
    if dtype is not None and (method == "exact" or steps is None):
        raise MatrixError(
            f"dtype={dtype!r} is for a number of steps of 'newton_schulz': "
            f"with method={method!r}, steps={steps!r} leave it"
        )
    stack = prepare(X)
    if X.numel() == 0:
        return X.clone()
    c = (threshold * torch.exp2(-stack.exponent.double())).clamp_max(NO_CLIP)
    c = c.to(stack.values.dtype).view(-1, 1, 1)
    if method == "exact":
        return stack.restore(_exact(stack.values, c), 1)
    clipped = _iterated(stack.values, c, steps, dtype or stack.values.dtype)
    return stack.restore(clipped, 1)


def _exact(X: Tensor, c: Tensor) -> Tensor:
    U, S, Vh = svd(X)
    c = c.squeeze(-1)
    clipped = c * S / torch.hypot(S, c.clamp_min(torch.finfo(S.dtype).tiny))
    return (U * (clipped * significant(S, X.shape)).unsqueeze(-2)) @ Vh


def _iterated(X: Tensor, c: Tensor, steps: int | None, dtype: torch.dtype) -> Tensor:
    """``c (c^2 I + X X^T)^(-1/2) X`` on the short side."""
    if X.shape[-2] > X.shape[-1]:
        return _iterated(X.mT, c, steps, dtype).mT
    Y = X.to(dtype)
    # Squares of a long row add up to more than float16 has numbers for.
    gram = symmetric_product(Y if dtype != torch.float16 else X).to(X.dtype)
    bound = norm_bound(gram)
    # Not below the rounding of the Gram matrix, whose zero eigenvalues may come out negative.
    square = torch.maximum(c * c, _rounding(dtype) * bound)
    total = bound + square
    damped = ((gram + square * identity(gram)) / total).to(dtype)
    inverse = square_roots(damped, torch.ones_like(total, dtype=dtype), steps)[1]
    return (inverse @ Y).to(X.dtype) * (c / total.sqrt())


def _rounding(dtype: torch.dtype) -> float:
    """Of a Gram matrix, relative to its norm; in 16 bits products are rounded once, at the end."""
    return torch.finfo(dtype).eps / (2 if dtype.itemsize == 2 else 1)
