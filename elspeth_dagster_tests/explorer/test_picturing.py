"""Pictures count every answer once, in bars of round widths; shades keep the order of values; counts are kept."""

from __future__ import annotations

from array import array
from collections import Counter

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from elspeth_dagster.explorer import counting, shading
from elspeth_dagster.explorer.counting import Counting
from elspeth_dagster.explorer.picturing import MOST_BARS, picture
from elspeth_dagster.explorer.shading import Scale, difference_step
from elspeth_dagster.landscape.planned import PlannedField
from elspeth_dagster.landscape.tallying import Distribution, Tally

SCORE = PlannedField("score", "integer", 0, 100)
numbers = st.floats(-1e6, 1e6) | st.integers(-1000, 1000).map(float)


def of(field: PlannedField, *values: float) -> Distribution:
    return Distribution("cs1_depth", field, array("d", values))


@given(
    values=st.lists(numbers, min_size=1, max_size=60),
    bounds=st.sampled_from([(None, None), (0, None), (None, 5), (0, 10), (0.5, 0.75)]),
    kind=st.sampled_from(["integer", "number"]),
)
def test_every_answer_is_in_the_one_bar_that_holds_it(
    values: list[float], bounds: tuple[float | None, float | None], kind: str
) -> None:
    values = [float(round(value)) for value in values] if kind == "integer" else values
    drawn = picture(of(PlannedField("score", kind, *bounds), *values))
    assert sum(each.bar.answers for each in drawn.bars) == len(values) == drawn.count
    assert len(drawn.bars) <= MOST_BARS
    assert all(each.y >= 0 and each.height >= 0 and each.width > 0 for each in drawn.bars)
    assert drawn.median_x is not None and 0 <= drawn.median_x <= 480


def test_bars_are_of_single_whole_numbers_or_of_round_ranges_within_the_bounds() -> None:
    few = picture(of(PlannedField("score", "integer", 1, 5), 2, 2, 5))
    assert [(each.bar.label, each.bar.answers) for each in few.bars] == [
        ("1", 0), ("2", 2), ("3", 0), ("4", 0), ("5", 1),
    ]  # fmt: skip
    many = picture(of(SCORE, 0, 4, 5, 100))
    assert [(each.bar.label, each.bar.answers) for each in (many.bars[0], many.bars[1], many.bars[-1])] == [
        ("0 to 5", 2), ("5 to 10", 1), ("95 to 100", 1),
    ]  # fmt: skip
    assert len(many.bars) == 20
    found = many.numbers
    assert found is not None and (found.mean, found.median, found.least, found.most) == (27.25, 4.5, 0, 100)


def test_words_have_a_bar_each_in_the_order_in_which_they_were_declared() -> None:
    field = PlannedField("tone", "enum", values=("low", "high"))
    drawn = picture(Distribution("tone", field, counts=Counter(high=3), lacking=2))
    assert [(each.bar.label, each.bar.answers) for each in drawn.bars] == [("low", 0), ("high", 3)]
    assert (drawn.count, drawn.lacking, drawn.numbers) == (3, 2, None)


@given(values=st.lists(st.floats(-10, 110), min_size=2))
def test_a_greater_value_never_has_a_lighter_shade(values: list[float]) -> None:
    steps = [Scale(SCORE, 0, 100, is_declared=True).step(value) for value in sorted(values)]
    assert steps == sorted(steps, key=lambda step: step or 0)
    assert set(steps) <= set(range(shading.STEPS))


@pytest.mark.parametrize(
    ("by", "step"),
    [(0, "same"), (None, "same"), (5, "more-1"), (-5, "less-1"), (20, "more-2"), (-21, "less-3"), (100, "more-3")],
)
def test_a_difference_is_shaded_by_the_share_of_the_scale_that_it_is(by: float | None, step: str) -> None:
    assert difference_step(by, Scale(SCORE, 0, 100, is_declared=True)) == step


class Kept(Tally):
    """A count that tells how often it was gone on with."""

    def __init__(self, *, lasting: bool) -> None:
        self.is_done, self.rows, self._lasting = False, 0, lasting

    @property
    def is_lasting(self) -> bool:
        return self._lasting

    def go_on(self, connection: sa.Connection, deadline: object) -> None:
        self.rows += 1


def test_counts_over_runs_that_are_over_are_gone_on_with_for_a_while() -> None:
    clock = [0.0]
    counts = Counting(lambda: clock[0])

    def look(key: str, *, lasting: bool = True) -> int:
        return counts.go_on(None, key, lambda: Kept(lasting=lasting), None).rows  # type: ignore[arg-type]

    assert [look("a"), look("a"), look("b"), look("a")] == [1, 2, 1, 3]
    assert [look("open", lasting=False), look("open", lasting=False)] == [1, 1]
    clock[0] = counting.KEPT_SECONDS + 1
    assert look("a") == 1
    assert [look(str(number)) for number in range(counting.KEPT + 1)] == [1] * (counting.KEPT + 1)
    assert look("a") == 1
