"""Whatever a text holds, its reader sees it, and sees nothing else."""

from __future__ import annotations

import html
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elspeth_dagster.explorer.rendering import TEMPLATES
from elspeth_dagster.explorer.visible import plain, visible

HIDDEN = "\u202e\u2066\u200b\ufeff\xad\x00\x1b\x85\u2028\U000e0041\ud800\u3164\U000e0100\ue000"


@pytest.mark.parametrize("char", HIDDEN)
def test_a_hidden_character_is_written_as_its_code(char: str) -> None:
    assert plain(f"a{char}b") == f"a⟨U+{ord(char):04X}⟩b"


@pytest.mark.parametrize("text", ["naïve – “quoted” 日本語 שלום मराठी 🙂", "a\tb\nc", "½ №\u00a0£\u3000"])
def test_what_can_be_seen_stays_as_it_is(text: str) -> None:
    assert plain(text) == text


@given(st.text(st.characters(exclude_categories=())))
def test_the_marked_text_is_the_plain_one_and_safe(text: str) -> None:
    marked = str(visible(text))
    assert html.unescape(re.sub(r"<span class=\"hidden-character\" title=\"[^\"<>]*\">|</span>", "", marked)) == plain(
        text
    )
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs") and char not in "\t\n" for char in marked)


def test_a_code_that_a_text_spells_is_not_marked() -> None:
    assert "<span" not in visible("⟨U+202E⟩")


def test_a_template_that_forgets_a_filter_still_shows_what_is_hidden() -> None:
    template = TEMPLATES.from_string('<a title="{{ text }}">{{ text }}</a>')
    assert template.render(text='<\u202e">') == '<a title="&lt;⟨U+202E⟩&#34;&gt;">&lt;⟨U+202E⟩&#34;&gt;</a>'
