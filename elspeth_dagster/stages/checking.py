"""What can be known not to work before a run: every mistake of a spec, and of the files it names, at once.

Pydantic judges each part of a spec by itself. Here the parts are held against each other: settings without effect
(`checking_questions`), sources that partitions and sensors can't work with (`checking_sources`), columns that collide
or that nothing declares (`checking_columns`), files that can't be used (`checking_files`), templates that take what no
question gives them (`checking_templates`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.spec import AssessmentSpec, KeyPath, Problem
from elspeth_dagster.stages.checking_columns import column_problems
from elspeth_dagster.stages.checking_files import FileContent, Unusable, lookup_data, text_of
from elspeth_dagster.stages.checking_questions import all_asked, question_problems
from elspeth_dagster.stages.checking_sources import source_problems
from elspeth_dagster.stages.checking_templates import UNKNOWN, named_templates, template_problems, when_problems

__all__ = ["Checked", "check", "named_files", "problems"]


class Checked(NamedTuple):
    """An assessment with its files' text, and its mistakes; it can be worked by only if there are none."""

    assessment: Assessment
    problems: list[Problem]


def named_files(spec: AssessmentSpec) -> set[str]:
    """The template and lookup files that a spec names, as it names them."""
    return {file for _, file in named_templates(spec)} | ({spec.prompt.lookup} if spec.prompt.lookup else set())


def problems(spec: AssessmentSpec, files: Mapping[str, FileContent]) -> list[Problem]:
    """Every mistake of a spec, none for a good one. `files` holds what reading each of `named_files` gave."""
    return check(spec, files).problems


def check(spec: AssessmentSpec, files: Mapping[str, FileContent]) -> Checked:
    """A spec with the text of its files, and every mistake of both."""
    texts, lookup, unusable = _read(spec, files)
    stand_ins = {file: "" for _, file in named_templates(spec)}
    asked = all_asked(Assessment(spec, {"": "", **stand_ins, **texts}))
    found = [
        *question_problems(spec, asked),
        *source_problems(spec),
        *column_problems(spec, asked),
        *when_problems(spec),
        *(Problem(("llm", "options", *path), message) for path, message in _not_json(spec.llm.options, ())),
        *unusable,
        *template_problems(spec, asked, texts, lookup),
    ]
    return Checked(Assessment(spec, texts, lookup), list(dict.fromkeys(found)))


def _read(spec: AssessmentSpec, files: Mapping[str, FileContent]) -> tuple[dict[str, str], Json, list[Problem]]:
    texts, unusable, lookup = {}, [], None
    for key_path, file in named_templates(spec):
        try:
            texts[file] = text_of(file, files[file])
        except Unusable as error:
            unusable += [Problem(key_path, message) for message in error.messages]
    if spec.prompt.lookup:
        try:
            lookup = lookup_data(spec.prompt.lookup, text_of(spec.prompt.lookup, files[spec.prompt.lookup]))
        except Unusable as error:
            lookup = UNKNOWN
            unusable += [Problem(("prompt", "lookup"), message) for message in error.messages]
    return texts, lookup, unusable


def _not_json(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Where in `llm.options` stands what can't be sent."""
    match value:
        case dict():
            for key, part in value.items():
                if not isinstance(key, str):
                    yield (*path, str(key)), f"The key `{key}` is not text. Put it in quotes."
                yield from _not_json(part, (*path, str(key)))
        case list():
            for i, part in enumerate(value):
                yield from _not_json(part, (*path, i))
        case float() if not math.isfinite(value):
            yield path, f"`{value}` is no number in JSON. Take it out."
        case str() | int() | float() | None:
            pass
        case _:
            yield path, f"A {type(value).__name__} is nothing that JSON can hold. Write it as text."
