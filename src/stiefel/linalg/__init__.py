"""The spectral kernel: pure functions on stacks of matrices `[..., m, n]`.

Polar factor: `polar` (also `msign`), its `METHODS` and their coefficients (`TABLES`, `minimax`).
Another map of singular values: `soft_clip`. Symmetric matrices: `inv_root`, `eigenbasis`.
Measures: norms, `condition_number`, ranks. Low rank: `truncated_svd` and its kin.
"""

from stiefel.linalg.coefficients import TABLES, Table
from stiefel.linalg.eigenbasis import BASIS_METHODS, Refresh, eigenbasis
from stiefel.linalg.low_rank import TruncatedSVD, polar_low_rank, range_finder, truncated_svd
from stiefel.linalg.methods import METHODS, GramEigh, NewtonSchulz, Qdwh, Svd, Zolo
from stiefel.linalg.minimax import minimax
from stiefel.linalg.norms import (
    PowerIteration,
    condition_number,
    effective_rank,
    nuclear_norm,
    power_iteration,
    schatten_norm,
    spectral_norm,
    stable_rank,
)
from stiefel.linalg.polar import PolarInfo, polar
from stiefel.linalg.roots import DAMPINGS, ROOT_METHODS, inv_root
from stiefel.linalg.spectral_maps import CLIP_METHODS, msign, soft_clip

__all__ = [
    "BASIS_METHODS",
    "CLIP_METHODS",
    "DAMPINGS",
    "METHODS",
    "ROOT_METHODS",
    "TABLES",
    "GramEigh",
    "NewtonSchulz",
    "PolarInfo",
    "PowerIteration",
    "Qdwh",
    "Refresh",
    "Svd",
    "Table",
    "TruncatedSVD",
    "Zolo",
    "condition_number",
    "effective_rank",
    "eigenbasis",
    "inv_root",
    "minimax",
    "msign",
    "nuclear_norm",
    "polar",
    "polar_low_rank",
    "power_iteration",
    "range_finder",
    "schatten_norm",
    "soft_clip",
    "spectral_norm",
    "stable_rank",
    "truncated_svd",
]
