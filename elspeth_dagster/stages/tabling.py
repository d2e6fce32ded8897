"""What the four assets look like: their columns, and records into Arrow batches.

results     the source's columns, then `{question}_{field}`, then what reviewers say of these where `review` is set;
            a row per row that has a result
answers     a row per row and question, with what was asked of whom and what it took
failures    the source's columns, then `{question}_reason`; a row per row without all its answers
rejections  a row per record that never became a row
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any

import pyarrow as pa

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.spec import AnswerField, AssessmentSpec
from elspeth_dagster.stages import heading
from elspeth_dagster.stages.heading import ANSWER_KINDS, SOURCE_KINDS
from elspeth_dagster.stages.querying import Question, result_fields
from elspeth_dagster.stages.reviewing import review_columns


def _types(kinds: Mapping[str, str]) -> dict[str, pa.DataType]:
    return {name: ARROW[kind] for name, kind in kinds.items()}


ARROW = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "date32": pa.date32(),
    "timestamp[us, tz=UTC]": pa.timestamp("us", tz="UTC"),
}
SOURCE_TYPES = _types(SOURCE_KINDS)
ANSWER_TYPES = _types(ANSWER_KINDS)
TAKEN = [(name, ARROW[kind]) for name, (kind, _) in heading.TAKEN.items()]
REJECTIONS = pa.schema([(name, ARROW[kind]) for name, (kind, _) in heading.REJECTIONS.items()])


def results_schema(spec: AssessmentSpec, asked: tuple[Question, ...]) -> pa.Schema:
    """The columns of `results`."""
    cells = [(name, ANSWER_TYPES[field.type]) for name, field in result_fields(asked).items()]
    reviewed = [_types(review_columns(question)).items() for question in asked if spec.review]
    return pa.schema([*_source_columns(spec), *cells, *(column for columns in reviewed for column in columns)])


def answers_schema(spec: AssessmentSpec, asked: tuple[Question, ...]) -> pa.Schema:
    """The columns of `answers`."""
    key = [(name, SOURCE_TYPES[spec.source.columns[name]]) for name in spec.source.key]
    fields = [(name, ANSWER_TYPES[field.type]) for name, field in answer_fields(asked).items()]
    return pa.schema([*key, ("row_index", pa.int64()), ("question", pa.string()), *fields, *TAKEN])


def failures_schema(spec: AssessmentSpec, asked: tuple[Question, ...]) -> pa.Schema:
    """The columns of `failures`."""
    reasons = [(f"{question.key}_reason", pa.string()) for question in asked]
    return pa.schema([*_source_columns(spec), *reasons])


def answer_fields(asked: tuple[Question, ...]) -> dict[str, AnswerField]:
    """Every answer field of every question by name; questions that share a name share its type."""
    return {name: field for question in asked for name, field in question.fields.items()}


def _source_columns(spec: AssessmentSpec) -> list[tuple[str, pa.DataType]]:
    return [(name, SOURCE_TYPES[kind]) for name, kind in spec.source.columns.items()]


def record_batch(schema: pa.Schema, records: Iterable[Mapping[str, Json]]) -> pa.RecordBatch:
    """Records as an Arrow batch; a field that a record doesn't have is null."""
    rows = list(records)
    columns = [pa.array([_cell(row.get(field.name), field.type) for row in rows], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _cell(value: Json, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_date(kind):
        return date.fromisoformat(value)
    if pa.types.is_timestamp(kind):
        return datetime.fromisoformat(value)
    if pa.types.is_floating(kind):
        return float(value)
    return value
