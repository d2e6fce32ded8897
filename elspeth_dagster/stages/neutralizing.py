"""Texts in a CSV that no spreadsheet program takes for a formula, and the same texts back.

A cell that begins with one of = + - @ (their full-width forms too), a tab or a line end may be evaluated where the file
is opened (https://owasp.org/www-community/attacks/CSV_Injection). Such a text gets an apostrophe before it, and so does
one that begins with an apostrophe, so that taking one off gives every text back. Numbers are no texts: -5 stays -5.
"""

from __future__ import annotations

RISKY = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")
MARK = "'"


def neutralized(text: str) -> str:
    """The text as a cell can hold it."""
    return f"{MARK}{text}" if text.startswith((*RISKY, MARK)) else text


def as_it_was(cell: str) -> str:
    """The text that a cell holds."""
    return cell[1:] if cell.startswith(MARK) and cell[1:].startswith((*RISKY, MARK)) else cell
