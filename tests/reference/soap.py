"""SOAP in float64, from Algorithm 3 of arXiv 2409.11321 and its authors' code: one matrix.

The first moment stays in the original basis and is projected at every step; the authors keep it
rotated and turn it at every refresh, which gives the same numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def gram(G: Tensor, side: int) -> Tensor:
    """``G G^T`` for side 0 (rows), ``G^T G`` for side 1 (columns)."""
    return G @ G.T if side == 0 else G.T @ G


def eigenvectors(A: Tensor) -> Tensor:
    """Columns by falling eigenvalue, signs arbitrary.

    The null space of A has no basis of its own: one gradient m x n with m > n + 1 leaves the choice
    of m - n columns open, and with it SOAP's later steps. Here they complete the others by a
    Householder QR, which does not depend on rounding in A; the papers say nothing.
    """
    Q = torch.linalg.eigh(A)[1].flip(-1)
    rank = int(torch.linalg.matrix_rank(A, hermitian=True))
    return torch.linalg.qr(Q[:, :rank], mode="complete")[0]


def orthogonal_iteration(A: Tensor, Q: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """The next basis, and which old column each new one continues: ranked first, then one QR.

    Of A of lower rank, as of few gradients, a column that depends on others leaves nothing but
    rounding; a complement of the others, as in `eigenvectors`, takes its place.
    """
    order = (Q.T @ A @ Q).diagonal().argsort(descending=True)
    image, n = A @ Q[:, order], len(A)
    basis, R = torch.linalg.qr(image)
    spans = R.diagonal().abs().argsort(descending=True)[: n if rank is None else rank].sort().values
    rest = [column for column in range(n) if column not in spans]
    basis[:, [*spans, *rest]] = torch.linalg.qr(image[:, spans], mode="complete")[0]
    return basis, order


def soap(
    W: Tensor,
    grads: Sequence[Tensor],
    *,
    lr: float,
    betas: tuple[float, float] = (0.95, 0.95),
    shampoo_beta: float | None = None,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    normalize_grads: bool = False,
) -> Tensor:
    """The first gradient builds the bases and moves nothing; a side that is too long has none."""
    beta = betas[1] if shampoo_beta is None else shampoo_beta
    sides = [side for side in (0, 1) if W.shape[side] <= max_precond_dim]
    A = [torch.zeros(d, d, dtype=W.dtype) for d in W.shape]
    Q = [torch.eye(d, dtype=W.dtype) for d in W.shape]
    M = V = torch.zeros_like(W)
    for t, G in enumerate(grads):
        if t > 0:
            M = betas[0] * M + (1 - betas[0]) * G
            V = betas[1] * V + (1 - betas[1]) * (Q[0].T @ G @ Q[1]) ** 2
            N = Q[0] @ ((Q[0].T @ M @ Q[1]) / (V.sqrt() + eps)) @ Q[1].T
            if normalize_grads:
                N = N / (N**2).mean().sqrt()
            # after eps and after the normalisation, as in the authors' code
            correction = (1 - betas[1] ** t) ** 0.5 / (1 - betas[0] ** t)
            W = W - lr * correction * N
            W = W - lr * weight_decay * W
        for side in sides:
            A[side] = beta * A[side] + (1 - beta) * gram(G, side)
            if t == 0:
                Q[side] = eigenvectors(A[side])
            elif t % precondition_frequency == 0:
                Q[side], order = orthogonal_iteration(A[side], Q[side], (t + 1) * min(W.shape))
                V = V.index_select(side, order)
    return W
