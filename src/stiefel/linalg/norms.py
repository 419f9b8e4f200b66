"""What the singular values of a matrix measure: norms, condition number, ranks.

A matrix without entries measures 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from stiefel.errors import MatrixError, check_choice
from stiefel.linalg.decompositions import eigvalsh, significant, svdvals
from stiefel.linalg.low_rank import gaussian
from stiefel.linalg.products import symmetric_product
from stiefel.linalg.stack import prepare

__all__ = [
    "PowerIteration",
    "condition_number",
    "effective_rank",
    "nuclear_norm",
    "power_iteration",
    "schatten_norm",
    "spectral_norm",
    "stable_rank",
]

# From a cold start, as torch.nn.utils.parametrizations.spectral_norm; warm, one step a call.
STEPS = 15
NORMS = ("exact", "power", "bound")


class PowerIteration(NamedTuple):
    """The leading singular value `[...]` and its unit vectors `[..., m]` and `[..., n]`."""

    sigma: Tensor
    left: Tensor
    right: Tensor


def spectral_norm(
    X: Tensor, *, method: str = "exact", steps: int = STEPS, start: Tensor | None = None
) -> Tensor:
    """The largest singular value of every matrix of a stack.

    Args:
        X: stack `[..., m, n]`, real floating point.
        method: ``"exact"``; ``"power"``, never above the truth, see `power_iteration`; ``"bound"``,
            the Schatten 8-norm ``||(X X^T)^2||_F^(1/4)``, between the truth and
            ``min(m, n)^(1/8)`` times it (but for rounding), for two products.
        steps, start: of ``"power"``.

    Returns:
        `[...]` in the dtype of ``X``.

    Raises:
        MatrixError: ``X`` is no stack of matrices; an unknown method; as in `power_iteration`.
        ConvergenceError: the decomposition failed on finite input.
    """
    check_choice("method", method, NORMS, MatrixError)
    if method == "power":
        return power_iteration(X, steps=steps, start=start).sigma
    return schatten_norm(X, math.inf if method == "exact" else 8)


def power_iteration(
    X: Tensor, *, steps: int = STEPS, start: Tensor | None = None
) -> PowerIteration:
    """The leading singular triple by ``u = X v / |X v|``, ``v = X^T u / |X^T u|``.

    ``sigma = u^T X v`` is never above the truth and grows with every step. The angle between ``v``
    and its limit shrinks by ``(sigma_2 / sigma_1)^2`` a step, so a small gap needs many steps; but
    where the matrix changes little between calls, one step from the last ``right`` keeps up
    (spectral normalisation, Miyato et al., arXiv 1802.05957). The products are with ``X`` itself:
    its Gram matrix pays only from about ``min(m, n) / 4`` steps on.

    Args:
        X: stack `[..., m, n]`, real floating point.
        steps: at least 1.
        start: right vectors `[..., n]`, usually the last call's. None, and any vector of zero or
            non-finite length (what a matrix with a NaN leaves), mean a fixed pseudorandom vector:
            fixed, so that the result is a function of ``X`` alone; random, because a plain one may
            be orthogonal to what is looked for, as ones are where the rows are centred.

    Returns:
        `PowerIteration` in the dtype of ``X``. A zero matrix gives 0 and some unit vectors. To
        autograd the vectors are constants; the gradient of ``sigma`` is ``u v^T``.

    Raises:
        MatrixError: ``X`` is no stack of matrices, fewer steps than 1, ``start`` of another shape.
    """
    if steps < 1:
        raise MatrixError(f"steps={steps}: power iteration takes at least 1")
    stack = prepare(X)
    A = stack.values.detach()
    right = _start(start, X.shape, A)
    left = A.new_full((A.shape[-2], 1), max(A.shape[-2], 1) ** -0.5)
    for _ in range(steps):
        left = _unit(A @ right, left)
        right = _unit(A.mT @ left, right)
    sigma = (left.mT @ stack.values @ right).flatten()
    left, right = left.squeeze(-1), right.squeeze(-1)
    return PowerIteration(stack.restore(sigma, 1), stack.restore(left), stack.restore(right))


def nuclear_norm(X: Tensor) -> Tensor:
    """The sum of the singular values, `schatten_norm` with ``p = 1``.

    Who has ``U = polar(X)`` anyway has it as ``<X, U>``.
    """
    return schatten_norm(X, 1)


def schatten_norm(X: Tensor, p: float) -> Tensor:
    """``(sum_i sigma_i^p)^(1/p)``: nuclear for 1, Frobenius for 2, spectral for infinity.

    ``p = 2, 4, 6, 8`` need no decomposition: ``sum_i sigma_i^p`` is the trace of a power of the
    Gram matrix. (Higher powers leave the range of float32.) Infinity takes the largest eigenvalue
    of the Gram matrix in float64: right to the last digits, and measured on a CPU 1.2 (512 x 512)
    to 6 times (768 x 3072) as fast as the singular values in float32.

    Args:
        X: stack `[..., m, n]`, real floating point.
        p: from 1 to infinity.

    Returns:
        `[...]` in the dtype of ``X``.

    Raises:
        MatrixError: ``X`` is no stack of matrices; ``p`` below 1, which is no norm.
        ConvergenceError: the decomposition failed on finite input.
    """
    if not p >= 1:
        raise MatrixError(f"p={p}: a Schatten norm has p >= 1, up to float('inf')")
    if p == math.inf:
        return _measure(X, lambda A: _power(_gram_spectrum(A)[..., -1], 1 / 2), degree=1)
    if p in (2, 4, 6, 8):
        return _measure(X, lambda A: _even_schatten(A, int(p)), degree=1)
    return _measure(X, lambda A: _lp(svdvals(A), p), degree=1)


def condition_number(X: Tensor) -> Tensor:
    """The largest over the smallest of the ``min(m, n)`` singular values.

    The matrix is taken as it is stored and decomposed in float64 whatever its dtype, not by way of
    the Gram matrix, which would square the condition. Where the smallest singular value is no more
    than rounding noise, ``sigma_min <= max(m, n) eps sigma_max`` with float64's eps (the rule of
    torch.linalg.matrix_rank), no digit of the quotient would be right and the answer is inf; so it
    is for a zero matrix. A narrower matrix that was singular before its entries were rounded to its
    dtype is not so as stored: it shows about ``1 / eps`` of that dtype.

    Args:
        X: stack `[..., m, n]`, real floating point.

    Returns:
        `[...]` in the dtype of ``X``, from 1 to inf; above 65504 a float16 shows inf.

    Raises:
        MatrixError: ``X`` is no stack of matrices.
        ConvergenceError: the decomposition failed on finite input.
    """
    return _measure(X, _condition, degree=0)


def stable_rank(X: Tensor) -> Tensor:
    """``||X||_F^2 / ||X||_2^2``: from 1 to the rank, and little moved by small singular values.

    Args:
        X: stack `[..., m, n]`, real floating point.

    Returns:
        `[...]` in the dtype of ``X``; 0 for a zero matrix.

    Raises:
        MatrixError: ``X`` is no stack of matrices.
        ConvergenceError: the decomposition failed on finite input.
    """
    return _measure(X, _stable_rank, degree=0)


def effective_rank(X: Tensor) -> Tensor:
    """``exp(-sum_i p_i log p_i)`` with ``p_i = sigma_i / sum_j sigma_j``.

    The number of equal singular values that would have the same entropy: from 1 to the rank (O. Roy
    & M. Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007).

    Args:
        X: stack `[..., m, n]`, real floating point.

    Returns:
        `[...]` in the dtype of ``X``; 0 for a zero matrix.

    Raises:
        MatrixError: ``X`` is no stack of matrices.
        ConvergenceError: the decomposition failed on finite input.
    """
    return _measure(X, _effective_rank, degree=0)


def _measure(X: Tensor, of: Callable[[Tensor], Tensor], degree: int) -> Tensor:
    """``of`` the prepared stack `[b, m, n]` -> `[b]`, for the input itself."""
    stack = prepare(X)
    value = of(stack.values) if X.numel() else stack.values.new_zeros(len(stack.values))
    return stack.restore(value, degree)


def _gram(A: Tensor) -> Tensor:
    """``A A^T`` or ``A^T A``, whichever is smaller."""
    A = A if A.shape[-2] <= A.shape[-1] else A.mT
    return symmetric_product(A)


def _gram_spectrum(A: Tensor) -> Tensor:
    """The squares of the singular values, ascending: right to float64's eps times the largest."""
    return eigvalsh(_gram(A.double()))


def _even_schatten(A: Tensor, p: int) -> Tensor:
    if p == 2:
        frobenius: Tensor = torch.linalg.vector_norm(A, dim=(-2, -1))
        return frobenius
    gram, q = _gram(A), p // 2
    low, high = (torch.linalg.matrix_power(gram, power) for power in (q // 2, q - q // 2))
    return _power((low * high).sum((-2, -1)), 1 / p)


def _lp(S: Tensor, p: float) -> Tensor:
    """The p-norm of descending ``S``, relative to the largest: a high power would overflow."""
    largest = S[..., :1]
    relative: Tensor = torch.linalg.vector_norm(S / _positive(largest), ord=p, dim=-1)
    return largest.squeeze(-1) * relative


def _condition(A: Tensor) -> Tensor:
    S = svdvals(A.double())
    regular = significant(S, A.shape)[..., -1]
    return (S[..., 0] / S[..., -1]).masked_fill(~regular, math.inf)


def _stable_rank(A: Tensor) -> Tensor:
    L = _gram_spectrum(A)
    return L.sum(-1) / _positive(L[..., -1])


def _effective_rank(A: Tensor) -> Tensor:
    S = svdvals(A)
    total = S.sum(-1)
    entropy = torch.special.entr(S / _positive(total).unsqueeze(-1)).sum(-1)
    rank: Tensor = entropy.exp() * (total > 0)
    return rank


def _power(x: Tensor, p: float) -> Tensor:
    """``x**p`` for ``x >= 0`` and ``0 < p < 1``, whose infinite slope at 0 autograd would meet."""
    return x * _positive(x) ** (p - 1)


def _positive(x: Tensor) -> Tensor:
    """A divisor: 0 becomes the smallest normal number."""
    return x.clamp_min(torch.finfo(x.dtype).tiny)


def _start(start: Tensor | None, shape: torch.Size, A: Tensor) -> Tensor:
    """Unit columns `[b, n, 1]`, or `[n, 1]` for all."""
    n = shape[-1]
    cold = gaussian(n, 1, A)
    cold = _unit(cold, cold)
    if start is None:
        return cold
    if start.shape != (*shape[:-2], n):
        raise MatrixError(
            f"start has shape {tuple(start.shape)}: the right vectors of matrices "
            f"{tuple(shape)} are {(*shape[:-2], n)}"
        )
    return _unit(start.detach().reshape(len(A), n, 1).to(A), cold)


def _unit(columns: Tensor, fallback: Tensor) -> Tensor:
    """Columns `[..., n, 1]` at length 1; ``fallback`` where the length is zero or not finite."""
    length = torch.linalg.vector_norm(columns, dim=-2, keepdim=True)
    return torch.where(length.isfinite() & (length > 0), columns / length, fallback)
