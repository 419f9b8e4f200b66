"""The polar factor U V^T of X = U S V^T: the nearest matrix with orthonormal rows or columns."""

from __future__ import annotations

import torch
from torch import Tensor

from stiefel.errors import RecipeError
from stiefel.hardware import stacking_pays
from stiefel.linalg.coefficients import TABLES, Table

__all__ = ["METHODS", "polar"]

METHODS: tuple[str, ...] = (*TABLES, "exact")


def polar(
    X: Tensor,
    *,
    method: str = "polar_express",
    steps: int | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Polar factor of every matrix of a stack.

    Args:
        X: stack `[..., m, n]`, real floating point.
        method: a Newton-Schulz table of `stiefel.linalg.TABLES` (``"jordan"``,
            ``"polar_express"``) or ``"exact"`` (singular value decomposition).
        steps: number of Newton-Schulz steps; None takes the table's own. ``"exact"`` ignores it.
        dtype: precision of the iteration. None means bfloat16 for 32-bit and narrower inputs, as in
            every published Muon, and float64 for float64. ``"exact"`` computes in at least float32.

    Returns:
        A stack of the same shape and dtype. ``polar(c X) = polar(X)`` for every c > 0, down to the
        smallest normal number. A zero matrix gives zero, a matrix with a NaN or an Inf gives NaN
        (``"exact"`` raises torch's `LinAlgError`), and neither touches its neighbours.

    Raises:
        RecipeError: unknown method.
    """
    if method not in METHODS:
        raise RecipeError(f"polar={method!r} is unknown: choose one of {', '.join(METHODS)}")
    if X.numel() == 0:
        return X.clone()
    stack = X.reshape(-1, *X.shape[-2:])
    if method == "exact":
        factor = _exact(stack)
    else:
        factor = _each(stack, TABLES[method], steps, dtype or _iteration_dtype(X))
    return factor.to(X.dtype).reshape(X.shape)


def _iteration_dtype(X: Tensor) -> torch.dtype:
    return torch.float64 if X.dtype == torch.float64 else torch.bfloat16


def _each(X: Tensor, table: Table, steps: int | None, dtype: torch.dtype) -> Tensor:
    """Iterate the stack as one, or matrix by matrix where batched products are slower."""
    if X.shape[0] == 1:
        return _newton_schulz(X[0], table, steps, dtype).unsqueeze(0)
    if stacking_pays(X.shape[1], X.shape[2], X.device):
        return _newton_schulz(X, table, steps, dtype)
    return torch.stack([_newton_schulz(matrix, table, steps, dtype) for matrix in X])


def _newton_schulz(X: Tensor, table: Table, steps: int | None, dtype: torch.dtype) -> Tensor:
    """The iteration on a matrix `[m, n]` or a stack `[b, m, n]`."""
    add_product = torch.addmm if X.ndim == 2 else torch.baddbmm
    Y = _unit(X, dtype, table.headroom)
    tall = Y.shape[-2] > Y.shape[-1]
    Y = Y.mT if tall else Y  # the Gram matrix on the short side
    for a, b, c in table.triples(steps):
        gram = Y @ Y.mT
        gram = add_product(gram, gram, gram, beta=b, alpha=c)
        Y = add_product(Y, gram, Y, beta=a)
    return Y.mT if tall else Y


def _exact(X: Tensor) -> Tensor:
    """U V^T over the singular values that are not rounding noise; the others contribute zero."""
    wide = torch.float64 if X.dtype == torch.float64 else torch.float32
    U, S, Vh = torch.linalg.svd(_unit(X, wide), full_matrices=False)
    noise = S[..., :1] * max(X.shape[-2:]) * torch.finfo(S.dtype).eps
    factor: Tensor = (U * (noise < S).unsqueeze(-2)) @ Vh
    return factor


def _unit(X: Tensor, dtype: torch.dtype, headroom: float = 1.0) -> Tensor:
    """``X / (headroom ||X||_F)`` in ``dtype``, safe from overflow and underflow of the squares.

    torch.optim.Muon clamps the norm at 1e-7 instead, and loses its scale invariance below it.
    """
    # Narrow first where the exponents suffice (float32 to bfloat16): half the memory traffic.
    work = dtype if torch.finfo(dtype).tiny <= torch.finfo(X.dtype).tiny else X.dtype
    Y, norm = _with_safe_norm(X, work)
    floor = torch.finfo(norm.dtype).tiny
    return Y.div_((norm.clamp_min(floor) * headroom).to(work)).to(dtype)


def _norm(X: Tensor) -> Tensor:
    """Frobenius norms `[..., 1, 1]`, accumulated in at least float32."""
    wide = torch.float64 if X.dtype == torch.float64 else torch.float32
    norm: Tensor = torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True, dtype=wide)
    return norm


def _with_safe_norm(X: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A copy of X in ``dtype`` and its norms; brought near 1 first unless that is seen to be idle.

    Looking at a norm is free on the CPU only: elsewhere it is a device sync or a graph break.
    """
    if X.device.type == "cpu" and not torch.compiler.is_compiling():
        Y = X.to(dtype, copy=True)
        norm = _norm(Y)
        if bool(((norm > 1e-15) & (norm < 1e15)).all()):
            return Y, norm
    Y = _near_one(X).to(dtype)
    return Y, _norm(Y)


def _near_one(X: Tensor) -> Tensor:
    """X times the power of two that brings each matrix's largest entry near 1: rounds nothing."""
    wide, limit = (torch.float64, 1022) if X.dtype == torch.float64 else (torch.float32, 126)
    X = X.to(wide)
    exponent = torch.frexp(X.abs().amax((-2, -1), keepdim=True)).exponent
    return X * torch.exp2(-exponent.clamp(-limit, limit).to(wide))
