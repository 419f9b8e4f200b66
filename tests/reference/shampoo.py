"""Shampoo in float64, from arXiv 1802.09568, with grafting and blocks of arXiv 2002.09018.

With ``eigenvectors="qr"`` those of the last root are continued, as in Meta's Distributed Shampoo
(`qr_algorithm` with one iteration) but for the ridge that it adds before, and with columns ranked
as in SOAP.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.reference.soap import eigenvectors as eigenvectors_of
from tests.reference.soap import gram, orthogonal_iteration


def inverse_power(A: Tensor, exponent: float, eps: float, damping: str) -> Tensor:
    """``(A + ridge)^(-exponent)``; ``"pseudo"`` inverts what exceeds ``eps lambda_max`` alone."""
    return power_in_basis(*torch.linalg.eigh(A), exponent, eps, damping)


def power_in_basis(S: Tensor, Q: Tensor, exponent: float, eps: float, damping: str) -> Tensor:
    """`inverse_power` of ``Q diag(S) Q^T``."""
    S = S.clamp_min(0)
    if damping == "pseudo":
        kept = max(eps, len(S) * torch.finfo(S.dtype).eps) * S.max() < S
        return Q @ torch.diag(torch.where(kept, S**-exponent, 0.0)) @ Q.T
    unit = {"absolute": 1.0, "relative": S.max(), "trace": S.mean()}[damping]
    return Q @ torch.diag((S + eps * unit) ** -exponent) @ Q.T


def continued_power(
    A: Tensor, Q: Tensor | None, exponent: float, eps: float, damping: str
) -> tuple[Tensor, Tensor]:
    """``(A + ridge)^(-exponent)`` of what A is on the diagonal in a basis, and that basis.

    The basis is one orthogonal iteration from Q, or without Q that of the eigenvectors.
    """
    Q = eigenvectors_of(A) if Q is None else orthogonal_iteration(A, Q)[0]
    return power_in_basis((Q.T @ A @ Q).diagonal(), Q, exponent, eps, damping), Q


def blocks(W: Tensor, block_size: int | None) -> list[tuple[slice, slice]]:
    """The rectangles of a grid whose cells have at most ``block_size`` rows and columns."""
    step = block_size or max(W.shape)
    rows, columns = ([slice(i, i + step) for i in range(0, d, step)] for d in W.shape)
    return [(r, c) for r in rows for c in columns]


@dataclass
class Factors:
    """L, R, their roots and the bases of these, of one block."""

    A: list[Tensor]
    root: list[Tensor]
    basis: list[Tensor | None]

    @classmethod
    def start(cls, shape: torch.Size, initial: float) -> "Factors":
        identity = [torch.eye(d, dtype=torch.float64) for d in shape]
        return cls([initial * one for one in identity], identity, [None, None])

    def accumulate(self, G: Tensor, beta: float) -> None:
        """A mean, or for ``beta = 1`` a sum."""
        weight = 1 - beta if beta < 1 else 1.0
        self.A = [beta * self.A[side] + weight * gram(G, side) for side in (0, 1)]


def shampoo(
    W: Tensor,
    grads: Sequence[Tensor],
    *,
    lr: float,
    betas: tuple[float, float] = (0.0, 0.95),
    eps: float = 1e-6,
    initial: float = 0.0,
    weight_decay: float = 0.0,
    exponent: float = 0.25,
    damping: str = "relative",
    grafting: str = "sgd",
    graft_beta2: float = 0.999,
    graft_eps: float = 1e-8,
    graft_blocks: bool = True,
    correct_bias: bool = True,
    precondition_frequency: int = 1,
    max_precond_dim: int | None = None,
    block_size: int | None = None,
    eigenvectors: str = "eigh",
) -> Tensor:
    """Statistics and roots first, then the step.

    Args:
        betas: of the gradient's mean, which is what is preconditioned and grafted, and of L and R.
            ``betas[1] = 1`` sums L and R, as the first paper does.
        eps, damping: the ridge of `inverse_power`.
        initial: L and R start at this times the identity (the first paper's epsilon).
        exponent: of each factor: 1/4, or 1/2 (arXiv 2406.17748).
        grafting: whose Frobenius norm the step takes: ``"sgd"`` (of what is preconditioned, that is
            the norm is kept), ``"adam"`` (of Adam with the same mean), ``"none"``.
        graft_beta2, graft_eps: of Adam's second moment, and beside its root.
        graft_blocks: every block takes its own norm (Meta), not the matrix as one (Google, 4-bit).
        correct_bias: of every mean.
        precondition_frequency: roots are taken at steps f, 2f, ...; before the first, the step is
            the grafted method's own.
        max_precond_dim: a longer side of a block has no root; the exponent of the other one stays.
        eigenvectors: ``"eigh"``, or ``"qr"`` for `continued_power`.
    """
    grid = blocks(W, block_size)
    factors = [Factors.start(W[block].shape, initial) for block in grid]
    M = V = torch.zeros_like(W)
    for t, G in enumerate(grads, start=1):
        fresh = [1 - b**t if correct_bias and b < 1 else 1.0 for b in (*betas, graft_beta2)]
        M = betas[0] * M + (1 - betas[0]) * G
        V = graft_beta2 * V + (1 - graft_beta2) * G**2
        F = M / fresh[0]
        graft = F / ((V / fresh[2]).sqrt() + graft_eps) if grafting == "adam" else F
        N = graft.clone()
        for block, own in zip(grid, factors, strict=True):
            own.accumulate(G[block], betas[1])
            if t % precondition_frequency == 0:
                for side, d in enumerate(G[block].shape):
                    if max_precond_dim is None or d <= max_precond_dim:
                        A = own.A[side] / fresh[1]
                        how = (exponent, eps, damping)
                        if eigenvectors == "qr":
                            own.root[side], own.basis[side] = continued_power(
                                A, own.basis[side], *how
                            )
                        else:
                            own.root[side] = inverse_power(A, *how)
            if t >= precondition_frequency:
                N[block] = own.root[0] @ F[block] @ own.root[1]
        for block in [] if grafting == "none" else grid if graft_blocks else blocks(W, None):
            N[block] = N[block] * graft[block].norm() / N[block].norm()
        W = W - lr * weight_decay * W - lr * N
    return W
