"""Orthonormal columns: Q of a QR decomposition, nearly at the speed of matrix products."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from stiefel.linalg.stack import working_dtype

__all__ = ["orthonormal", "orthonormal_of_rank"]

# Columns that are reduced at once, and from how many on it pays. Measured on a CPU with AMX as time
# over torch.linalg.qr's: 1.0 at 768 columns, 0.6 at 2304 and 0.5 at 3072 in float32; 0.75, 0.4 and
# 0.3 in bfloat16. At 3072 panels of 128 and of 512 columns are slower.
PANEL, SMALLEST = 256, 768


def orthonormal(X: Tensor, columns: int | None = None) -> Tensor:
    """Q `[..., m, min(m, n)]` of ``X = Q R`` with ``diag(R) >= 0``, of finite X `[..., m, n]`.

    More ``columns``, up to m, complete the others to a basis.

    Householder's reflections do not fail, and Q is orthonormal whatever the rank of X; where X has
    less, the last columns are some that complete the others. Matrices of one stack never touch
    each other. Q has the dtype of X. In 16 bits the reflections are found in float32 and applied
    in the dtype of X: Q is then that of a matrix whose columns are as near as rounded ones (a few
    times so far), and orthonormal up to its own rounding.

    LAPACK does the same in one call, but at half the speed of its products in float32 and in no
    shorter format. It remains for small matrices, accelerators, and where gradients are wanted.
    """
    known = min(X.shape[-2:])
    X, columns = X[..., :known], columns or known
    large = X.device.type == "cpu" and known >= SMALLEST and X.numel() > 0
    if X.requires_grad or not large:
        return _by_lapack(X, columns)
    if X.shape[:-2].numel() > 1:
        return torch.stack([orthonormal(matrix, columns) for matrix in X])
    return _by_panels(X.reshape(X.shape[-2:]), columns).expand(*X.shape[:-2], -1, -1)


def orthonormal_of_rank(X: Tensor, rank: int) -> Tensor:
    """`orthonormal` of square X `[..., n, n]` that have at most this rank, but for rounding.

    A column that depends on those before it leaves nothing but rounding for its own in Q, and that
    goes into the later ones. As many as the rank says, those of the least ``diag(R)``, are left out
    therefore, and get columns that complete the others.
    """
    Q, n = orthonormal(X), X.shape[-1]
    if rank >= n:
        return Q
    ranked = (Q * X).sum(-2).argsort(dim=-1, descending=True)
    kept, left = ranked[..., :rank].sort(-1).values, ranked[..., rank:]
    found = orthonormal(X.take_along_dim(kept.unsqueeze(-2), -1), n)
    places = torch.cat([kept, left.sort(-1).values], -1).argsort(-1)
    return found.take_along_dim(places.unsqueeze(-2), -1)


def _by_lapack(X: Tensor, columns: int) -> Tensor:
    missing = columns - X.shape[-1]
    Q, R = torch.linalg.qr(X.to(working_dtype(X.dtype)), "complete" if missing else "reduced")
    signs = torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1, 1)
    signed: Tensor = Q[..., :columns] * pad(signs, (0, missing), value=1).unsqueeze(-2)
    return signed.to(X.dtype)


def _by_panels(X: Tensor, columns: int) -> Tensor:
    """Panel by panel, on the transpose: what is multiplied lies in rows.

    The reflections ``H_1 ... H_w`` of a panel are applied as one, ``I - V^T T V``, the compact WY
    form of R. Schreiber and C. Van Loan (SIAM J. Sci. Stat. Comput. 10, 1989).
    """
    rows = X.mT.clone(memory_format=torch.contiguous_format)
    found = []
    for start in range(0, len(rows), PANEL):
        V, T, signs = _reflections(rows[start : start + PANEL, start:])
        _reflect(rows[start + PANEL :, start:], V, T)
        found.append((start, V, T, signs))
    Q = torch.eye(columns, rows.shape[1], dtype=X.dtype)
    for start, V, T, _ in reversed(found):
        _reflect(Q[start:, start:], V, T.mT)
    Q[: len(rows)].mul_(torch.cat([signs for *_, signs in found]).unsqueeze(-1))
    return (_polished(Q) if X.dtype.itemsize == 2 else Q).mT.contiguous()


def _reflections(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """V and T of the panel `[w, m]`, and the signs of its ``diag(R)``."""
    factors, tau = torch.geqrf(rows.to(working_dtype(rows.dtype)).mT)
    V = factors.mT.triu(1)
    V.diagonal().fill_(1)
    # 1 / tau is the diagonal of T^-1, and half of that of V V^T, whose upper triangle T^-1 shares.
    T = torch.linalg.solve_triangular(
        tau.unsqueeze(-1) * (V @ V.mT), tau.diag(), upper=True, unitriangular=True
    )
    signs = torch.where(factors.diagonal() < 0, -1, 1)
    return V.to(rows.dtype), T.to(rows.dtype), signs.to(rows.dtype)


def _reflect(rows: Tensor, V: Tensor, T: Tensor) -> None:
    """``Y <- Y (I - V^T T V)`` in place."""
    rows.addmm_((rows @ V.mT) @ T, V, alpha=-1)


def _polished(Q: Tensor) -> Tensor:
    """``Q - (Q Q^T - I) Q / 2``: a Newton-Schulz step, after which a defect is its square.

    The identity is subtracted before anything is rounded.
    """
    one = torch.eye(len(Q), dtype=Q.dtype)
    return torch.addmm(Q, torch.addmm(one, Q, Q.mT, beta=-1), Q, alpha=-0.5)
