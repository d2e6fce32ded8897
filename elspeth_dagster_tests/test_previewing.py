"""Text that nobody trusts as cells of a markdown table, read back by a markdown parser of GitHub's kind."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elspeth_dagster.previewing import cell, plain, table

HOSTILE = [
    "<script>alert(1)</script>",
    "![x](http://evil.example/x.png)",
    "[x](javascript:alert(1))",
    "a | b | c",
    "`code` ``more`` ```",
    "line\nbreak\r\n\n# head",
    "https://evil.example www.evil.example",
    "\u202ereversed\u2066 \x00\x1b[31m\u200b",
    "\\|\\`",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_one_code_span_in_one_cell(text: str) -> None:
    shown = table(("a", "b"), [(text, 1)])
    assert re.fullmatch(r"\| `a` \| `b` \|\n\|---\|---\|\n\| `[^`|\n]*` \| 1 \|", shown)
    assert not re.search(r"[\x00-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", shown.replace("\n", ""))


@given(st.text())
def test_any_text_leaves_the_table_a_table(text: str) -> None:
    lines = table(("a", "b"), [(text, None), (text, True)]).split("\n")
    assert len(lines) == 4 and all(line.count("|") == 3 and line.count("`") in (0, 2, 4) for line in lines)
    assert len("\n".join(lines).splitlines()) == 4


def test_long_text_is_cut_and_says_so() -> None:
    assert cell("x" * 101) == f"`{'x' * 100}…`" and cell("x" * 100) == f"`{'x' * 100}`"
    assert plain("a\nb") == "a⏎b"
    assert [cell(value) for value in (None, "", "  ", 0, 1.5, False)] == ["", "", "", "0", "1.5", "False"]
