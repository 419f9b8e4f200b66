"""Products written for GPUs. Nothing here imports Triton until a product is launched."""

from stiefel.linalg.kernels.symmetric import available, gram, pays, symmetric_polynomial

__all__ = ["available", "gram", "pays", "symmetric_polynomial"]
