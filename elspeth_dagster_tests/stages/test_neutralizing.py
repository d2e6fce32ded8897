"""A CSV's texts can't be formulas, and come back as they were."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elspeth_dagster.stages.neutralizing import as_it_was, neutralized

FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1",
    '=HYPERLINK("http://x","y")',
    "=cmd|' /C calc'!A0",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_what_could_be_a_formula_is_none(text: str) -> None:
    assert neutralized(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "plain", "a=b", "41", "ä"])
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert neutralized(text) == as_it_was(text) == text


@given(st.text() | st.text(alphabet="'=+-@＝\t\r\n x"))
def test_every_text_comes_back(text: str) -> None:
    assert as_it_was(neutralized(text)) == text


def test_an_apostrophe_that_a_person_wrote_stays() -> None:
    assert as_it_was("'tis well argued") == "'tis well argued"
