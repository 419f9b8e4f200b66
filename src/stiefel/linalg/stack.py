"""How every matrix function takes its input: checked, as a finite stack `[b, m, n]` near 1.

A function of matrices is written for finite stacks in working precision. `prepare` makes one of
any input and `Stack.restore` gives the result the input's batch shape, dtype and scale back, with
NaN for each matrix that held a NaN or an Inf. Matrices of one stack never touch each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from stiefel.errors import MatrixError

__all__ = ["Stack", "check_precision", "checked", "may_look", "prepare", "working_dtype"]

PRECISIONS = (None, torch.bfloat16, torch.float16, torch.float32, torch.float64)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def may_look(X: Tensor) -> bool:
    """Whether the host may look at a number that was computed of X.

    It is free on the CPU only: elsewhere it is a wait or a graph break. And it ends the number's
    own derivative, in reverse mode and in forward mode.
    """
    if X.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    in_graph = X.requires_grad and torch.is_grad_enabled()
    return not in_graph and unpack_dual(X).tangent is None  # type: ignore[no-untyped-call]


def check_precision(dtype: torch.dtype | None) -> None:
    """Raise `MatrixError` unless products can be taken in ``dtype``; None is a function's own."""
    if dtype not in PRECISIONS:
        raise MatrixError(f"dtype={dtype!r}: give one of {', '.join(map(str, PRECISIONS))}")


def checked(X: Tensor, name: str = "X") -> Tensor:
    """``X`` if it is a real floating-point matrix or a stack of matrices.

    Raises:
        MatrixError: it is not.
    """
    if not isinstance(X, Tensor):
        raise MatrixError(f"{name} is a {type(X).__name__}: give a torch.Tensor `[..., m, n]`")
    if not X.is_floating_point():
        raise MatrixError(f"{name} has dtype {X.dtype}: give real floating point, e.g. X.float()")
    if X.ndim < 2:
        raise MatrixError(
            f"{name} has shape {tuple(X.shape)}: a matrix has two dimensions, a stack of them "
            "[..., m, n]; reshape it first"
        )
    return X


@dataclass(frozen=True)
class Stack:
    """A checked input.

    Args:
        values: `[b, m, n]` in working precision, finite; the matrices times ``2**-exponent``.
        exponent: `[b]` integers; times a power of two nothing is rounded.
        poisoned: `[b]` flags: the matrix held a NaN or an Inf (``values`` has zeros there).
        batch: leading dimensions of the input.
        dtype: dtype of the input.
    """

    values: Tensor
    exponent: Tensor
    poisoned: Tensor
    batch: torch.Size
    dtype: torch.dtype

    def restore(self, result: Tensor, degree: float = 0) -> Tensor:
        """``result`` `[b, ...]` for the input itself, as ``[*batch, ...]`` in its dtype.

        Args:
            result: what was computed of ``values``.
            degree: the function's degree of homogeneity, ``f(c X) = c**degree f(X)``, from -2 to 2.
                Times ``multiple`` of `prepare` it must be whole for the scale to round nothing.
        """
        if degree:
            result = _times_power(result, self.exponent.to(result.dtype) * degree, parts=3)
        poisoned = self.poisoned.view(-1, *(1,) * (result.ndim - 1))
        result = result.masked_fill(poisoned, float("nan")).to(self.dtype)
        return result.reshape((*self.batch, *result.shape[1:]))


def prepare(X: Tensor, name: str = "X", multiple: int = 1) -> Stack:
    """Check ``X`` and bring it to working precision and near 1, without a look at its numbers.

    Args:
        X: `[..., m, n]`.
        name: what to call it in an error.
        multiple: round the exponent to a multiple of this, for functions of fractional degree.

    Raises:
        MatrixError: ``X`` is no real floating-point matrix.
    """
    X = checked(X, name)
    dtype = working_dtype(X.dtype)
    stack = X.reshape(X.shape[:-2].numel(), *X.shape[-2:]).to(dtype)
    if X.numel() == 0:
        nothing = torch.zeros(stack.shape[0], dtype=torch.int32, device=X.device)
        return Stack(stack, nothing, nothing.bool(), X.shape[:-2], X.dtype)
    largest = stack.detach().abs().amax((-2, -1))  # vector_norm(inf) takes seven times as long
    poisoned = ~largest.isfinite()
    exponent = torch.frexp(largest.masked_fill(poisoned, 0.0)).exponent
    exponent = torch.div(exponent, multiple, rounding_mode="floor") * multiple
    stack = stack.where(~poisoned.view(-1, 1, 1), 0.0)  # unlike masked_fill it keeps the layout
    return Stack(_times_power(stack, -exponent, parts=2), exponent, poisoned, X.shape[:-2], X.dtype)


def _times_power(X: Tensor, power: Tensor, parts: int) -> Tensor:
    """``X * 2**power`` for ``X`` `[b, ...]` and ``power`` `[b]`.

    In parts: the inverse of an extreme scale is no number of its own, its square even less, and a
    zero times an infinity would be a NaN.
    """
    power = power.to(X.dtype).view(-1, *(1,) * (X.ndim - 1))
    part = torch.floor(power / parts)
    for _ in range(parts - 1):
        X = X * torch.exp2(part)
    return X * torch.exp2(power - (parts - 1) * part)
