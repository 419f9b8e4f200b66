"""The spectral kernel: pure functions on stacks of matrices `[..., m, n]`."""

from stiefel.linalg.coefficients import TABLES, Table
from stiefel.linalg.methods import METHODS
from stiefel.linalg.minimax import minimax
from stiefel.linalg.polar import PolarInfo, polar

__all__ = ["METHODS", "TABLES", "PolarInfo", "Table", "minimax", "polar"]
