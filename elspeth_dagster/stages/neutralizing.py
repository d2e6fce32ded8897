"""Texts in a CSV that no spreadsheet program takes for a formula, and the same texts back.

A cell that begins with one of = + - @ (their full-width, small and typographic forms too), a tab or a line end, also
behind spaces and characters that nobody sees, may be evaluated where the file is opened
(https://owasp.org/www-community/attacks/CSV_Injection). Such a text gets an apostrophe before it, and so does one that
begins with an apostrophe, so that taking one off gives every text back. Numbers are no texts: -5 stays -5.
"""

from __future__ import annotations

import unicodedata

RISKY = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20\u2212\ufe63\ufe62\ufe66\ufe6b")
UNSEEN = {"Cc", "Cf", "Zs", "Zl", "Zp", "Mn", "Me"}
MARK = "'"


def neutralized(text: str) -> str:
    """The text as a cell can hold it."""
    return f"{MARK}{text}" if text.startswith(MARK) or _could_be_formula(text) else text


def as_it_was(cell: str) -> str:
    """The text that a cell holds."""
    return cell[1:] if cell.startswith(MARK) and neutralized(cell[1:]) == cell else cell


def _could_be_formula(text: str) -> bool:
    return text.startswith(RISKY) or text[_seen_from(text) :].startswith(RISKY)


def _seen_from(text: str) -> int:
    """Where the first character is that somebody sees."""
    return next((place for place, char in enumerate(text) if unicodedata.category(char) not in UNSEEN), len(text))
