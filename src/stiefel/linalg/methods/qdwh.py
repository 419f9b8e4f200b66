"""QDWH: the polar factor by Halley's iteration with weights for the interval still to be mapped."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from stiefel.errors import MatrixError
from stiefel.linalg.methods.rational import RationalStep, converge, schedule

__all__ = ["Qdwh", "halley"]


@dataclass(frozen=True)
class Qdwh:
    """QR-based dynamically weighted Halley: ``X <- X (a I + b X^T X) (I + c X^T X)^-1``.

    With the weights of the interval ``[l, 1]`` that holds the singular values, starting from
    ``l = eps``; convergence is cubic, from any condition number. Backward stable: the factor is
    orthonormal to a few eps. Singular values that are rounding noise do not go to zero as in
    `Svd`: they grow by up to 1/eps, to anything in [0, 1]. Autograd passes through the steps.

    Source: Y. Nakatsukasa, Z. Bai, F. Gygi, SIAM J. Matrix Anal. Appl. 31 (2010); Y. Nakatsukasa,
    N. Higham, SIAM J. Sci. Comput. 35 (2013). They estimate l from the matrix and test for
    convergence. We take l = eps, as PolarGrad (arXiv 2505.21799) does, so that the number of steps
    is known and a GPU is never waited for. PolarGrad's optimiser then takes 2 steps by default,
    which is no polar factor: 6 are needed in float64, 4 in float32.

    Args:
        steps: number of steps; None takes as many as bring ``[eps, 1]`` to 1 within 10 eps. Fewer
            leave small singular values below 1.

    Raises:
        MatrixError: ``steps`` below 1.
    """

    steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise MatrixError(
                f"steps={self.steps} leaves the matrix as it is: give at least 1, or None for as "
                "many as its precision needs"
            )

    def __call__(self, X: Tensor) -> Tensor:
        """Polar factors of a wide stack `[b, m, n]`, in its dtype."""
        return converge(X, schedule(halley, X.dtype, self.steps))


def halley(low: float) -> RationalStep:
    """``s -> s (a + b s^2) / (1 + c s^2)``, best of its type for singular values in [low, 1]."""
    square = low * low
    d = (4 * (1 / square - 1) / square) ** (1 / 3)
    q = math.sqrt(1 + d)
    a = q + math.sqrt(2 - d + 2 * (2 - square) / (square * q))
    b = (a - 1) ** 2 / 4
    c = a + b - 1
    return RationalStep(b / c, ((a - b / c) / b,), (1 / c,))
