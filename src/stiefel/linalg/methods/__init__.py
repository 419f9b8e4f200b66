"""The ways to the polar factor, by name; each is a frozen dataclass that one may also build."""

from __future__ import annotations

from typing import TypeAlias

from stiefel.errors import RecipeError, check_choice
from stiefel.linalg.coefficients import TABLES
from stiefel.linalg.methods.decomposed import GramEigh, Svd
from stiefel.linalg.methods.newton_schulz import NewtonSchulz
from stiefel.linalg.methods.qdwh import Qdwh
from stiefel.linalg.methods.zolo import Zolo
from stiefel.linalg.minimax import minimax

__all__ = ["METHODS", "Exact", "GramEigh", "Method", "NewtonSchulz", "Qdwh", "Svd", "Zolo", "find"]

Exact: TypeAlias = Svd | GramEigh | Qdwh | Zolo
Method: TypeAlias = NewtonSchulz | Exact

METHODS: dict[str, Method] = {
    # A spectrum whose outliers are gone needs few steps, and none so near to 1 in the end. Two on
    # the Gram matrix at a time: in 16 bits a small eigenvalue is off by 2**-9 of the largest, and
    # three steps in a row would make much of that.
    "fast": NewtonSchulz(
        minimax(5e-2, 2),
        rescale=True,
        deflate=16,
        oversample=32,
        gram_runs=(2,),
        small=TABLES["polar_express"],
    ),
    "faithful": NewtonSchulz(
        minimax(5e-3, 4),
        rescale=True,
        deflate=16,
        oversample=32,
        exact_deflation=True,
        gram_runs=(2, 2),
    ),
    **{name: NewtonSchulz(table) for name, table in TABLES.items()},
    # J. Zhang et al., Gram Newton-Schulz: two steps, then a fresh Gram matrix for the other three.
    # They multiply in float16. In bfloat16 an eigenvalue off by 2**-9 of the largest, as rounding
    # may leave it, would go to 1e8: see `stiefel.linalg.iteration`.
    "gram": NewtonSchulz(TABLES["polar_express_dao"], gram_runs=(2, 3)),
    "exact": Svd(),
    "eigh": GramEigh(),
    "qdwh": Qdwh(),
    "zolo": Zolo(),
}
DEFAULT = "faithful"  # what "auto" is without a tolerance: see docs/fidelity.md


def find(method: str | Method) -> Method:
    """The method of that name.

    Raises:
        RecipeError: there is none.
    """
    if isinstance(method, Method):
        return method
    check_choice("polar", method, ("auto", *METHODS), RecipeError)
    return METHODS[DEFAULT if method == "auto" else method]
