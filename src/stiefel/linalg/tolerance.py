"""The polar factor to a tolerance, at no more than about twice the cost of the cheaper way there.

Newton-Schulz steps go in rounds. One round brings every singular value within a hundredth of the
largest near 1 and lifts smaller ones about a hundredfold, so the next round finds them higher; the
defect that it leaves tells whether any is left. How many rounds a matrix needs is not known before,
its smallest singular values are not cheap to estimate. So rounds go on until they have cost what a
decomposition costs, or have lifted all that is above rounding, and then that is taken: at most
twice the better of the two.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import vector_norm

from stiefel.errors import MatrixError
from stiefel.hardware import decomposition_cost, step_cost
from stiefel.linalg.coefficients import CLASSICAL, evaluate
from stiefel.linalg.iteration import iterate
from stiefel.linalg.methods import Exact, GramEigh, Method, NewtonSchulz, Svd
from stiefel.linalg.minimax import minimax
from stiefel.linalg.products import symmetric_product
from stiefel.linalg.stack import working_dtype

__all__ = ["measured_defect", "precision_for", "reachable", "within"]

ROUND = minimax(1e-2, 4)
# A round done leaves a defect of 0.03 by its band; rounding in bfloat16 adds as much.
NEAR = 0.1


def reachable(dtype: torch.dtype) -> float:
    """The least defect that products in ``dtype`` reach on any matrix that is not singular."""
    return 16 * torch.finfo(dtype).eps


def precision_for(tol: float, given: torch.dtype, asked: torch.dtype | None) -> torch.dtype:
    """The narrowest dtype whose products reach ``tol``, for input and output of dtype ``given``.

    Raises:
        MatrixError: ``tol`` is no positive number, or out of reach.
    """
    if not tol > 0:
        raise MatrixError(f"tol={tol!r}: give a positive number, e.g. 1e-3")
    ceiling = torch.float64 if given == torch.float64 else torch.float32
    choices = [asked] if asked else [torch.bfloat16, ceiling]
    enough = [dtype for dtype in choices if reachable(dtype) <= tol]
    limit = max(reachable(given), min(reachable(dtype) for dtype in choices))
    if not enough or tol < limit:
        raise MatrixError(
            f"tol={tol:g} cannot be reached with input of {given} and products of {choices[-1]}: "
            f"the least is {limit}; give that, or a wider dtype"
        )
    return enough[0]


def within(X: Tensor, tol: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Method, int]:
    """Factor, defect `[b]`, method and number of steps for a prepared wide stack `[b, m, n]`.

    The factor is in the dtype of the products that made it.
    """
    _, m, n = X.shape
    Y, taken, polish = X.to(dtype), 0, _polish(tol)
    zero = X.abs().amax((-2, -1)) == 0  # or set aside: no round lifts it
    lowest, step = 1.0, step_cost(m, n, dtype, X.device)
    while lowest > torch.finfo(X.dtype).eps and taken * step <= decomposition_cost(m, n, X.device):
        Y = _round(Y, first=taken == 0).to(dtype)
        taken, lowest = taken + ROUND.steps, lowest * ROUND.floor
        if bool((zero | (measured_defect(Y) <= NEAR)).all()):
            factor, taken = iterate(Y, [[CLASSICAL]] * polish), taken + polish
            defect = measured_defect(factor)
            if bool((zero | (defect <= tol)).all()):
                return factor, defect, NewtonSchulz(ROUND), taken
    X = X.to(torch.promote_types(X.dtype, dtype))
    method: Exact = Svd() if X.dtype == torch.float64 else GramEigh()
    factor = iterate(method(X), [[CLASSICAL]])  # squares cost `GramEigh` digits: here they are
    return factor, measured_defect(factor), method, 0


def _round(Y: Tensor, *, first: bool) -> Tensor:
    runs = [[triple] for triple in ROUND.triples()]
    if first:
        return iterate(Y, runs, room=ROUND.headroom**2)
    return iterate(Y / ROUND.headroom, runs)


def _polish(tol: float) -> int:
    """How many classical steps bring the band of a round well within ``tol``."""
    low, high = ROUND.band
    steps = 0
    while max(1 - low * low, high * high - 1) > tol / 4 or steps == 0:
        low, high = evaluate(CLASSICAL, low), evaluate(CLASSICAL, high)
        steps += 1
    return steps


def measured_defect(U: Tensor) -> Tensor:
    """``|U U^T - I|_F / sqrt(m)`` of a stack `[b, m, n]`, m the short side, at least in float32."""
    U = U.mT if U.shape[-2] > U.shape[-1] else U
    gram = symmetric_product(U.to(working_dtype(U.dtype)))
    identity = torch.eye(U.shape[-2], dtype=gram.dtype, device=U.device)
    norms = vector_norm(gram - identity, dim=(-2, -1))
    defect: Tensor = norms / max(U.shape[-2], 1) ** 0.5
    return defect
