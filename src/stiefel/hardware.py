"""What was measured about machines, in one place."""

import torch

__all__ = ["joining_pays", "stacking_pays"]

# Up to this many entries a matrix is better handled in a stack with its like: one batched product
# saves more launches than the copies into the stack cost. Measured on CPU with whole Muon steps,
# as time over torch.optim.Muon's, stacked and one by one: 64 x 64 0.2 and 1.4; 256 x 256 0.85 and
# 1.2; 384 x 384 1.1 and 1.1; 256 x 1024 1.5 and 1.15 (benchmarks/step_time.py has such rows).
STACK_CPU, STACK_ACCELERATOR = 1 << 17, 1 << 20

# Up to this many entries a tensor of an elementwise recipe is better laid end to end with others.
JOIN_CPU, JOIN_ACCELERATOR = 1 << 12, 1 << 16

# The accelerator's numbers are guesses from published kernel timings, not yet measurements.


def stacking_pays(m: int, n: int, device: torch.device) -> bool:
    """Whether several m x n matrices should be handled as one stack rather than one by one."""
    return m * n <= (STACK_CPU if device.type == "cpu" else STACK_ACCELERATOR)


def joining_pays(entries: int, device: torch.device) -> bool:
    """Whether tensors of so many entries should be laid end to end for an elementwise step."""
    return entries <= (JOIN_CPU if device.type == "cpu" else JOIN_ACCELERATOR)
