"""What was measured about machines, in one place."""

import torch

__all__ = ["blocks_pay", "decomposition_cost", "joining_pays", "stacking_pays", "step_cost"]

# Up to this many entries a matrix is better handled in a stack with its like: one batched product
# saves more launches than the copies into the stack cost. Measured on CPU with whole Muon steps,
# as time over torch.optim.Muon's, stacked and one by one: 64 x 64 0.2 and 1.4; 256 x 256 0.85 and
# 1.2; 384 x 384 1.1 and 1.1; 256 x 1024 1.5 and 1.15 (benchmarks/step_time.py has such rows).
STACK_CPU, STACK_ACCELERATOR = 1 << 17, 1 << 20

# Up to this many entries a tensor of an elementwise recipe is better laid end to end with others.
JOIN_CPU, JOIN_ACCELERATOR = 1 << 12, 1 << 16

# FLOPs of matrix products in the time of one in float32: a CPU with bfloat16 units, which has none
# for float16, and an accelerator with tensor cores.
SPEED_CPU = {torch.bfloat16: 4.0, torch.float64: 0.5}
SPEED_ACCELERATOR = {torch.bfloat16: 8.0, torch.float16: 8.0, torch.float64: 0.5}

# An eigendecomposition of an m x m Gram matrix in float64, as a multiple of m^3 FLOPs in float32.
EIGH_CPU, EIGH_ACCELERATOR = 30.0, 1000.0

# From so many rows, and so many multiplications in 16 bits, X X^T is faster in blocks on and below
# the diagonal. Measured on a CPU with AMX as time over the plain product's: float32 and float64
# 0.9 at 512 rows and 0.7 to 0.8 from 768; bfloat16 0.8 at 768 x 3072 and 2048 x 2048, 1.0 at
# 1024 x 1024, 1.2 at 512 x 512. Without AMX the gain in bfloat16 starts earlier.
BLOCK_ROWS, BLOCK_WORK_16_BITS = 512, 3 << 29

# The accelerator's numbers are guesses from published kernel timings, not yet measurements.


def stacking_pays(m: int, n: int, device: torch.device) -> bool:
    """Whether several m x n matrices should be handled as one stack rather than one by one."""
    return m * n <= (STACK_CPU if device.type == "cpu" else STACK_ACCELERATOR)


def joining_pays(entries: int, device: torch.device) -> bool:
    """Whether tensors of so many entries should be laid end to end for an elementwise step."""
    return entries <= (JOIN_CPU if device.type == "cpu" else JOIN_ACCELERATOR)


def step_cost(m: int, n: int, dtype: torch.dtype, device: torch.device) -> float:
    """Of one quintic Newton-Schulz step on a wide m x n matrix, in FLOPs of float32 products."""
    return (4 * m * m * n + 2 * m**3) / _speed(dtype, device)


def decomposition_cost(m: int, n: int, device: torch.device) -> float:
    """Of a polar factor by decomposition of the Gram matrix, in the same unit."""
    eigh = EIGH_CPU if device.type == "cpu" else EIGH_ACCELERATOR
    return eigh * m**3 + 4 * m * m * n / _speed(torch.float64, device)


def _speed(dtype: torch.dtype, device: torch.device) -> float:
    return (SPEED_CPU if device.type == "cpu" else SPEED_ACCELERATOR).get(dtype, 1.0)


def blocks_pay(m: int, n: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether ``X X^T`` of an m x n matrix is faster block by block, half of them mirrored."""
    if m < BLOCK_ROWS or device.type != "cpu":
        return False
    return dtype.itemsize != 2 or m * m * n >= BLOCK_WORK_16_BITS
