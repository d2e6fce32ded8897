"""Columns: those that a spec names but its source doesn't declare, and those of the four tables that collide."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches

from elspeth_dagster.core.spec import AssessmentSpec, KeyPath, Problem
from elspeth_dagster.stages.checking_questions import Asked
from elspeth_dagster.stages.heading import ANSWER_KINDS, TAKEN
from elspeth_dagster.stages.reviewing import review_columns

OF_THE_ANSWERS_TABLE = frozenset({"row_index", "question", *TAKEN})


def did_you_mean(name: str, known: Collection[str]) -> str:
    """A question to end a message with, or nothing."""
    close = get_close_matches(name, list(known), n=1)
    return f"Did you mean `{close[0]}`?" if close else ""


def column_problems(spec: AssessmentSpec, asked: Sequence[Asked]) -> Iterator[Problem]:
    """Every problem with columns."""
    yield from _undeclared(spec)
    yield from _result_collisions(spec, asked)
    yield from _review_collisions(spec, asked)
    yield from _failure_collisions(spec, asked)
    yield from _answer_collisions(spec, asked)
    yield from _mixed_types(asked)


def _undeclared(spec: AssessmentSpec) -> Iterator[Problem]:
    declared = spec.source.columns
    for key_path, column in _named_columns(spec):
        if column not in declared:
            hint = did_you_mean(column, declared) or "Declare it there."
            yield Problem(key_path, f"The column `{column}` is not among `source.columns`. {hint}")
    groups = spec.aggregate.group_by
    for i, column in enumerate(groups):
        if column in groups[:i]:
            yield Problem(("aggregate", "group_by", i), f"The column `{column}` is named twice. Take one out.")


def _named_columns(spec: AssessmentSpec) -> Iterator[tuple[KeyPath, str]]:
    inputs: list[tuple[KeyPath, dict[str, str]]] = [
        *((("case_studies", i, "inputs"), one.inputs) for i, one in enumerate(spec.case_studies)),
        *((("queries", i, "inputs"), one.inputs) for i, one in enumerate(spec.queries)),
    ]
    for here, named in inputs:
        yield from (((*here, name), column) for name, column in named.items())
    yield from ((("aggregate", "group_by", i), column) for i, column in enumerate(spec.aggregate.group_by))


def _result_collisions(spec: AssessmentSpec, asked: Sequence[Asked]) -> Iterator[Problem]:
    taken = dict.fromkeys(spec.source.columns, "a source column")
    for one in _by_key(asked).values():
        for field in one.question.fields:
            column = one.question.column(field)
            if column in taken:
                yield Problem(
                    (*one.fields_at, field),
                    f"The result column `{column}` of question `{one.question.key}` is {taken[column]} already. "
                    "Rename one of the two.",
                )
            taken.setdefault(column, f"that of question `{one.question.key}`, field `{field}`,")


def _review_collisions(spec: AssessmentSpec, asked: Sequence[Asked]) -> Iterator[Problem]:
    """Columns of the source or of answers, each told once, that the reviews' columns would be a second time."""
    taken: dict[str, KeyPath] = {name: ("source", "columns", name) for name in spec.source.columns}
    questions = [one for one in _by_key(asked).values() if spec.review]
    taken |= {one.question.column(name): (*one.fields_at, name) for one in questions for name in one.question.fields}
    collide = {taken[name]: name for one in questions for name in review_columns(one.question) if name in taken}
    for key_path, column in collide.items():
        yield Problem(
            key_path, f"With `review`, `results` says in a column `{column}` what reviewers say. Rename it here."
        )


def _failure_collisions(spec: AssessmentSpec, asked: Sequence[Asked]) -> Iterator[Problem]:
    for key in _by_key(asked):
        column = f"{key}_reason"
        if column in spec.source.columns:
            yield Problem(
                ("source", "columns", column),
                f"`failures` says in a column `{column}` why question `{key}` has no answer. Rename the source column.",
            )


def _answer_collisions(spec: AssessmentSpec, asked: Sequence[Asked]) -> Iterator[Problem]:
    for i, name in enumerate(spec.source.key):
        if name in OF_THE_ANSWERS_TABLE:
            yield Problem(
                ("source", "key", i), f"`answers` has a column `{name}` of its own beside the key. Rename the column."
            )
    for key_path, name in _fields(asked):
        if name in OF_THE_ANSWERS_TABLE:
            yield Problem(key_path, f"`answers` has a column `{name}` of its own. Rename the field.")
        elif name in spec.source.key:
            yield Problem(key_path, f"`answers` has the key column `{name}` beside the field. Rename the field.")


def _mixed_types(asked: Sequence[Asked]) -> Iterator[Problem]:
    first: dict[str, tuple[KeyPath, str]] = {}
    for key_path, name in _fields(asked):
        kind = next(one.question.fields[name].type for one in asked if (*one.fields_at, name) == key_path)
        other, expected = first.setdefault(name, (key_path, kind))
        if ANSWER_KINDS[kind] != ANSWER_KINDS[expected]:
            yield Problem(
                (*key_path, "type"),
                f"`answers` has one column for every field `{name}`: it can't be {kind} here and {expected} in "
                f"{'.'.join(map(str, other))}. Rename one.",
            )


def _by_key(asked: Sequence[Asked]) -> Mapping[str, Asked]:
    """The questions by key; of two with the same key, which is another problem, the later."""
    return {one.question.key: one for one in asked}


def _fields(asked: Sequence[Asked]) -> list[tuple[KeyPath, str]]:
    """Each declared answer field once, however many questions have it."""
    return list(dict.fromkeys(((*one.fields_at, name), name) for one in asked for name in one.question.fields))
