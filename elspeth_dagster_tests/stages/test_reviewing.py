"""What people write becomes values of the declared kind, or is refused with what to write."""

from __future__ import annotations

from typing import Any

import pytest

from elspeth_dagster.core.spec import AnswerField
from elspeth_dagster.stages.reviewing import (
    Judgement,
    is_the_same,
    latest_by_question,
    latest_by_reviewer,
    value_of_text,
)

SCORE = AnswerField(type="integer", minimum=0, maximum=100)
SHARE = AnswerField(type="number", minimum=0, maximum=1)
WHY = AnswerField(type="string", max_length=10)
IS_IT = AnswerField(type="boolean")
LEVEL = AnswerField(type="enum", values=["low", "high"])


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("41", SCORE, 41),
        (" 41.0 ", SCORE, 41),
        ("0.25", SHARE, 0.25),
        ("1", SHARE, 1),
        ("1e-1", SHARE, 0.1),
        ("TRUE", IS_IT, True),
        ("no", IS_IT, False),
        (" low ", LEVEL, "low"),
        (" so so ", WHY, " so so "),
    ],
)
def test_a_text_becomes_the_value_that_it_says(text: str, field: AnswerField, value: Any) -> None:
    found = value_of_text("x", text, field)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "field", "why"),
    [
        ("41.5", SCORE, "no integer: write digits alone"),
        ("101", SCORE, "must be at most 100"),
        ("9" * 5000, SCORE, r"must be within ±\(2\^53 - 1\)"),
        ("many", SCORE, "'many' is no integer"),
        ("0,5", SHARE, "no number: write it with a point"),
        ("inf", SHARE, "no number"),
        ("1e999", SHARE, r"must be within ±\(2\^53 - 1\)"),
        ("maybe", IS_IT, "write true or false"),
        ("middle", LEVEL, "must be one of low, high"),
        ("much too long", WHY, "must have at most 10 characters"),
    ],
)
def test_what_the_field_does_not_take_is_refused(text: str, field: AnswerField, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        value_of_text("x", text, field)


@pytest.mark.parametrize(
    ("text", "value", "field", "same"),
    [
        ("41.0", 41, SCORE, True),
        ("42", 41, SCORE, False),
        ("TRUE", True, IS_IT, True),
        ("a  b\r\nc", "a b\nc", WHY, True),
        ("a c", "a b", WHY, False),
        ("?", 41, SCORE, False),
    ],
)
def test_a_cell_is_the_same_however_a_spreadsheet_wrote_it(
    text: str, value: Any, field: AnswerField, same: bool
) -> None:
    assert is_the_same(text, value, field) is same


def said(reviewer: str, verdict: str, **corrected: Any) -> Judgement:
    return Judgement("token", "R1", "cs1_depth", reviewer, verdict, {"score": 1, "why": "so"}, corrected)


def test_what_is_held_for_right_is_the_answer_with_what_was_corrected() -> None:
    assert said("Ada", "agree").held == {"score": 1, "why": "so"}
    assert said("Ada", "correct", score=2).held == {"score": 2, "why": "so"}
    assert said("Ada", "reject").held == {}


def test_the_last_word_counts() -> None:
    first, second, third = said("Ada", "agree"), said("Bob", "correct", score=2), said("Ada", "reject")
    assert latest_by_question([first, second, third]) == {("token", "cs1_depth"): third}
    assert latest_by_reviewer([first, second, third]) == [third, second]
