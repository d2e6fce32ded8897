"""Agreement is what the book says it is, and where nothing can be told, that is said."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from elspeth_dagster.stages.agreeing import Agreement, agreements
from elspeth_dagster.stages.querying import questions
from elspeth_dagster.stages.reviewing import Judgement
from elspeth_dagster_tests.stages.declared import assessment

ASKED = questions(assessment({}))
# The example of Krippendorff's "Computing Krippendorff's Alpha-Reliability" (2011), as three raters of twelve units;
# at interval level its alpha is 0.811 (https://en.wikipedia.org/wiki/Krippendorff's_alpha).
THREE_RATERS = [
    "* * * * * 3 4 1 2 1 1 3 3 * 3",
    "1 * 2 1 3 3 4 3 * * * * * * *",
    "* * 2 1 3 4 4 * 2 1 1 3 3 * 4",
]


def judged(unit: int, reviewer: str, given: int | None, held: int | None, question: str = "cs1_depth") -> Judgement:
    """A reviewer's word on an answer: rejected when nothing is held."""
    values = {} if given is None else {"score": given, "why": "so"}
    verdict = "reject" if held is None else "correct"
    return Judgement(
        f"t{unit}", f"R{unit}", question, reviewer, verdict, values, {} if held is None else {"score": held}
    )


def told(said: Sequence[Judgement], question: str | None = None) -> Agreement:
    """The line of a question, or of all."""
    [line] = [line for line in agreements(said, ASKED) if line.question == question]
    return line


def test_alpha_is_that_of_the_books_example() -> None:
    model, *others = [[None if mark == "*" else int(mark) for mark in line.split()] for line in THREE_RATERS]
    said = [
        judged(unit, f"rater {number}", model[unit], value)
        for number, values in enumerate(others)
        for unit, value in enumerate(values)
    ]
    line = told(said, "cs1_depth")
    assert line.alpha == pytest.approx(0.810845, abs=1e-6)
    assert (line.field, line.answers, line.reviewers, line.why) == ("score", 12, 2, None)


def test_only_numeric_fields_have_a_line_all_questions_first() -> None:
    lines = agreements([], ASKED)
    keys = ["cs1_clarity", "cs1_depth", "cs2_clarity", "cs2_depth"]
    assert [(line.field, line.question) for line in lines] == [("score", None), *(("score", key) for key in keys)]


def test_a_question_has_its_own_alpha() -> None:
    clear = [judged(1, "Ada", 1, 1, "cs1_clarity"), judged(2, "Ada", 9, 9, "cs1_clarity")]
    deep = [judged(1, "Ada", 1, 9), judged(2, "Ada", 9, 1)]
    assert told([*clear, *deep], "cs1_clarity").alpha == 1
    assert (told([*clear, *deep], "cs1_depth").alpha or 0) < 0
    assert -1 < (told([*clear, *deep]).alpha or 1) < 1


def test_the_last_word_of_a_reviewer_counts() -> None:
    before = [judged(1, "Ada", 1, 9), judged(2, "Ada", 9, 1)]
    after = [judged(1, "Ada", 1, 1), judged(2, "Ada", 9, 9)]
    assert told([*before, *after]).alpha == 1


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([], "too few"),
        ([judged(1, "Ada", 1, 2)], "too few"),
        ([judged(1, "Ada", 1, None), judged(2, "Ada", 2, None)], "too few"),
        ([judged(1, "Ada", None, 1), judged(2, "Ada", None, 2)], "too few"),
        ([judged(1, "Ada", 5, 5), judged(2, "Ada", 5, 5)], "all values are the same"),
        ([judged(1, "Ada", 5, 5), judged(2, "Ada", 5, 5), judged(3, "Ada", 7, None)], "all values are the same"),
    ],
)
def test_too_little_is_said_to_be_so(said: list[Judgement], why: str) -> None:
    line = told(said)
    assert line.alpha is None and line.why is not None and line.why.startswith(why)
