"""The spectral kernel: pure functions on stacks of matrices `[..., m, n]`."""

from stiefel.linalg.coefficients import TABLES, Table
from stiefel.linalg.polar import METHODS, polar

__all__ = ["METHODS", "TABLES", "Table", "polar"]
