"""Symmetric matrices in half of the memory, and not a bit lost."""

from __future__ import annotations

import pytest
import torch

from stiefel.pieces.triangle import blank, pack, size, unpack


@pytest.mark.parametrize("s", [*range(1, 8), 33, 64])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_there_and_back(s: int, dtype: torch.dtype) -> None:
    A = torch.randn(2, 3, s, s, dtype=dtype)
    A = A + A.mT
    packed = pack(A)
    assert packed[0, 0].numel() == s * (s + 1) // 2 and size(packed) == s
    assert torch.equal(unpack(packed), A)
    zero = blank(A, (2, 3), s)
    assert zero.shape == packed.shape and zero.dtype is dtype
    assert torch.equal(unpack(zero), torch.zeros_like(A))


@pytest.mark.parametrize("s", [6, 7])
def test_the_lower_triangle_counts(s: int) -> None:
    A = torch.randn(s, s)
    assert torch.equal(unpack(pack(A)), A.tril() + A.tril(-1).mT)
    again = A.clone()
    pack(again)
    assert torch.equal(again, A)


def test_a_nan_stays_where_it_is() -> None:
    A = torch.zeros(2, 5, 5)
    A[1, 3, 2] = A[1, 2, 3] = torch.nan
    assert torch.equal(unpack(pack(A)).isnan(), A.isnan())
