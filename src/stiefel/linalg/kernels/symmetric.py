"""The door to the Triton program of symmetric products: checks, strides, and a torch operator.

``X X^T`` is symmetric, so half of its tiles are enough: half the FLOPs of a general product. As an
operator of torch's the program is one node of a compiled plan, with shapes known to fake tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

import torch
from torch import Tensor

from stiefel.errors import MatrixError

__all__ = ["available", "gram", "pays", "symmetric_polynomial"]

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
INSTALLED = find_spec("triton") is not None

# Both sides from which the program is chosen. Published, not ours: flash-muon's README times the
# same method against torch as 0.90 on an H800 at 1024 x 1024, 1.19 at 2048, 1.61 at 4096 and 1.56
# at 8192; at 2048 all four of its GPUs gain. `make gpu` measures ours.
SHORTEST_SIDE = 2048


def available(X: Tensor) -> bool:
    """Whether the program can run on X: Triton is there, and a GPU of capability 8.0 or later.

    It has no backward: where a gradient would be recorded the answer is no.
    """
    if not (INSTALLED and X.is_cuda and X.dtype in DTYPES) or _recorded(X):
        return False
    return torch.cuda.get_device_properties(X.device).major >= 8


def pays(m: int, n: int, dtype: torch.dtype) -> bool:
    """Whether the program is taken to be faster than torch's product for ``X`` `[m, n]`.

    Not for float32, for which nobody has published a time; and only for sides of multiples of 16,
    without which Triton moves numbers one at a time (seen in its machine code).
    """
    aligned = m % 16 == 0 and n % 16 == 0
    return dtype.itemsize == 2 and aligned and min(m, n) >= SHORTEST_SIDE


def gram(X: Tensor, *, out_dtype: torch.dtype | None = None) -> Tensor:
    """``X X^T`` of a matrix `[m, n]` or a stack `[b, m, n]`, accumulated in float32.

    Args:
        X: bfloat16, float16 or float32, of any strides: ``gram(X.mT)`` is ``X^T X`` without a copy.
        out_dtype: dtype of the result; None means X's. A float32 Gram matrix of narrow X keeps
            what the accumulation knew.

    Returns:
        `[m, m]` or `[b, m, m]`, contiguous, symmetric to the last bit. float32 operands are rounded
        to TF32 where torch's own are (`torch.set_float32_matmul_precision`).

    Raises:
        MatrixError: another number of dimensions, another dtype, or a gradient to be recorded.
    """
    return _product(_checked(X, "X"), 0.0, 1.0, None, out_dtype or X.dtype)


def symmetric_polynomial(A: Tensor, b: float | Tensor, c: float | Tensor) -> Tensor:
    """``b A + c A A`` of a symmetric matrix `[m, m]` or a stack `[b, m, m]`, rounded once.

    Args:
        A: bfloat16, float16 or float32, symmetric: only that makes A A = A A^T.
        b, c: numbers, or tensors of one number or of one per matrix. Numbers on A's device stay
            there: the host does not wait.

    Returns:
        A stack of A's shape and dtype, contiguous, symmetric to the last bit if A is.

    Raises:
        MatrixError: as `gram`; A is not square, or the number of coefficients is not that of
            matrices.
    """
    if _checked(A, "A").shape[-1] != A.shape[-2]:
        raise MatrixError(f"A has shape {tuple(A.shape)}: a polynomial needs square matrices")
    if not isinstance(b, Tensor) and not isinstance(c, Tensor):
        return _product(A, b, c, None, A.dtype)
    batch = A.shape[0] if A.ndim == 3 else 1
    coefficients = torch.stack([_one_each(b, batch, A, "b"), _one_each(c, batch, A, "c")])
    return _product(A, 0.0, 0.0, coefficients, A.dtype)


def _checked(X: Tensor, name: str) -> Tensor:
    if X.ndim not in (2, 3):
        raise MatrixError(f"{name} has shape {tuple(X.shape)}: give [m, n] or a stack [b, m, n]")
    if X.dtype not in DTYPES:
        choices = ", ".join(map(str, DTYPES))
        raise MatrixError(f"{name} has dtype {X.dtype}: the kernels take one of {choices}")
    if _recorded(X):
        raise MatrixError(
            f"{name} requires a gradient, and the kernels have no backward: call them under "
            f"torch.no_grad(), or multiply by {name} @ {name}.mT"
        )
    return X


def _recorded(X: Tensor) -> bool:
    return X.requires_grad and torch.is_grad_enabled()


def _one_each(value: float | Tensor, batch: int, A: Tensor, name: str) -> Tensor:
    """`[batch]` float32 on A's device: a tensor's numbers, or a number by a fill (not a copy)."""
    if not isinstance(value, Tensor):
        return torch.full((batch,), value, dtype=torch.float32, device=A.device)
    if value.numel() not in (1, batch):
        raise MatrixError(
            f"{name} holds {value.numel()} numbers for {batch} matrices: give one, or one each"
        )
    return value.to(A.device, torch.float32).reshape(-1).expand(batch)


def _product(
    X: Tensor, b: float, c: float, coefficients: Tensor | None, dtype: torch.dtype
) -> Tensor:
    stack = X if X.ndim == 3 else X.unsqueeze(0)
    C: Tensor = torch.ops.stiefel.symmetric_product(stack, b, c, coefficients, dtype)
    return C if X.ndim == 3 else C.squeeze(0)


# Microseconds a call on our CPU: `torch.library.custom_op` 28, `triton_op` 33 (and it imports
# Triton with this module), these lower functions 8. An H800 needs 32 for a Gram matrix of 2048 rows
# (flash-muon), so the difference would be seen.
torch.library.define(
    "stiefel::symmetric_product",
    "(Tensor X, float b, float c, Tensor? coefficients, ScalarType dtype) -> Tensor",
)


@torch.library.register_fake("stiefel::symmetric_product")
def _shape_only(
    X: Tensor, b: float, c: float, coefficients: Tensor | None, dtype: torch.dtype
) -> Tensor:
    return X.new_empty((X.shape[0], X.shape[1], X.shape[1]), dtype=dtype)


@torch.library.impl("stiefel::symmetric_product", "default")
def _launch(
    X: Tensor, b: float, c: float, coefficients: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """``b X + c X X^T`` of a stack; b = 0, c = 1 is the bare product, of any shape.

    ``coefficients`` `[2, batch]` takes the place of the numbers b and c.
    """
    from stiefel.linalg.kernels.product import symmetric_product  # noqa: PLC0415

    batch, m, n = X.shape
    C: Tensor = _shape_only(X, b, c, coefficients, dtype)

    def grid(meta: Mapping[str, int]) -> tuple[int]:
        side = -(-m // meta["BLOCK"])
        return (batch * side * (side + 1) // 2,)

    options = {
        "POLYNOMIAL": coefficients is not None or (b, c) != (0.0, 1.0),
        "PER_MATRIX": coefficients is not None,
        "PRECISION": "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee",
    }
    numbers = (b, c) if coefficients is None else coefficients.unbind()
    if C.numel():  # a launch of nothing is an error
        with torch.cuda.device_of(X):  # type: ignore[no-untyped-call]
            symmetric_product[grid](X, C, *numbers, m, n, *X.stride(), **options)
    return C
