"""Arithmetic of hyper-parameters."""

from fractions import Fraction
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from stiefel.pieces.numbers import rounded_up


@given(st.integers(1, 100), st.integers(1, 4096))
def test_a_share_in_percent_is_rounded_up_as_on_paper(percent: int, count: int) -> None:
    """0.07 * 100 is 7.000000000000001 in binary."""
    assert rounded_up(percent / 100, count) == ceil(Fraction(percent, 100) * count)
