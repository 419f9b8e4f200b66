"""What a polar factor is held against: test matrices, the exact factor, and two numbers.

The exact factor U V^T comes from a float64 singular value decomposition, which takes longer than
everything else here, and is kept on disk under the hash of its matrix.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import torch
from momentum import FOLDER
from torch import Tensor
from torch.nn.functional import cosine_similarity

SEED = 0


def cosine(U: Tensor, exact: Tensor) -> Tensor:
    """``<U, E> / (||U||_F ||E||_F)`` of each matrix, `[b]` in float64: 1 is the same direction.

    0 for a matrix that is not finite: it points nowhere, and must not be lost in a comparison.
    """
    cosines: Tensor = cosine_similarity(U.double().flatten(-2), exact.double().flatten(-2), dim=-1)
    return cosines.nan_to_num(nan=0.0)


def defect(U: Tensor) -> Tensor:
    """``||U U^T - I||_F / sqrt(m)`` with the short side m, `[b]` in float64: 0 is orthonormal.

    It is the root mean square of ``s^2 - 1`` over the singular values s.
    """
    U = U.double()
    U = U.mT if U.shape[-2] > U.shape[-1] else U
    gram = U @ U.mT
    gram.diagonal(dim1=-2, dim2=-1).sub_(1.0)
    norms: Tensor = torch.linalg.matrix_norm(gram)
    return (norms / math.sqrt(U.shape[-2])).nan_to_num(nan=math.inf, posinf=math.inf)


def exact_polar(X: Tensor, folder: Path = FOLDER) -> Tensor:
    """The polar factors of a stack `[b, m, n]` on the CPU, computed in float64, kept in float32."""
    return torch.stack([_exact(matrix, folder / "exact") for matrix in X.cpu()])


def _exact(X: Tensor, folder: Path) -> Tensor:
    X = X.double().contiguous()
    file = folder / f"{hashlib.sha256(X.numpy().tobytes()).hexdigest()[:24]}-{X.shape[0]}.pt"
    if not file.exists():
        U, _, Vh = torch.linalg.svd(X, full_matrices=False)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save((U @ Vh).float(), file)
    factor: Tensor = torch.load(file)
    return factor


# -- test matrices: stacks `[b, m, n]` in float32 -------------------------------------------------


def gaussian(b: int, m: int, n: int) -> Tensor:
    """Independent normal entries: what polar iterations are usually shown on."""
    return torch.randn(b, m, n, generator=torch.Generator().manual_seed(SEED))


def log_spaced(b: int, m: int, n: int, condition: float = 1e3) -> Tensor:
    """Singular values evenly spread on a log scale from 1 to ``1 / condition``."""
    k = min(m, n)
    U, V = _frame(b, m, k, SEED), _frame(b, n, k, SEED + 1)
    S = torch.logspace(0, -math.log10(condition), k, dtype=torch.float64)
    matrices: Tensor = (U * S) @ V.mT
    return matrices.float()


def rank_deficient(b: int, m: int, n: int, noise: float = 1e-3) -> Tensor:
    """A quarter of the singular values 1; the others are gaussian noise of norm ``noise``."""
    k = min(m, n) // 4
    low = _frame(b, m, k, SEED) @ _frame(b, n, k, SEED + 1).mT
    return low.float() + gaussian(b, m, n) * (noise / (math.sqrt(m) + math.sqrt(n)))


def _frame(b: int, rows: int, columns: int, seed: int) -> Tensor:
    """Random orthonormal columns `[b, rows, columns]` in float64."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(b, rows, columns, dtype=torch.float64, generator=generator)
    frame: Tensor = torch.linalg.qr(X).Q
    return frame
