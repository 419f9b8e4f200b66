"""Newton iterations for inverse roots of positive definite matrices: matrix products only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stiefel.errors import MatrixError
from stiefel.linalg.symmetric import seen

__all__ = [
    "check_steps",
    "coupled_newton",
    "distance",
    "identity",
    "newton_schulz",
    "norm_bound",
    "square_roots",
]

# Limit where no number of steps is given: Google's and Meta's Shampoo.
MOST_STEPS = 100

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def check_steps(steps: int | None) -> None:
    """Raise `MatrixError` unless ``steps`` is None or at least 1."""
    if steps is not None and steps < 1:
        raise MatrixError(f"steps={steps!r} is out of range: give steps >= 1, or None")


def coupled_newton(D: Tensor, p: int, steps: int | None) -> Tensor:
    """``D^(-1/p)`` by ``T = ((p + 1) I - M) / p``, ``X <- X T``, ``M <- T^p M``.

    ``M = X^p D`` goes to I and X to the inverse root; carrying M along keeps Newton's iteration
    stable. C.-H. Guo and N. J. Higham, A Schur-Newton method for the matrix p-th root and its
    inverse (SIAM J. Matrix Anal. Appl. 28, 2006).

    Args:
        D: `[b, n, n]` positive definite.
        p: 1, 2, 3, ...
        steps: their number, or None until convergence.
    """
    # It converges from a spectrum of M in (0, p + 1); Google and Meta start in the lower half.
    scale = (p + 1) / 2 / norm_bound(D)
    one = identity(D)

    def step(M: Tensor, X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        T = ((p + 1) * one - M) / p
        return torch.linalg.matrix_power(T, p) @ M, X @ T, distance(M)

    return _iterated(step, scale * D, scale ** (1 / p) * one, steps)[1]


def newton_schulz(D: Tensor, p: int, steps: int | None) -> Tensor:
    """``D^(-1/p)`` from `square_roots`: once for p = 2, again on the root for p = 4.

    For p = 1 it squares the inverse square root, which keeps the result positive. (Schulz's own
    iteration for the inverse takes a fifth fewer products, and shares nothing with p = 2.)

    Args:
        D: `[b, n, n]` positive definite.
        p: 1, 2 or 4.
        steps: as in `square_roots`, of each iteration.
    """
    Y, Z = square_roots(D, norm_bound(D), steps)
    if p == 4:
        return square_roots(Y, norm_bound(Y), steps)[1]
    return Z @ Z if p == 1 else Z


def square_roots(D: Tensor, bound: Tensor, steps: int | None) -> tuple[Tensor, Tensor]:
    """``D^(1/2)`` and ``D^(-1/2)`` by ``T = (3 I - Z Y) / 2``, ``Y <- Y T``, ``Z <- T Z``.

    The coupled Newton-Schulz iteration (N. J. Higham, Functions of Matrices, 2008, equation 6.35),
    started at ``Y = D / bound`` and ``Z = I``. To make Y and Z symmetric at each step looks
    harmless and destroys its stability (measured: NaN at a condition number of 1e6).

    Args:
        D: `[b, n, n]` positive definite.
        bound: `[b, 1, 1]`, at least the largest eigenvalue.
        steps: their number, or None until convergence.
    """
    one = identity(D)

    def step(Y: Tensor, Z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        product = Z @ Y
        T = (3 * one - product) / 2
        return Y @ T, T @ Z, distance(product)

    Y, Z = _iterated(step, D / bound, one.expand_as(D), steps)
    return Y * bound**0.5, Z / bound**0.5


def _iterated(step: Step, M: Tensor, X: Tensor, steps: int | None) -> tuple[Tensor, Tensor]:
    """Repeat ``step``, which also tells how far from I it started, until each matrix is done.

    Convergence is quadratic: the step from a distance of ``sqrt(eps)`` is the last. A matrix that
    is done stays as it is, whatever its neighbours need.
    """
    near = torch.finfo(M.dtype).eps ** 0.5
    active = torch.ones(M.shape[0], dtype=torch.bool, device=M.device)
    for _ in range(steps or MOST_STEPS):
        next_M, next_X, far = step(M, X)
        moving = active.view(-1, 1, 1)
        M, X = torch.where(moving, next_M, M), torch.where(moving, next_X, X)
        active = active & (far > near)
        if steps is None and not seen(active):
            break
    return M, X


def norm_bound(A: Tensor) -> Tensor:
    """A positive bound of the largest eigenvalue `[b, 1, 1]`: Frobenius norm or largest row sum."""
    rows = A.abs().sum(-1, keepdim=True).amax(-2, keepdim=True)
    bound = torch.minimum(torch.linalg.matrix_norm(A, keepdim=True), rows)
    return bound.clamp_min(torch.finfo(A.dtype).tiny)


def distance(M: Tensor) -> Tensor:
    """Largest entry of ``|M - I|``, `[b]`."""
    return (M - identity(M)).abs().amax((-2, -1))


def identity(A: Tensor) -> Tensor:
    """I `[n, n]`, for a stack `[b, n, n]`."""
    return torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
