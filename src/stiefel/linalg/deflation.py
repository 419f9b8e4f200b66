"""Outlier deflation: lower the largest singular values, and leave the polar factor where it is.

Real momentum has singular values a thousand times below the largest, and a Newton-Schulz step
lifts the small ones at most about eightfold. But for every symmetric positive definite H that
commutes with ``X X^T``, ``polar(H X) = polar(X)``. So before the steps take

    ``H X = X - Q^T L + tau Q^T polar(L)``,  ``L = Q X``,

with Q `[k, m]` an orthonormal basis of nearly the k leading left singular vectors: they all come
down to nearly tau, the others stay. It is ``H = I - Q^T (I - tau (L L^T)^(-1/2)) Q``.

Bias. Q is approximate, so H commutes with ``P = (X X^T)^(1/2)`` only nearly. ``H X`` is
``(H P) polar(X)``, and ``H P`` differs from its symmetric part S by ``[H, P] / 2``. Where S is
positive definite its polar factor is I, and by R.-C. Li's bound (SIAM J. Matrix Anal. Appl. 16,
1995) the factor turns by at most

    ``|polar(H X) - polar(X)|_F <= |[H, P]|_F / (sigma_min(H P) + lambda_min(S))``.

H is positive definite whatever Q is: it flips no direction, and where there is nothing to lower (a
flat spectrum) it is near a multiple of I on the range of Q.

Precision. The rows of the sketch are all dominated by the first direction, so their product with X
needs float32, and what makes them orthonormal float64; the rest does not. No eigenvalues, no random
numbers but a fixed pattern of signs, no look at a number from the host.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.linalg import cholesky_ex, solve_triangular, vector_norm

from stiefel.linalg.iteration import multiplier
from stiefel.linalg.minimax import minimax
from stiefel.linalg.products import (
    accumulate,
    add_product,
    left_product,
    symmetric_product,
)
from stiefel.linalg.stack import working_dtype

__all__ = ["deflate"]

# Where a few directions stand far above the rest, the rows of L are graded down to the least that
# `_above_rounding` keeps; lifted too little, they would come down below the rest.
LEVELLING = minimax(6e-3, 4)


def deflate(X: Tensor, rank: int, dtype: torch.dtype, *, exact: bool) -> Tensor:
    """``H X`` in ``dtype`` for wide X, `[m, n]` or `[b, m, n]`.

    Args:
        X: what to deflate, in the precision it came in, its Frobenius norm within 1e+-4, or zero.
        rank: how many singular values to lower, k above; sensibly m / 16 to m / 3.
        dtype: precision of the sketch and of the result.
        exact: spend more on it. Form ``H X`` of X itself rather than of X rounded to ``dtype``:
            what the outliers' entries lose in rounding is as large as the smallest singular values.
            And find Q from the columns of a long X as they are, not from about m sums of them.
    """
    Y = X.to(dtype)
    short = X if exact else _folded(X, rank)
    sketch = _sketch(short, Y if short is X else short.to(dtype), rank)
    # Laid by rows, else the last bit of its product with Y tells a matrix from one of several.
    Q = _orthonormal(sketch).to(dtype, memory_format=torch.contiguous_format)
    leading = _above_rounding(Q @ Y)
    change = add_product(leading, _levelling(leading).to(dtype), leading, beta=-1.0)
    if exact:
        whole = X.to(working_dtype(X.dtype))
        return add_product(whole, Q.mT.to(whole.dtype), change.to(whole.dtype)).to(dtype)
    return (add_product if Y is X else accumulate)(Y, Q.mT, change)


def _folded(X: Tensor, rank: int) -> Tensor:
    """Signed sums of columns `[m, n']`, n' at least m and four for each direction that is sought.

    A count sketch. A sample of the columns would be made faster, but miss an outlier of the others.
    """
    n = X.shape[-1]
    folds = n // max(X.shape[-2], 4 * rank)
    if folds < 2:
        return X
    length = -(-n // folds)
    signs = _signs(1, n, X)
    total = X[..., :length] * signs[:, :length]
    for start in range(length, n, length):
        block = X[..., start : start + length]
        total[..., : block.shape[-1]].addcmul_(block, signs[:, start : start + length])
    return total


def _sketch(X: Tensor, Y: Tensor, rank: int) -> Tensor:
    """``S X X^T`` `[k, m]`, S of signs; Y is X in the precision of the first product."""
    wide = working_dtype(Y.dtype)
    half = left_product(_signs(rank, Y.shape[-2], Y), Y)
    return half.to(wide) @ X.mT.to(wide)


def _orthonormal(rows: Tensor) -> Tensor:
    """Orthonormal rows of the same span, the first along the first row, and so on (Cholesky QR).

    Rows so nearly dependent that even float64 cannot tell come out shorter, which lowers less of
    them. cholesky_ex does not look at its numbers from the host, as a QR does.
    """
    wide = rows.to(torch.float32 if rows.device.type == "mps" else torch.float64)
    squares = symmetric_product(wide)
    rank, finfo = squares.shape[-1], torch.finfo(squares.dtype)
    diagonal = squares.diagonal(dim1=-2, dim2=-1)
    diagonal += (rank * finfo.eps * diagonal.sum(-1, keepdim=True)).clamp_min(finfo.tiny)
    basis: Tensor = solve_triangular(cholesky_ex(squares).L, wide, upper=False)
    return basis.to(rows.dtype)


def _above_rounding(rows: Tensor) -> Tensor:
    """Zero for rows below 2**-9 of the longest, of which they may be the rounding in 16 bits.

    What is left of the directions that they stand for then stays in X as it is.
    """
    wide = working_dtype(rows.dtype)
    lengths: Tensor = vector_norm(rows, dim=-1, keepdim=True, dtype=wide)
    return rows * (512 * lengths >= lengths.amax(-2, keepdim=True))


def _levelling(leading: Tensor) -> Tensor:
    """``tau (L L^T)^(-1/2)`` `[k, k]`, at least in float32, in which squares do no harm.

    tau is a little less than the shortest row of L: rows are as long as the root mean square of the
    singular values that they mix. And not below 2**-8 of the longest, of which shorter rows may be
    the rounding.
    """
    wide = leading.to(working_dtype(leading.dtype))
    squares = _near_one(symmetric_product(wide))
    lengths = squares.diagonal(dim1=-2, dim2=-1)
    shortest, longest = lengths.amin(-1, keepdim=True), lengths.amax(-1, keepdim=True)
    tau = 0.7 * torch.maximum(shortest, longest / 256**2).sqrt()
    root = multiplier(squares, LEVELLING.triples(), room=LEVELLING.headroom**2)
    return root * tau.unsqueeze(-1)


def _near_one(squares: Tensor) -> Tensor:
    """Times a power of two, which cancels in ``tau (L L^T)^(-1/2)``: it takes fourth powers."""
    largest = squares.detach().diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
    return squares * torch.exp2(-torch.frexp(largest).exponent)


def _signs(rows: int, columns: int, like: Tensor) -> Tensor:
    """Signs that look random, the same in every process, on every device, compiled too."""
    plain = type(like) is Tensor and not torch.compiler.is_compiling()
    made = _kept_signs if plain else _made_signs
    return made(rows, columns, like.dtype, like.device)


def _made_signs(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    hashed = torch.arange(1, rows * columns + 1, device=device).view(rows, columns)
    for _ in range(3):
        hashed = (5 * hashed * hashed + 7919 * hashed + 104729) % 1048573
    return (hashed % 2 * 2 - 1).to(dtype)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # of which a tensor that is kept would be of no use to autograd
def _kept_signs(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return _made_signs(rows, columns, dtype, device)
