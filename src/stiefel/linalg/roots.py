"""Inverse p-th roots of symmetric positive semidefinite matrices, damped."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from stiefel.errors import MatrixError, check_choice
from stiefel.linalg.decompositions import eigh, significant
from stiefel.linalg.eigenbasis import rayleigh_quotients
from stiefel.linalg.newton import check_steps, coupled_newton, distance, identity, newton_schulz
from stiefel.linalg.norms import spectral_norm
from stiefel.linalg.products import symmetric_product
from stiefel.linalg.stack import Stack, prepare
from stiefel.linalg.symmetric import prepare_symmetric, seen

__all__ = [
    "DAMPINGS",
    "ROOTS",
    "ROOT_METHODS",
    "Damping",
    "Spectrum",
    "inv_root",
    "inv_root_in_basis",
]

ROOTS: tuple[int, ...] = (1, 2, 4)

_ITERATIONS: dict[str, Callable[[Tensor, int, int | None], Tensor]] = {
    "coupled_newton": coupled_newton,
    "newton_schulz": newton_schulz,
}
ROOT_METHODS: tuple[str, ...] = ("eigh", *_ITERATIONS)

# The root R of an iteration is good when no entry of R^(p/2) D R^(p/2) - I exceeds this. Google's
# and Meta's Shampoo draw the line at the same number, for D R^p - I or what stands in for it.
GOOD = 0.1


class Spectrum(NamedTuple):
    """What a damping rule may ask of every matrix, each `[b]`, in the unit of the scaled stack."""

    one: Tensor
    mean: Tensor
    largest: Tensor


@dataclass(frozen=True)
class Damping:
    """``epsilon * unit`` is added to every eigenvalue; of ``"pseudo"`` it is the threshold.

    Args:
        unit: the unit of ``epsilon``, from the spectrum.
        epsilon: default.
        source: whose rule and default.
    """

    unit: Callable[[Spectrum], Tensor]
    epsilon: float
    source: str


DAMPINGS: dict[str, Damping] = {
    # A + epsilon I: the one rule that knows the scale of A.
    "absolute": Damping(lambda s: s.one, 1e-12, "Meta's Distributed Shampoo"),
    # A + epsilon lambda_max I: a condition number of at most 1 / epsilon.
    "relative": Damping(
        lambda s: s.largest,
        1e-6,
        "Google's Shampoo (arXiv 2002.09018), 4-bit Shampoo (arXiv 2405.18144)",
    ),
    # A + epsilon (tr A / n) I.
    "trace": Damping(lambda s: s.mean, 1e-4, "FISMO (arXiv 2601.21750), in third-party code"),
    # A itself: an eigenvalue up to epsilon lambda_max, or up to the rounding of lambda_max, counts
    # as zero and has no inverse.
    "pseudo": Damping(lambda s: s.largest, 0.0, "PseudoInverseConfig of Meta's Shampoo"),
}


def inv_root(
    A: Tensor,
    p: int = 2,
    *,
    method: str = "eigh",
    damping: str = "relative",
    epsilon: float | None = None,
    steps: int | None = None,
) -> Tensor:
    """``(A + damping)^(-1/p)`` of every symmetric positive semidefinite matrix of a stack.

    Args:
        A: `[..., n, n]`, symmetric up to rounding. A negative eigenvalue is rounding, that is zero
            (an iteration, which sees no eigenvalues, keeps one that the ridge outweighs).
        p: 1, 2 or 4.
        method: ``"eigh"``, or an iteration of products only: ``"coupled_newton"`` (as in Google's
            and Meta's Shampoo) or ``"newton_schulz"``, see `stiefel.linalg.newton`. The root of an
            iteration is measured; where it is not good (in float32 from a condition number of about
            1e6 on) the matrix is done again by eigh in float64. Iterations are for accelerators: on
            a CPU core they take 3 to 9 times as long as eigh (measured, 256 x 256).
        damping: a rule of `DAMPINGS`. ``"pseudo"`` needs ``"eigh"``. Under ``"relative"`` an
            iteration takes the largest eigenvalue by power iteration, as Google does: a few per
            cent low where the spectrum has no gap.
        epsilon: the number of the rule; None takes its own.
        steps: of an iteration. None iterates to convergence and looks from the host after each
            step; a number never looks. ``"eigh"`` ignores it.

    Returns:
        Symmetric stack of the same shape and dtype. ``inv_root(c A) = c**(-1/p) inv_root(A)`` for
        c > 0, except under ``"absolute"``. An eigenvalue that is zero even after damping has zero
        for its inverse (so a zero matrix gives zero, except under ``"absolute"``). What exceeds the
        range of the dtype is Inf. A matrix with a NaN or an Inf gives NaN for itself only. Through
        ``"eigh"`` differentiable where eigenvalues are distinct.

    Raises:
        MatrixError: not symmetric, or an argument outside its choices. Besides ``steps``, the host
            looks once for asymmetry and once for the roots of an iteration that are not good.
        ConvergenceError: an eigendecomposition failed at every rung of its ladder.
    """
    _check(p, method, damping, epsilon, steps)
    stack = prepare_symmetric(A, multiple=p)
    if A.numel() == 0:
        return A.clone()
    epsilon = DAMPINGS[damping].epsilon if epsilon is None else epsilon
    stack = _in_unit(stack, p, damping, epsilon)
    if method == "eigh":
        root = _by_eigh(stack, p, damping, epsilon)
    else:
        root = _by_iteration(stack, p, method, damping, epsilon, steps)
    return stack.restore(root, -1 / p)


def inv_root_in_basis(A: Tensor, Q: Tensor, p: int, damping: str, epsilon: float) -> Tensor:
    """``Q diag(D)^(-1/p) Q^T``, D the Rayleigh quotients ``diag(Q^T A Q)``, damped.

    `inv_root` where Q are the eigenvectors of A. Nothing is checked.

    Args:
        A: `[..., n, n]`, symmetric.
        Q: `[..., n, n]`, orthonormal columns, in the dtype of A, or in 16 bits: then the products
            are taken so, while A and D keep their precision.
        p, damping, epsilon: as in `inv_root`, but for ``"pseudo"``: the quotient of a column that
            is not quite in the null space is no zero.

    Returns:
        Symmetric, in the dtype of Q. NaN for a matrix with a NaN or an Inf in A or in Q.
    """
    r = 2 * p  # half of the root goes to each of two equal factors
    stack = _in_unit(prepare(A, multiple=r), r, damping, epsilon)
    values = stack.values
    D = rayleigh_quotients(values, Q.reshape(values.shape)).to(values.dtype).clamp_min(0)
    half = stack.restore(_power(D + _ridge(D, stack, damping, epsilon), -1 / r), -1 / r)
    return symmetric_product(Q * half.to(Q.dtype).unsqueeze(-2))


def _check(p: int, method: str, damping: str, epsilon: float | None, steps: int | None) -> None:
    choices = {"p": (p, ROOTS), "method": (method, ROOT_METHODS), "damping": (damping, DAMPINGS)}
    for name, (value, known) in choices.items():
        check_choice(name, value, known, MatrixError)
    if damping == "pseudo" and method != "eigh":
        raise MatrixError(
            f"damping='pseudo' with method={method!r}: an iteration cannot tell a zero eigenvalue "
            "from a small one; take method='eigh', or another damping"
        )
    if epsilon is not None and not 0 <= epsilon < math.inf:
        raise MatrixError(f"epsilon={epsilon!r} is out of range: give 0 <= epsilon < inf, or None")
    check_steps(steps)


def _in_unit(stack: Stack, multiple: int, damping: str, epsilon: float) -> Stack:
    """The stack in a unit in which an absolute ``epsilon`` is at most 1, as the entries are.

    Its exponent stays a multiple of ``multiple``. What underflows of a small matrix is then below
    the rounding of ``epsilon``.
    """
    if damping != "absolute" or epsilon == 0:
        return stack
    power = -(-math.frexp(epsilon)[1] // multiple) * multiple
    exponent = stack.exponent.clamp_min(power)
    shift = torch.exp2((stack.exponent - exponent).to(stack.values.dtype))
    return replace(stack, values=stack.values * shift.view(-1, 1, 1), exponent=exponent)


def _one(stack: Stack) -> Tensor:
    """The number 1 in the unit of the stack."""
    one = torch.exp2(-stack.exponent.to(stack.values.dtype))
    return one.clamp_max(torch.finfo(one.dtype).max)


def _by_eigh(stack: Stack, p: int, damping: str, epsilon: float) -> Tensor:
    L, Q = eigh(stack.values)
    L = L.clamp_min(0)
    margin = _ridge(L, stack, damping, epsilon)
    if damping == "pseudo":
        descending = L.flip(-1)
        L = L * (significant(descending, Q.shape).flip(-1) & (margin < L))
    else:
        L = L + margin
    return _assembled(L, Q, p)


def _ridge(L: Tensor, stack: Stack, damping: str, epsilon: float) -> Tensor:
    """What the rule adds to eigenvalues L `[b, n]` of the stack, `[b, 1]`."""
    spectrum = Spectrum(_one(stack), L.mean(-1), L.amax(-1))
    return epsilon * DAMPINGS[damping].unit(spectrum).unsqueeze(-1)


def _assembled(L: Tensor, Q: Tensor, p: int) -> Tensor:
    """``Q diag(L^(-1/p)) Q^T``."""
    return _symmetric((Q * _power(L, -1 / p).unsqueeze(-2)) @ Q.mT)


def _power(L: Tensor, exponent: float) -> Tensor:
    """``L^exponent``, negative; a zero has zero for its inverse."""
    positive = torch.finfo(L.dtype).tiny < L
    return torch.where(positive, L, 1.0) ** exponent * positive


def _by_iteration(
    stack: Stack, p: int, method: str, damping: str, epsilon: float, steps: int | None
) -> Tensor:
    A = stack.values
    mean = A.diagonal(dim1=-2, dim2=-1).mean(-1)
    spectrum = Spectrum(_one(stack), mean, spectral_norm(A, method="power"))
    ridge = epsilon * DAMPINGS[damping].unit(spectrum)
    D = A + ridge.view(-1, 1, 1) * identity(A)
    root = _symmetric(_ITERATIONS[method](D, p, steps))
    bad = ~(_defect(root, D, p) <= GOOD)  # a NaN is bad
    if not seen(bad):
        return root
    L, Q = eigh(A[bad].double())
    mended = _assembled(L.clamp_min(0) + ridge[bad].unsqueeze(-1), Q, p)
    return root.index_put((bad,), mended.to(root.dtype))


def _defect(R: Tensor, D: Tensor, p: int) -> Tensor:
    """Largest entry of ``|R^(p/2) D R^(p/2) - I|`` (for p = 1, of ``|R D - I|``), `[b]`."""
    half = R @ R if p == 4 else R
    return distance(half @ D @ half if p > 1 else R @ D)


def _symmetric(X: Tensor) -> Tensor:
    return (X + X.mT) / 2
