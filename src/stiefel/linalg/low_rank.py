"""Low rank: bases of a range, truncated decompositions and polar factors, exact or randomised.

The randomised forms are those of N. Halko, P.-G. Martinsson & J. Tropp, Finding structure with
randomness (SIAM Review 2011, arXiv 0909.4061): multiply by a thin random matrix ("sketch"),
orthonormalise, and work on what is left.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stiefel.errors import MatrixError, check_choice
from stiefel.linalg.decompositions import significant, svd
from stiefel.linalg.stack import prepare

__all__ = ["TruncatedSVD", "gaussian", "polar_low_rank", "range_finder", "truncated_svd"]

# Halko et al. advise 5 or 10 spare columns and one or two power steps; scikit-learn's default
# is 10 as well, torch.svd_lowrank's two power steps.
OVERSAMPLING, POWER = 10, 2


class TruncatedSVD(NamedTuple):
    """``X ~ U diag(S) Vh``: `[..., m, r]`, descending `[..., r]`, `[..., r, n]`."""

    U: Tensor
    S: Tensor
    Vh: Tensor


def range_finder(
    X: Tensor,
    rank: int,
    *,
    oversampling: int = OVERSAMPLING,
    power: int = POWER,
    seed: int | Tensor = 0,
) -> Tensor:
    """Orthonormal columns that nearly span the ``rank`` leading left singular vectors.

    ``Q = orth((X X^T)^power X Omega)`` with a Gaussian ``Omega`` `[n, k]`, orthonormalised after
    every product: the bare power drowns the small directions in rounding.

    Args:
        X: stack `[..., m, n]`, real floating point.
        rank: how many directions are wanted, at most ``min(m, n)``.
        oversampling: how many more are drawn.
        power: number of power steps: each gives direction j another weight ``sigma_j^2``.
        seed: of the sketch, see `gaussian`. Every matrix of a stack has the same sketch, so that a
            stack equals its matrices one at a time.

    Returns:
        ``Q`` `[..., m, k]` with ``k = min(rank + oversampling, m, n)`` in the dtype of ``X``. A
        direction that ``X`` does not have is filled up arbitrarily: ``Q^T Q = I`` always.

    Raises:
        MatrixError: ``X`` is no stack of matrices, or a number is out of range.
    """
    stack = prepare(X)
    _check("rank", rank, 0, min(X.shape[-2:]))
    return stack.restore(_range(stack.values, rank, oversampling, power, seed))


def truncated_svd(
    X: Tensor,
    rank: int,
    *,
    method: str = "exact",
    oversampling: int = OVERSAMPLING,
    power: int = POWER,
    seed: int | Tensor = 0,
) -> TruncatedSVD:
    """The ``rank`` leading singular values and vectors.

    Args:
        X: stack `[..., m, n]`, real floating point.
        rank: how many, at most ``min(m, n)``.
        method: ``"exact"`` gives the best approximation of this rank (Eckart & Young 1936);
            ``"randomised"`` the singular values and vectors of ``Q Q^T X``, which for
            ``rank << min(m, n)`` costs a few products with ``X`` instead of a decomposition.
        oversampling, power, seed: of ``"randomised"``, as in `range_finder`.

    Returns:
        `TruncatedSVD` in the dtype of ``X``.

    Raises:
        MatrixError: as in `range_finder`; an unknown method.
        ConvergenceError: the decomposition failed on finite input.
    """
    check_choice("method", method, ("exact", "randomised"), MatrixError)
    stack = prepare(X)
    _check("rank", rank, 0, min(X.shape[-2:]))
    if method == "exact":
        U, S, Vh = svd(stack.values)
    else:
        Q = _range(stack.values, rank, oversampling, power, seed)
        U, S, Vh = svd(Q.mT @ stack.values)
        U = Q @ U
    return TruncatedSVD(
        stack.restore(U[..., :rank]),
        stack.restore(S[..., :rank], degree=1),
        stack.restore(Vh[..., :rank, :]),
    )


def polar_low_rank(
    X: Tensor, rank: int, *, oversampling: int = 2, power: int = 0, seed: int | Tensor = 0
) -> Tensor:
    """The polar factor of ``Q Q^T X``: only the leading directions are orthogonalised.

    ``D = Q polar(Q^T X)``, Muon's inexact polar factor of arXiv 2605.06884. Its rank is at most
    ``k = min(rank + oversampling, m, n)``, its singular values are 0 and 1,
    ``<X, D> = ||Q Q^T X||_*``, and ``D = polar(X)`` where ``X`` has rank ``k`` or less.

    The published code leaves the power steps without orthonormalisation (the same range but for
    rounding) and takes the small polar factor by a Newton-Schulz iteration; here it is exact.

    Args:
        X: stack `[..., m, n]`, real floating point.
        rank: at least 1. The shape of the result does not depend on it, so a rank above
            ``min(m, n)`` is allowed and means all of ``X``, as in the published code.
        oversampling, power: as in `range_finder`; the defaults are the published code's.
        seed: of the sketch; the published optimiser draws a new one at every step.

    Returns:
        A stack of the same shape and dtype. A zero matrix gives zero.

    Raises:
        MatrixError: ``X`` is no stack of matrices, or a number is out of range.
        ConvergenceError: the decomposition failed on finite input.
    """
    stack = prepare(X)
    _check("rank", rank, 1)
    Q = _range(stack.values, rank, oversampling, power, seed)
    return stack.restore(_polar_within(Q, stack.values))


def gaussian(rows: int, columns: int, like: Tensor, seed: int | Tensor = 0) -> Tensor:
    """Standard normal numbers `[rows, columns]`, a pure function of their place and ``seed``.

    A hash of the place through the normal distribution's inverse. It needs no generator (none is
    disturbed, none breaks a compiled graph), gives the same numbers on every rank and device, and
    the seed may be a step number in a tensor.

    Args:
        rows, columns: shape.
        like: whose dtype and device to take.
        seed: a whole number, or a tensor of no dimensions that holds one.
    """
    shift = seed.long() if isinstance(seed, Tensor) else seed
    place = torch.arange(1, rows * columns + 1, device=like.device)  # 0 is a fixed point
    bits = _hash(_hash(place) + shift)
    uniform = (_shift_right(bits, 11).double() + 0.5) * 2.0**-53
    normal: Tensor = torch.special.ndtri(uniform)
    return normal.reshape(columns, rows).mT.to(like.dtype)


def _range(X: Tensor, rank: int, oversampling: int, power: int, seed: int | Tensor) -> Tensor:
    _check("oversampling", oversampling, 0)
    _check("power", power, 0)
    columns = min(rank + oversampling, *X.shape[-2:])
    return _subspace(X, gaussian(X.shape[-1], columns, X, seed), power)


def _subspace(X: Tensor, sketch: Tensor, power: int) -> Tensor:
    """Subspace iteration: algorithm 4.4 of Halko et al."""
    Q: Tensor = torch.linalg.qr(X @ sketch).Q
    for _ in range(power):
        Q = torch.linalg.qr(X.mT @ Q).Q
        Q = torch.linalg.qr(X @ Q).Q
    return Q


def _polar_within(Q: Tensor, X: Tensor) -> Tensor:
    """Polar factor of ``Q Q^T X``; directions that are rounding noise contribute zero."""
    U, S, Vh = svd(Q.mT @ X)
    factor: Tensor = Q @ (U * significant(S, X.shape).unsqueeze(-2)) @ Vh
    return factor


# splitmix64's finaliser (Steele, Lea & Flood, Fast splittable pseudorandom number generators,
# OOPSLA 2014), its constants as signed integers because torch multiplies no unsigned ones.
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def _hash(z: Tensor) -> Tensor:
    """Every bit of the result hangs on every bit of the int64 ``z``."""
    z = (z ^ _shift_right(z, 30)) * _FIRST
    z = (z ^ _shift_right(z, 27)) * _SECOND
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, places: int) -> Tensor:
    """The logical shift; torch's own drags the sign along."""
    shifted: Tensor = (z >> places) & (2 ** (64 - places) - 1)
    return shifted


def _check(name: str, value: int, least: int, most: int | None = None) -> None:
    if not isinstance(value, int) or value < least or (most is not None and value > most):
        limit = "" if most is None else f" and at most {most}, the smaller side of the matrix"
        raise MatrixError(f"{name}={value!r}: give a whole number of at least {least}{limit}")
