"""Muon in float64, from its description alone: plain loops, one matrix, no stacks."""

from collections.abc import Sequence

import torch
from torch import Tensor

JORDAN = [(3.4445, -4.7750, 2.0315)] * 5


def newton_schulz(X: Tensor, triples: Sequence[tuple[float, float, float]]) -> Tensor:
    U, S, Vh = torch.linalg.svd(X / X.norm(), full_matrices=False)
    for a, b, c in triples:  # the iteration acts on each singular value alone
        S = a * S + b * S**3 + c * S**5
    return U @ torch.diag(S) @ Vh


def polar(X: Tensor) -> Tensor:
    U, _, Vh = torch.linalg.svd(X, full_matrices=False)
    return U @ Vh


def muon(
    W: Tensor,
    grads: Sequence[Tensor],
    *,
    lr: float,
    momentum: float = 0.95,
    nesterov: bool = True,
    weight_decay: float = 0.1,
    scale: str = "match_rms_adamw",
    exact: bool = False,
) -> Tensor:
    """Heavy-ball sum, as the papers write it (the code under test averages)."""
    m, n = W.shape
    factor = {"match_rms_adamw": 0.2 * max(m, n) ** 0.5, "original": max(1, m / n) ** 0.5}[scale]
    M = torch.zeros_like(W)
    for G in grads:
        M = momentum * M + G
        U = G + momentum * M if nesterov else M
        O = polar(U) if exact else newton_schulz(U, JORDAN)
        W = W - lr * weight_decay * W - lr * factor * O
    return W
