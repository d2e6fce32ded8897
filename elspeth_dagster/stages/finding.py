"""A record as it stands in its source, before its values are judged, and why one can't become a row.

Each format has a reader (`reading_csv`, `reading_json`, `reading_tables`) that hands on what it found; `reading`
judges it. What is wrong with one record refuses that record; what is wrong with the whole refuses the source.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from elspeth_dagster.core.errors import SourceError

_EXCERPT = 32
_PROBLEMS = 10


class RejectionReason(StrEnum):
    """Why a record can't become a row."""

    ENCODING = "encoding"  # not UTF-8, or half of a surrogate pair
    NUL = "nul"  # a NUL character, which no database keeps as text
    TOO_LARGE = "too_large"  # the record as a whole, or its key
    QUOTING = "quoting"
    RAGGED = "ragged"  # more or fewer fields than the header
    SYNTAX = "syntax"  # not JSON
    TOO_DEEP = "too_deep"
    NOT_AN_OBJECT = "not_an_object"
    DUPLICATE_FIELD = "duplicate_field"
    UNKNOWN_FIELD = "unknown_field"
    MISSING_FIELD = "missing_field"
    TYPE = "type"  # a value that isn't of its column's type
    NOT_FINITE = "not_finite"  # NaN, Infinity
    OUT_OF_RANGE = "out_of_range"  # a number or an instant that can't be kept exactly
    BLANK_KEY = "blank_key"
    REPEATED_KEY = "repeated_key"


class Refused(Exception):  # noqa: N818 (a verdict on one record, not an error of the run)
    """One record can't become a row. `column` is a declared column, or None where no single one is to blame."""

    def __init__(self, reason: RejectionReason, message: str, column: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.column = column


@dataclass(frozen=True, slots=True)
class Found:
    """A record's fields as its format gives them; `refused` where there is no making them out.

    `file` is the one that holds it, where a source is several; `partition` the one that this is read for.
    """

    line: int | None
    raw: bytes | None
    fields: Mapping[str, object]
    refused: Refused | None = None
    file: str | None = None
    partition: str | None = None


def excerpt(name: object) -> str:
    """A column's or row's name as a message may show it: escaped, and never more than a few characters of it."""
    if isinstance(name, str):
        return repr(name if len(name) <= _EXCERPT else name[:_EXCERPT] + "…")
    return described(name)


def described(value: object) -> str:
    """What kind of value it is. Messages stay when the record they are about is erased, so they never quote it."""
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    if value is None:
        return "null"
    kinds = {bool: "a boolean", int: "a number", float: "a number"}
    return kinds.get(type(value), f"a value of type {type(value).__name__}")


def check_columns(found: Sequence[object], where: str, declared: Collection[str]) -> None:
    """Raises SourceError unless the columns found are the declared ones, each once, in any order.

    Where none of them is declared, they may be no names but a record: then none is quoted.
    """
    times = Counter(found)
    is_header = any(_words(name) <= set(declared) for name in found)
    named = {name: f"column {excerpt(name) if is_header else place}" for place, name in enumerate(times, 1)}
    problems = [f"{named[name]} is not declared" for name in times if name not in declared]
    problems += [f"declared column {excerpt(name)} is missing" for name in declared if name not in times]
    problems += [f"{named[name]} is there {n} times" for name, n in times.items() if n > 1]
    if problems:
        more = f"; and {len(problems) - _PROBLEMS} more" if len(problems) > _PROBLEMS else ""
        listed = "; ".join(problems[:_PROBLEMS]) + more
        raise SourceError(f"{where}: {listed}. Make `source.columns` and the source's columns agree.")


def _words(name: object) -> set[str]:
    """A name, or what it consists of where a line was not cut at its commas."""
    return set(re.split(r"[;|\t]", name)) if isinstance(name, str) else {""}
