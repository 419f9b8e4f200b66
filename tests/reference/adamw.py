"""AdamW in float64, from Algorithm 2 of arXiv 1711.05101: plain loops over entries."""

from collections.abc import Sequence

from torch import Tensor


def adamw(
    W: Tensor,
    grads: Sequence[Tensor],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> Tensor:
    m = v = 0.0 * W
    for t, G in enumerate(grads, start=1):
        m = betas[0] * m + (1 - betas[0]) * G
        v = betas[1] * v + (1 - betas[1]) * G**2
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        W = W - lr * (m_hat / (v_hat**0.5 + eps) + weight_decay * W)
    return W
