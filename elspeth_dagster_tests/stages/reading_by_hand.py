"""What the tests of reading share: a source in one line, and what was read as plain tuples."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from elspeth_dagster.core.source_spec import SourceSpec
from elspeth_dagster.stages.reading import Record, Rejection, read_records

ALL_TYPES = {"id": "str", "n": "int", "x": "float", "b": "bool", "d": "date", "t": "datetime"}


def source(format_: str, columns: Mapping[str, str], key: list[str] | None = None) -> SourceSpec:
    return SourceSpec.model_validate(
        {
            "path": f"data.{format_}",
            "format": format_,
            "key": key or [next(iter(columns))],
            "columns": columns,
        }
    )


def read(data: bytes, spec: SourceSpec) -> list[Record | Rejection]:
    return list(read_records(BytesIO(data), f"data.{spec.format}", spec))


def told(result: Record | Rejection) -> tuple[Any, ...]:
    """A record as (line, values…), a rejection as (line, reason, column)."""
    if isinstance(result, Record):
        return (result.line, *result.values.values())
    return (result.line, result.reason.value, result.column)
