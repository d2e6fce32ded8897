"""A source's bytes to records and rejections: every record is one or the other, in the source's order.

Each format's reader (`reading_csv`, `reading_json`, `reading_tables`) finds the records; here their values are
coerced, their keys made and told apart, and what can't be a row becomes a rejection with the reason and the bytes
as they came. Nothing is read ahead but what a record needs, so a source may be larger than memory (but for one
JSON list, which is read whole, and the keys, which are kept to know a repeated one).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from elspeth_dagster.core.canonical import Json, canonical_json
from elspeth_dagster.core.errors import SourceError
from elspeth_dagster.core.source_spec import ColumnType, SourceSpec
from elspeth_dagster.stages.coercing import coerce_text, coerce_value
from elspeth_dagster.stages.finding import Found, Refused, RejectionReason, excerpt
from elspeth_dagster.stages.reading_csv import find_csv
from elspeth_dagster.stages.reading_json import find_json, find_jsonl

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Record", "Rejection", "RejectionReason", "find_records", "judged", "read_frame", "read_records"]

LONGEST_KEY = 1000  # bytes of UTF-8; PostgreSQL can't index one of more than 2.7 kB
Coerce = Callable[[Any, str, ColumnType], Json]


@dataclass(frozen=True, slots=True)
class Record:
    """A source record that can be a row.

    `index` counts all records of the source from 0, rejected ones too. `line` is its first physical line, 1-based
    (a CSV header is line 1), None for Parquet and DataFrames. `key` is the declared key's value as text, of several
    columns the canonical JSON list. `values` has every declared column in declared order: str, int, float, bool or
    None; date and datetime as ISO 8601 text, datetime in UTC. `raw` is the record as it came, without its final
    line end; None for Parquet and DataFrames. `partition` is the one that it belongs to.
    """

    index: int
    line: int | None
    key: str
    values: dict[str, Json]
    raw: bytes | None
    partition: str | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """A source record that can't be a row, and why.

    `column` is a declared column, or None where no single one is to blame. `message` is a sentence for people; it
    quotes nothing of it but its key. `raw` is the record as it came; for Parquet and DataFrames its JSON.
    """

    index: int
    line: int | None
    column: str | None
    reason: RejectionReason
    message: str
    raw: bytes
    partition: str | None = None


class Place(NamedTuple):
    """Where a key was found: in which partition, and in words in which record or on which line."""

    partition: str | None
    told: str


def read_records(stream: BinaryIO, name: str, source: SourceSpec) -> Iterator[Record | Rejection]:
    """Reads a file of the source's format to its end; `name` is how errors name it.

    Raises SourceError, while iterating, for what no single record can be blamed for.
    """
    return judged(find_records(stream, name, source), source)


def find_records(stream: BinaryIO, name: str, source: SourceSpec) -> Iterator[Found]:
    """The records of a file of the source's format, not judged yet. Raises as `read_records` does."""
    match source.effective_format:
        case "csv":
            return find_csv(stream, name, source)
        case "jsonl":
            return find_jsonl(stream, name, source)
        case "json":
            return find_json(stream, name, source)
        case "parquet":
            from elspeth_dagster.stages.reading_tables import find_parquet  # slow to import

            return find_parquet(stream, name, source)
    raise SourceError(f"{name}: the source has no path, so there is no format to read it by.")


def judged(found: Iterable[Found], source: SourceSpec) -> Iterator[Record | Rejection]:
    """Records of files of the source's format, of one or of several one after another, as what they come to.

    They are numbered through, and a key names one row of them all. Raises SourceError, while iterating, for a key that
    occurs in two partitions.
    """
    return _judged(found, source, coerce_text if source.effective_format == "csv" else coerce_value)


def read_frame(
    frame: pd.DataFrame, name: str, source: SourceSpec, partition: str | None = None
) -> Iterator[Record | Rejection]:
    """Reads a DataFrame, whose columns may be wider than declared, as the records of a partition.

    NaN, NaT, None and NA all mean null, since pandas can't tell them apart; so does a NaN that was computed.
    Whole floats are ints where an int is declared, midnights without a time zone dates where a date is.
    Raises SourceError, while iterating, for columns other than declared.
    """
    from elspeth_dagster.stages.reading_tables import find_frame

    found = (replace(each, partition=partition) for each in find_frame(frame, name, source))
    return _judged(found, source, coerce_value)


def _judged(found: Iterable[Found], source: SourceSpec, coerce: Coerce) -> Iterator[Record | Rejection]:
    places: dict[str, Place] = {}
    for index, each in enumerate(found):
        try:
            result: Record | Rejection = _record(index, each, source, coerce, places)
        except Refused as refused:
            raw = each.raw if each.raw is not None else _rendered(each.fields)
            message = f"{each.file}: {refused.message}" if each.file else refused.message
            result = Rejection(index, each.line, refused.column, refused.reason, message, raw, each.partition)
        yield result


def _record(index: int, found: Found, source: SourceSpec, coerce: Coerce, places: dict[str, Place]) -> Record:
    if found.refused:
        raise found.refused
    values = {column: coerce(found.fields[column], column, kind) for column, kind in source.columns.items()}
    key = _key(values, source.key)
    here = _place(index, found)
    if (before := places.setdefault(key, here)) is not here:
        _check_same_partition(key, before, here)
        message = f"Key {excerpt(key)} was there already, {before.told}; a key names one row."
        raise Refused(RejectionReason.REPEATED_KEY, message, source.key[0] if len(source.key) == 1 else None)
    return Record(index, found.line, key, values, found.raw, found.partition)


def _place(index: int, found: Found) -> Place:
    told = f"in record {index}" if found.line is None else f"on line {found.line}"
    return Place(found.partition, f"{told} of {found.file}" if found.file else told)


def _check_same_partition(key: str, before: Place, here: Place) -> None:
    if before.partition != here.partition:
        raise SourceError(
            f"Key {excerpt(key)} is in partition {before.partition!r}, {before.told}, and in partition "
            f"{here.partition!r}, {here.told}: in one run a key names one row. Backfill with one run per partition "
            "(`backfill: per_partition`), or launch these partitions apart."
        )


def _key(values: Mapping[str, Json], columns: list[str]) -> str:
    for column in columns:
        if values[column] is None or not str(values[column]).strip():
            message = f"Key column {excerpt(column)} is blank; every record needs its key."
            raise Refused(RejectionReason.BLANK_KEY, message, column)
    key = key_text([values[column] for column in columns])
    if len(key.encode()) > LONGEST_KEY:
        message = f"The key is longer than {LONGEST_KEY} bytes; a key names a row, it doesn't hold its text."
        raise Refused(RejectionReason.TOO_LARGE, message, columns[0] if len(columns) == 1 else None)
    return key


def key_text(values: list[Json]) -> str:
    """The key of a row, made of the values of its key columns: the only one as it is, several as JSON."""
    if len(values) > 1:
        return canonical_json(values).decode()
    [value] = values
    return value if isinstance(value, str) else canonical_json(value).decode()


def _rendered(fields: Mapping[str, object]) -> bytes:
    """A record that has no bytes of its own, as JSON in ASCII; what JSON can't say is named by its type."""
    return json.dumps({column: _renderable(value) for column, value in fields.items()}).encode()


def _renderable(value: object) -> object:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return str(value) if hasattr(value, "isoformat") else f"<{type(value).__name__}>"
    return value
