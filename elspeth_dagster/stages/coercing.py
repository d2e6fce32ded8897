"""One value to its column's declared type, or refused: the only place where values change their type.

Text (CSV) is read by the grammar of its type; values that come typed (JSON, Parquet, DataFrames) are held to it.
What comes out is JSON that has one canonical form (RFC 8785): integers within ±(2^53 - 1), finite floats without
a negative zero, dates and datetimes as ISO 8601 text, datetimes in UTC.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.source_spec import ColumnType
from elspeth_dagster.stages.finding import Refused, RejectionReason, described, excerpt

MAX_INT = 2**53 - 1  # RFC 8785 §3.2.2.3: a JSON number is a double

_MAX_DIGITS = 400  # beyond 4300, int() raises
_INT = re.compile(r"[+-]?[0-9]++")
_FLOAT = re.compile(r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?")
_NOT_FINITE = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DATETIME = re.compile(
    _DATE.pattern + r"(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?"
)
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

_EXPECTED: dict[ColumnType, str] = {
    "str": "text",
    "int": "a whole number (ASCII digits and a sign)",
    "float": "a decimal number",
    "bool": "true, false, 1, 0, yes or no, or a boolean",
    "date": "a date like 2026-01-31",
    "datetime": "a date and time like 2026-01-31T09:30:00Z, with microseconds at most",
}

_PROBLEM: dict[RejectionReason, str] = {
    RejectionReason.TYPE: "must be {expected}, not {found}",
    RejectionReason.NOT_FINITE: "must be {expected}, not NaN or Infinity",
    RejectionReason.OUT_OF_RANGE: f"is out of range: ints end at ±{MAX_INT}, floats at ±1.8e308, years at 1 and 9999",
    RejectionReason.NUL: "holds a NUL character, which no database keeps as text",
    RejectionReason.ENCODING: "holds half of a surrogate pair or bytes that are not UTF-8",
}


@dataclass(frozen=True, slots=True)
class Unusable:
    """Stands for a value that its format could write and nothing here can hold."""

    reason: RejectionReason


class _Mismatch(Exception):  # noqa: N818
    """A value can't be of the type asked for."""

    def __init__(self, reason: RejectionReason = RejectionReason.TYPE) -> None:
        self.reason = reason


def coerce_text(text: str, column: str, kind: ColumnType) -> Json:
    """The value that a text field holds. Text stays as it is, also empty; blank is None for every other type.

    Raises Refused, naming the column and what was expected.
    """
    if kind == "str":
        return text
    if not text.strip():
        return None
    return _coerced(_FROM_TEXT[kind], text.strip(), column, kind)


def coerce_value(value: object, column: str, kind: ColumnType) -> Json:
    """A value that came with a type of its own, held to the declared one; None stays None.

    An int is a float too and a Decimal is one; dates and datetimes may come as ISO 8601 text. Nothing else changes
    its type: 1.0 is no int, a bool no number, a number no text. Raises Refused like `coerce_text`.
    """
    if value is None:
        return None
    return _coerced(_FROM_VALUE[kind], value, column, kind)


def _coerced(convert: Callable[[Any], Json], value: object, column: str, kind: ColumnType) -> Json:
    try:
        if isinstance(value, Unusable):
            raise _Mismatch(value.reason)
        return convert(value)
    except _Mismatch as mismatch:
        problem = _PROBLEM[mismatch.reason].format(expected=_EXPECTED[kind], found=described(value))
        raise Refused(mismatch.reason, f"Column {excerpt(column)} {problem}.", column) from None


def _str(value: object) -> str:
    if not isinstance(value, str):
        raise _Mismatch
    if "\0" in value:
        raise _Mismatch(RejectionReason.NUL)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Mismatch(RejectionReason.ENCODING) from None
    return value


def _int_from_text(text: str) -> int:
    if not _INT.fullmatch(text):
        raise _Mismatch
    if len(text) > _MAX_DIGITS:
        raise _Mismatch(RejectionReason.OUT_OF_RANGE)
    return _int(int(text))


def _int(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Mismatch
    if abs(value) > MAX_INT:
        raise _Mismatch(RejectionReason.OUT_OF_RANGE)
    return value


def _float_from_text(text: str) -> float:
    if _NOT_FINITE.fullmatch(text):
        raise _Mismatch(RejectionReason.NOT_FINITE)
    if not _FLOAT.fullmatch(text):
        raise _Mismatch
    if math.isinf(float(text)):
        raise _Mismatch(RejectionReason.OUT_OF_RANGE)
    return _float(float(text))


def _float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise _Mismatch
    try:
        number = float(value)
    except (OverflowError, ValueError):  # an int too large, a signalling NaN
        raise _Mismatch(RejectionReason.OUT_OF_RANGE) from None
    if not math.isfinite(number):
        raise _Mismatch(RejectionReason.NOT_FINITE)
    return number + 0.0  # -0.0 becomes 0.0


def _bool_from_text(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise _Mismatch
    return _BOOLEANS[text.lower()]


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Mismatch
    return value


def _date_from_text(text: str) -> str:
    try:
        return date.fromisoformat(_matched(_DATE, text)).isoformat()
    except ValueError:
        raise _Mismatch from None


def _date(value: object) -> str:
    if isinstance(value, str):
        return _date_from_text(value)
    if isinstance(value, datetime) or not isinstance(value, date):
        raise _Mismatch
    return value.isoformat()


def _datetime_from_text(text: str) -> str:
    try:
        moment = datetime.fromisoformat(_matched(_DATETIME, text))
    except ValueError:
        raise _Mismatch from None
    return _utc(moment)


def _datetime(value: object) -> str:
    if isinstance(value, str):
        return _datetime_from_text(value)
    if not isinstance(value, datetime) or getattr(value, "nanosecond", False):  # pandas has them
        raise _Mismatch
    return _utc(value)


def _utc(moment: datetime) -> str:
    try:
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (OverflowError, ValueError):  # datetime raises the one, pandas the other
        raise _Mismatch(RejectionReason.OUT_OF_RANGE) from None
    return moment.isoformat().replace("+00:00", "Z")


def _matched(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise _Mismatch
    return text


_FROM_TEXT: Mapping[ColumnType, Callable[[str], Json]] = {
    "int": _int_from_text,
    "float": _float_from_text,
    "bool": _bool_from_text,
    "date": _date_from_text,
    "datetime": _datetime_from_text,
}
_FROM_VALUE: Mapping[ColumnType, Callable[[object], Json]] = {
    "str": _str,
    "int": _int,
    "float": _float,
    "bool": _bool,
    "date": _date,
    "datetime": _datetime,
}
