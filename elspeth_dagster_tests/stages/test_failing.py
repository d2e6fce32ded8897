"""How many rows may fail: a share below 1, else a number."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from elspeth_dagster.stages.failing import allowed_failures


@given(st.integers(0, 99), st.integers(0, 10**6))
@example(29, 100)  # 0.29 * 100 is a little less than 29
def test_a_share_is_taken_exactly_and_rounded_down(percent: int, rows: int) -> None:
    assert allowed_failures(percent / 100, rows) == int(Fraction(percent, 100) * rows)


@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_a_number_is_that_number(number: int, rows: int) -> None:
    assert allowed_failures(float(number), rows) == number
