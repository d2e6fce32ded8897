"""The columns of the four assets, each with what it means and the source columns that it stems from.

A result cell stems from the columns that its question is asked about, a cell of `answers` from those of all questions
that fill it. What a call took stems from no column.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from elspeth_dagster.core.spec import AnswerField, AssessmentSpec
from elspeth_dagster.stages.heading import ANSWER_KINDS, REJECTIONS, SOURCE_KINDS, TAKEN
from elspeth_dagster.stages.querying import Question, bounds_in_words
from elspeth_dagster.stages.reviewing import review_columns


class Column(NamedTuple):
    """A column: its name, its kind, a sentence, and the source columns that it stems from, in order."""

    name: str
    kind: str
    description: str
    stems_from: tuple[str, ...] = ()


def columns(spec: AssessmentSpec, asked: tuple[Question, ...]) -> dict[str, list[Column]]:
    """The columns of each of the four assets."""
    source = [_source_column(spec, name) for name in spec.source.columns]
    return {
        "results": [*source, *(column for question in asked for column in _cells(question)), *_reviewed(spec, asked)],
        "answers": list(_of_answers(spec, asked)),
        "failures": [*source, *map(_reason, asked)],
        "rejections": [Column(name, kind, told) for name, (kind, told) in REJECTIONS.items()],
    }


def _source_column(spec: AssessmentSpec, name: str) -> Column:
    is_key = " It names the row in every run." if name in spec.source.key else ""
    return Column(name, SOURCE_KINDS[spec.source.columns[name]], f"As the source has it.{is_key}", (name,))


def _cells(question: Question) -> Iterator[Column]:
    for name, field in question.fields.items():
        told = " ".join(part for part in (_asked(question), _field(field)) if part)
        yield Column(question.column(name), ANSWER_KINDS[field.type], told, _inputs(question))


def _reviewed(spec: AssessmentSpec, asked: tuple[Question, ...]) -> Iterator[Column]:
    for question in asked if spec.review else ():
        told = f"What the last reviewer of {question.key} holds for right; null where nobody reviewed it."
        for name, kind in review_columns(question).items():
            yield Column(name, kind, told, _inputs(question))


def _of_answers(spec: AssessmentSpec, asked: tuple[Question, ...]) -> Iterator[Column]:
    yield from (_source_column(spec, name) for name in spec.source.key)
    yield Column("row_index", "int64", "The row's place in the source, from 0.")
    yield Column("question", "string", "The question's key.")
    for name in dict.fromkeys(name for question in asked for name in question.fields):
        having = [question for question in asked if name in question.fields]
        stems_from = dict.fromkeys(column for question in having for column in _inputs(question))
        field = having[0].fields[name]
        yield Column(name, ANSWER_KINDS[field.type], _field(field), tuple(stems_from))
    yield from (Column(name, kind, told) for name, (kind, told) in TAKEN.items())


def _reason(question: Question) -> Column:
    told = f"Why {question.key} has no answer; null where it has one."
    return Column(f"{question.key}_reason", "string", told, _inputs(question))


def _inputs(question: Question) -> tuple[str, ...]:
    return tuple(dict.fromkeys(question.inputs.values()))


def _asked(question: Question) -> str:
    """What a question of the product is about, as its declaration says."""
    about = [question.context.get(part) for part in ("case_study", "criterion")]
    told = [
        f"{part['name']}: {part['description']}" for part in about if isinstance(part, dict) and part["description"]
    ]
    return "; ".join(told) + "." * bool(told and not told[-1].endswith("."))


def _field(field: AnswerField) -> str:
    values = f"One of {', '.join(field.values)}." if field.values else ""
    return " ".join(part for part in (field.description, bounds_in_words(field), values) if part)
