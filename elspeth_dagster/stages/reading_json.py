"""JSON Lines (https://jsonlines.org, an object a line) and JSON (RFC 8259, one list of objects).

Python's reader takes NaN, repeated names, and numbers that no float can hold. Here such a value is kept as a mark
(`Unusable`) and objects as lists of pairs, so that the record is refused with its column, not silently changed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import BinaryIO

from elspeth_dagster.core.errors import SourceError
from elspeth_dagster.core.source_spec import SourceSpec
from elspeth_dagster.stages.coercing import Unusable
from elspeth_dagster.stages.finding import Found, Refused, RejectionReason, described, excerpt
from elspeth_dagster.stages.splitting import Line, decoded, physical_lines, without_bom, without_newline

_MAX_DIGITS = 400  # no float has more; beyond 4300, int() raises

_OPEN, _COMMA, _CLOSE = (re.compile(rf"[ \t\r\n]*+\{mark}[ \t\r\n]*+") for mark in "[,]")
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)


class JsonObject(list[tuple[str, object]]):
    """A JSON object as its pairs, repeated names and all."""


def _int(text: str) -> int | Unusable:
    return int(text) if len(text) <= _MAX_DIGITS else Unusable(RejectionReason.OUT_OF_RANGE)


def _float(text: str) -> float | Unusable:
    return Unusable(RejectionReason.OUT_OF_RANGE) if math.isinf(float(text)) else float(text)


_DECODER = json.JSONDecoder(
    object_pairs_hook=JsonObject,
    parse_int=_int,
    parse_float=_float,
    parse_constant=lambda _: Unusable(RejectionReason.NOT_FINITE),
)


def find_jsonl(stream: BinaryIO, name: str, source: SourceSpec) -> Iterator[Found]:
    """The records of a JSON Lines file, line by line; a line of spaces is not a record."""
    for line in physical_lines(stream, name, newline="\n"):
        if line.data.strip(b" \t\r\n"):
            yield _found(Line(line.number, without_newline(line.data), line.size), source)


def find_json(stream: BinaryIO, name: str, source: SourceSpec) -> Iterator[Found]:
    """The elements of one JSON list, which is read whole. Raises SourceError for what is no JSON or no list."""
    text = without_bom(stream.read(), name).decode(errors="surrogateescape")
    number, counted = 1, 0
    for start, end in list(_elements(text, name)):
        number, counted = number + text.count("\n", counted, start), start
        data = text[start:end].encode(errors="surrogateescape")
        yield _found(Line(number, data, len(data)), source)


def _elements(text: str, name: str) -> Iterator[tuple[int, int]]:
    """Where each element of the list begins and ends."""
    opened = _OPEN.match(text)
    if opened is None:
        raise SourceError(f"{name}: is not a JSON list of objects. Wrap it in [ ], or declare `format: jsonl`.")
    at = opened.end()
    closed = _CLOSE.match(text, at)
    while closed is None:
        end = _element_end(text, at, name)
        yield at, end
        closed, comma = _CLOSE.match(text, end), _COMMA.match(text, end)
        if closed is None and comma is None:
            raise _not_json(json.JSONDecodeError("Expecting ',' or ']'", text, end), name)
        at = comma.end() if comma else end
    if closed.end() != len(text):
        raise _not_json(json.JSONDecodeError("Nothing may follow the list", text, closed.end()), name)


def _element_end(text: str, at: int, name: str) -> int:
    try:
        return _DECODER.raw_decode(text, at)[1]
    except RecursionError:
        return _nested_end(text, at, name)
    except json.JSONDecodeError as error:
        raise _not_json(error, name) from None


def _nested_end(text: str, at: int, name: str) -> int:
    """Where an element ends that nests too deep to be decoded: its brackets are counted instead."""
    depth = 0
    for token in _BRACKET.finditer(text, at):
        depth += (token[0] in "[{") - (token[0] in "]}")
        if depth == 0:
            return token.end()
    raise _not_json(json.JSONDecodeError("A bracket is never closed, opened", text, at), name)


def _not_json(error: json.JSONDecodeError, name: str) -> SourceError:
    return SourceError(
        f"{name}, line {error.lineno}, column {error.colno}: is not JSON ({error.msg}). Correct or export it anew."
    )


def _found(record: Line, source: SourceSpec) -> Found:
    try:
        fields = _fields(_value(decoded(record)), source)
    except Refused as refused:
        return Found(record.number, record.data, {}, refused)
    return Found(record.number, record.data, fields)


def _value(text: str) -> object:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        message = f"The record is not JSON: {error.msg}, at its character {error.pos + 1}."
        raise Refused(RejectionReason.SYNTAX, message) from None
    except RecursionError:
        raise Refused(RejectionReason.TOO_DEEP, "The record nests lists and objects too deep.") from None


def _fields(value: object, source: SourceSpec) -> dict[str, object]:
    if not isinstance(value, JsonObject):
        raise Refused(RejectionReason.NOT_AN_OBJECT, f"The record must be a JSON object, not {described(value)}.")
    fields: dict[str, object] = {}
    for place, (name, field) in enumerate(value, 1):
        if name not in source.columns:
            message = f"Field {place}, with a name of {len(name)} characters, is not declared as a column."
            raise Refused(RejectionReason.UNKNOWN_FIELD, message)
        if name in fields:
            raise Refused(RejectionReason.DUPLICATE_FIELD, f"Field {excerpt(name)} is there twice.", name)
        fields[name] = field
    for name in source.columns:
        if name not in fields:
            message = f"Field {excerpt(name)} is missing; write null where there is no value."
            raise Refused(RejectionReason.MISSING_FIELD, message, name)
    return fields
