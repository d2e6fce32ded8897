"""CSV after RFC 4180, record by record: commas, quotes doubled inside quotes, a header in the first record.

A record goes on over a line end while a quote is open, that is after an odd number of quotes. Lines that quotes hold
together but that make no record of RFC 4180 (quotes only around a field, and doubled inside such a field) have a stray
quote: the first of them is refused alone, and reading resumes at the next. So sound records that follow are not
swallowed, unless their own quotes happen to fit the stray one, as those of a field that begins with a line end may.
Lines end with CRLF, LF or CR. An empty line between records is not a record.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

from elspeth_dagster.core.errors import SourceError
from elspeth_dagster.core.source_spec import SourceSpec
from elspeth_dagster.stages.finding import Found, Refused, RejectionReason, check_columns
from elspeth_dagster.stages.splitting import (
    MAX_RECORD_BYTES,
    Line,
    decoded,
    physical_lines,
    without_newline,
)

MAX_RECORD_LINES = 10_000

_FIELD = r'(?:"(?:[^"]++|"")*+"|[^",\r\n]*+)'
_RECORD = re.compile(rf"{_FIELD}(?:,{_FIELD})*+")  # RFC 4180 §2; csv.reader lets more pass than it can mean


def find_csv(stream: BinaryIO, name: str, source: SourceSpec) -> Iterator[Found]:
    """The records of a CSV file. Raises SourceError for a header that doesn't agree with `source.columns`."""
    csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD_BYTES))  # process-wide; it begins at 131072
    records = _records(physical_lines(stream, name, newline=""))
    header = _header(records, name, source)
    for record in records:
        yield _found(record, header)


def _records(lines: Iterator[Line]) -> Iterator[Line]:
    ahead: deque[Line] = deque()
    while ahead or _look_ahead(ahead, lines):
        taken = [ahead.popleft() for _ in range(_length(ahead, lines))]
        data = without_newline(b"".join(line.data for line in taken))
        if data:
            yield Line(taken[0].number, data, sum(line.size for line in taken))


def _look_ahead(ahead: deque[Line], lines: Iterator[Line]) -> bool:
    line = next(lines, None)
    if line is not None:
        ahead.append(line)
    return line is not None


def _length(ahead: deque[Line], lines: Iterator[Line]) -> int:
    """How many lines the record ahead has; 1 where a quote isn't closed in time, or several lines make no record."""
    quotes = size = 0
    for number in range(MAX_RECORD_LINES):
        if number == len(ahead) and not _look_ahead(ahead, lines):
            return 1
        quotes += ahead[number].data.count(b'"')
        size += ahead[number].size
        if size > MAX_RECORD_BYTES:
            return 1
        if quotes % 2 == 0:
            return number + 1 if number == 0 or _is_record(ahead, number + 1) else 1
    return 1


def _is_record(ahead: deque[Line], length: int) -> bool:
    data = b"".join(ahead[number].data for number in range(length))
    return _RECORD.fullmatch(without_newline(data).decode("latin-1")) is not None


def _header(records: Iterator[Line], name: str, source: SourceSpec) -> list[str]:
    record = next(records, None)
    if record is None:
        raise SourceError(f"{name}: has no header, only empty lines. Begin it with a line of column names.")
    try:
        header = _fields(record)
    except Refused as refused:
        raise SourceError(f"{name}, line {record.number}: the header can't be read. {refused}") from None
    check_columns(header, f"{name}, line {record.number}", source.columns)
    return header


def _found(record: Line, header: list[str]) -> Found:
    try:
        fields = _fields(record)
        if len(fields) != len(header):
            message = f"The record has {len(fields)} fields where the header has {len(header)}."
            raise Refused(RejectionReason.RAGGED, message)
    except Refused as refused:
        return Found(record.number, record.data, {}, refused)
    return Found(record.number, record.data, dict(zip(header, fields, strict=True)))


def _fields(record: Line) -> list[str]:
    text = decoded(record)
    sound = _RECORD.match(text)
    if sound is None or sound.end() != len(text):
        where = f"around character {(sound.end() if sound else 0) + 1} of the record"
        rule = "a field that holds a quote stands in quotes, and the quote inside it is doubled (RFC 4180)"
        raise Refused(RejectionReason.QUOTING, f"A quote is out of place or not closed {where}; {rule}.")
    return next(csv.reader([text], strict=True))
