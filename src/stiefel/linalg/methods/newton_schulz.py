"""Newton-Schulz: products only, so it runs at the speed of the matrix units, in 16 bits too."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from math import frexp, sqrt

import torch
from torch import Tensor
from torch.linalg import vector_norm

from stiefel.linalg.coefficients import Table
from stiefel.linalg.deflation import deflate
from stiefel.linalg.iteration import Factor, Run, inverse, iterate
from stiefel.linalg.products import symmetric_product

__all__ = ["NewtonSchulz"]

# A step on the Gram matrix alone saves 4 m^2 n FLOPs and costs 6 m^3 more.
LONG = 1.5

# Up to so many rows a method takes the steps of its table ``small``. Measured on a CPU, `fast` with
# deflation over five plain steps: 1.2 to 1.5 times the time from 32 x 32 to 256 x 512, 1.1 at
# 192 x 768, 0.9 at 256 x 1024 and 384 x 384, 0.75 at 384 x 1536.
ROWS = 256

# Where a matrix whose outliers are gone goes into the steps as it comes, (X X^T)^2 of a smaller one
# has subnormal entries. A CPU takes long over them: with 1024 x 1024 of norm 0.03 a fifth of all.
SMALL = 0.1


@dataclass(frozen=True)
class NewtonSchulz:
    """Steps ``X <- a X + b (X X^T) X + c (X X^T)^2 X`` with the triples of a table.

    Args:
        table: the coefficients.
        rescale: divide by the Schatten-8 norm ``|(X X^T)^2|_F^(1/4)`` instead of the Frobenius
            norm. It bounds the largest singular value within ``m^(1/8)`` instead of ``m^(1/2)``, so
            every singular value starts higher, and the first step forms ``(X X^T)^2`` anyway.
        deflate: lower the ``sqrt(m n) / deflate`` leading singular values first (0: none), see
            `stiefel.linalg.deflation`. In long matrices it costs less, beside the steps, and more
            are worth it.
        oversample: how many more, up to m // 3 in all: what small matrices need.
        exact_deflation: subtract them in the precision of X.
        gram_runs: how many steps to take at a time on the Gram matrix `[m, m]` alone, before its
            product with X, where X is long enough that this saves work; () is one by one. Squares
            of singular values reach half as low into the rounding: keep runs for a lifted spectrum.
            What a first run of several steps loses to rounding is given back to every eigenvalue.
        small: another table, which matrices of up to 256 rows get with all its steps and nothing
            else: what surrounds their short products takes longer than the products. Not if
            a number of steps is asked for.
    """

    table: Table
    rescale: bool = False
    deflate: int = 0
    oversample: int = 0
    exact_deflation: bool = False
    gram_runs: tuple[int, ...] = ()
    small: Table | None = None

    def suited(self, rows: int, steps: int | None) -> tuple[NewtonSchulz, int]:
        """What matrices of so many rows get when asked for ``steps``, and how many those are."""
        if self.small and rows <= ROWS and steps is None:
            return NewtonSchulz(self.small), self.small.steps
        return self, steps or self.table.steps

    def __call__(self, X: Tensor, norm: Factor, steps: int | None, dtype: torch.dtype) -> Tensor:
        """Polar factors of wide X, `[m, n]` or `[b, m, n]`, in ``dtype``.

        Args:
            X: in the precision it came in, its Frobenius norm within 1e+-4, or zero.
            norm: those norms, a number or `[b, 1, 1]`.
            steps: number of steps; None is the table's own.
            dtype: precision of the products.
        """
        m, n = X.shape[-2:]
        rank = self._rank(m, n)
        # float16 has too few exponents for anything but the steps themselves.
        wide = torch.float32 if dtype == torch.float16 else dtype
        Y = deflate(X, rank, wide, exact=self.exact_deflation) if rank else X.to(wide)
        runs, headroom = self._runs(steps, m, n), self.table.headroom
        if self.rescale:
            if wide != dtype:  # between a flat spectrum's and a single direction's
                Y = Y * (m**0.25 * inverse(vector_norm(Y, dim=(-2, -1), keepdim=True)))
            elif rank:
                Y = _near_one(Y, norm)
            return iterate(Y.to(dtype), runs, room=headroom**2)
        shrink = inverse(norm * headroom)
        if isinstance(shrink, Tensor):  # inductor 2.13 fails on the mixed product (KeyError 'buf2')
            shrink = shrink.to(Y.dtype)
        Y = Y * shrink
        if self.table.normalisation == "aol":
            Y = _row_balanced(Y) / headroom
        return iterate(Y.to(dtype), runs)

    def _rank(self, m: int, n: int) -> int:
        if not self.deflate:
            return 0
        return min(int(sqrt(m * n)) // self.deflate + self.oversample, m // 3)

    def _runs(self, steps: int | None, m: int, n: int) -> list[Run]:
        triples, lengths = self.table.triples(steps), self.gram_runs
        if n < LONG * m or sum(lengths) != len(triples):
            lengths = (1,) * len(triples)
        ends = accumulate(lengths)
        return [triples[end - length : end] for length, end in zip(lengths, ends, strict=True)]


def _near_one(Y: Tensor, norm: Factor) -> Tensor:
    """Y, once of that norm, times a power of two: no bit changes but the exponents."""
    if isinstance(norm, Tensor):
        return Y * torch.exp2(-torch.frexp(norm).exponent).to(Y.dtype)
    return Y.mul_(2.0 ** -frexp(norm)[1]) if norm < SMALL else Y


def _row_balanced(Y: Tensor) -> Tensor:
    """Row i divided by ``sqrt(sum_j |Y Y^T|_ij)``: then no eigenvalue of ``Y Y^T`` is above 1."""
    sums = symmetric_product(Y).abs().sum(-1, keepdim=True)
    return Y / sums.where(sums > 0, 1.0).sqrt()  # rsqrt's last bit depends on the place in a tensor
