"""The product of two stacks of matrices, where one of them may hold a single matrix."""

from __future__ import annotations

from torch import Tensor

__all__ = ["matmul"]


def matmul(A: Tensor, B: Tensor) -> Tensor:
    """``A B`` of stacks `[..., m, k]` and `[..., k, n]` with the same leading dimensions.

    A single matrix is multiplied as such: on the CPU torch's batched product copies transposed
    operands in bfloat16 first (measured: 3072 x 3072 times 3072 x 768 with the first transposed
    takes 80 ms in a stack of one, 27 ms as matrices).
    """
    if A.shape[:-2].numel() != 1:
        return A @ B
    product = A.reshape(A.shape[-2:]) @ B.reshape(B.shape[-2:])
    return product.view(*A.shape[:-2], *product.shape)
