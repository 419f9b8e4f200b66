"""What was measured about machines, in one place."""

import torch

__all__ = ["stacking_pays"]

# Below these lengths of the shorter side one batched product beats a loop of single ones: the
# launches it saves cost more than the copies it makes. On CPU measured with bf16 Newton-Schulz
# (64 x 64: 8 times faster stacked; 512 x 512: equal; 768 x 3072: 1.1 times slower).
CPU, ACCELERATOR = 384, 1024


def stacking_pays(m: int, n: int, device: torch.device) -> bool:
    """Whether several m x n matrices should be handled as one stack rather than one by one."""
    return min(m, n) < (CPU if device.type == "cpu" else ACCELERATOR)
