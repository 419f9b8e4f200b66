"""Products of a matrix `[m, n]` or a stack `[b, m, n]`, symmetric ones at a part of the price."""

from __future__ import annotations

import torch
from torch import Tensor

from stiefel.hardware import blocks_pay, stacking_pays
from stiefel.linalg import kernels

__all__ = [
    "accumulate",
    "add_product",
    "left_product",
    "lies_tall",
    "matmul",
    "only_one",
    "quadratic",
    "symmetric_product",
]

# Rows of the blocks on the diagonal that are multiplied whole.
LEAF = 256

# Of sides that are multiples of this, oneDNN's products have the same bits in stacks and alone.
TILE = 32


def matmul(A: Tensor, B: Tensor) -> Tensor:
    """``A B`` of matrices, or of stacks `[..., m, k]` and `[..., k, n]` of equally many.

    In 16 bits the only one of its stack is multiplied as a matrix, where no bit tells the one from
    the other: on the CPU torch's batched product copies transposed operands first (measured: 3072 x
    3072 times 3072 x 768 with the first transposed takes 80 ms in a stack of one, 27 ms as
    matrices; five steps on one 256 x 256 matrix 1.4 times as long).
    """
    if not only_one(A, B):
        return A @ B
    product = A.reshape(A.shape[-2:]) @ B.reshape(B.shape[-2:])
    return product.view(*A.shape[:-2], *product.shape)


def symmetric_product(X: Tensor) -> Tensor:
    """``X X^T``: on a GPU half of its tiles, on a CPU blocks on and below the diagonal.

    Where neither is faster, the plain product. Differentiable.
    """
    if _by_kernel(X):
        return kernels.gram(X)
    if X.requires_grad or not _blocks_pay(X):
        return matmul(X, X.mT)
    return _by_blocks(X, X.new_empty((*X.shape[:-1], X.shape[-2])))


def quadratic(A: Tensor, b: float, c: float) -> Tensor:
    """``b A + c A A`` of symmetric A."""
    if c == 0:  # a product less; and torch 2.13's baddbmm drops beta's term where alpha is 0
        return A * b
    if _by_kernel(A):
        return kernels.symmetric_polynomial(A, b, c)
    if _blocks_pay(A) and not A.requires_grad:
        return symmetric_product(A).mul_(c).add_(A, alpha=b)
    return add_product(A, A, A, beta=b, alpha=c)


def left_product(A: Tensor, X: Tensor) -> Tensor:
    """``A X``, laid out as X."""
    return matmul(X.mT, A.mT).mT if lies_tall(X) else matmul(A, X)


def add_product(X: Tensor, A: Tensor, B: Tensor, beta: float = 1.0, alpha: float = 1.0) -> Tensor:
    """``beta X + alpha A B``, laid out as X."""
    if lies_tall(X):
        return add_product(X.mT, B.mT, A.mT, beta, alpha).mT
    if only_one(A, B):
        return add_product(X[0], A[0], B[0], beta, alpha).unsqueeze(0)
    add = torch.addmm if A.ndim == 2 else torch.baddbmm
    return add(X, A, B, beta=beta, alpha=alpha)


def accumulate(X: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """``X + A B`` in place of X, which nobody needs any more; beside X where a gradient does."""
    if torch.is_grad_enabled() and (X.requires_grad or A.requires_grad or B.requires_grad):
        return add_product(X, A, B)
    if lies_tall(X):
        return accumulate(X.mT, B.mT, A.mT).mT
    if only_one(A, B):
        X[0].addmm_(A[0], B[0])
        return X
    return X.addmm_(A, B) if A.ndim == 2 else X.baddbmm_(A, B)


def lies_tall(X: Tensor) -> bool:
    """Whether X lies in memory as its transpose: a tall matrix that is handled as a wide one.

    What is made of it lies so too, for what is to meet it. On a CPU, to add a contiguous matrix to
    one that lies the other way takes nine times as long, and a copy that turns it three times
    (measured, 768 x 3072).
    """
    return not X.is_contiguous() and X.mT.is_contiguous()


def only_one(X: Tensor, *others: Tensor) -> bool:
    """Whether a stack of one may go without its batch dimension: in 16 bits on a CPU.

    X is of a shape that is never stacked, or all are of whole tiles, so that it is the same to a
    bit. Else the last bit of a product may tell a matrix from one of several (146 x 493 times 493 x
    31).
    """
    if X.ndim != 3 or X.shape[0] != 1 or X.dtype.itemsize != 2 or not X.is_cpu:
        return False
    sides = (side for matrix in (X, *others) for side in matrix.shape[-2:])
    stacked = stacking_pays(X.shape[-2], X.shape[-1], X.device)
    return not stacked or all(side % TILE == 0 for side in sides)


def _by_kernel(X: Tensor) -> bool:
    return kernels.available(X) and kernels.pays(X.shape[-2], X.shape[-1], X.dtype)


def _blocks_pay(X: Tensor) -> bool:
    """Not in a graph.

    Inductor 2.13 makes of five steps on 768 x 3072 97 s of compilation and 382 ms of work with
    blocks, and 4.5 s and 89 ms without (measured).
    """
    if torch.compiler.is_compiling():
        return False
    return blocks_pay(X.shape[-2], X.shape[-1], X.dtype, X.device)


def _by_blocks(X: Tensor, out: Tensor) -> Tensor:
    """``X X^T`` into ``out``: the halves by themselves, and what is between them once."""
    m = X.shape[-2]
    if m <= LEAF:
        return out.copy_(matmul(X, X.mT))
    half = m // 2
    top, bottom = X[..., :half, :], X[..., half:, :]
    _by_blocks(top, out[..., :half, :half])
    _by_blocks(bottom, out[..., half:, half:])
    between = matmul(bottom, top.mT)
    out[..., half:, :half] = between
    out[..., :half, half:] = between.mT
    return out
