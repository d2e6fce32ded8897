"""Tables in markdown for the UI, whose text nobody trusts: a reply may hold markup, links, images, and odd characters.

Text stands in code spans, where markdown makes nothing of it. What could end a span, a cell or a line, turn the
direction of writing, or be invisible is shown as something else.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

LONGEST = 100
STAND_INS = {"|": "¦", "`": "ˋ", "\n": "⏎", "\r": "", "\t": " "}


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in markdown."""
    lines = (f"| {' | '.join(map(cell, row))} |" for row in rows)
    return "\n".join([f"| {' | '.join(map(cell, head))} |", "|---" * len(head) + "|", *lines])


def cell(value: object) -> str:
    """A value as a cell; nothing for null."""
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return str(value)
    text = plain(str(value))
    return f"`{text}`" if text.strip() else ""


def plain(text: str, longest: int = LONGEST) -> str:
    """The beginning of a text, on one line, without what could be taken for anything but text."""
    shown = "".join(map(_shown, text[: longest + 1]))
    return f"{shown[:longest]}…" if len(text) > longest else shown


def _shown(char: str) -> str:
    if char in STAND_INS:
        return STAND_INS[char]
    return "�" if unicodedata.category(char)[0] == "C" or unicodedata.category(char) in ("Zl", "Zp") else char
