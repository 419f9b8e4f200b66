"""What was measured about machines, in one place."""

import torch

__all__ = ["stacking_pays"]

# Up to this many entries a matrix is better handled in a stack with its like: one batched product
# saves more launches than the copies into the stack cost. Measured on CPU with whole Muon steps
# (benchmarks/step_time.py; time over torch.optim.Muon's, stacked and one by one): 64 x 64 0.2 and
# 1.4, 128 x 512 1.1 and 1.4, 256 x 256 0.85 and 1.2, 384 x 384 1.1 and 1.1, 256 x 1024 1.5 and 1.15.
# The accelerator's number is a guess from published kernel timings, not yet a measurement.
CPU_ENTRIES, ACCELERATOR_ENTRIES = 1 << 17, 1 << 20


def stacking_pays(m: int, n: int, device: torch.device) -> bool:
    """Whether several m x n matrices should be handled as one stack rather than one by one."""
    return m * n <= (CPU_ENTRIES if device.type == "cpu" else ACCELERATOR_ENTRIES)
