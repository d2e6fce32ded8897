"""A small assessment as its user declares it, for tests that change one thing about it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.spec import AssessmentSpec
from elspeth_dagster.stages.checking import check, named_files
from elspeth_dagster.stages.checking_files import FileContent

ATTRIBUTES: dict[str, Any] = {
    "name": "trial",
    "source": {
        "path": "data/rows.csv",
        "key": ["id"],
        "columns": {"id": "str", "region": "str", "cs1_text": "str", "cs2_text": "str"},
    },
    "llm": {"model_name": "gpt-4o-mini"},
    "prompt": {"system": "system.j2", "template": "ask.j2", "lookup": "lookup.yaml"},
    "case_studies": [
        {"name": "cs1", "description": "the first text", "inputs": {"text": "cs1_text"}},
        {"name": "cs2", "description": "the second text", "inputs": {"text": "cs2_text"}},
    ],
    "criteria": [
        {"name": "clarity", "code": "CLEAR"},
        {"name": "depth", "code": "DEEP", "subcriteria": ["why", "how"]},
    ],
    "answer": {"score": {"type": "integer", "minimum": 0, "maximum": 100}, "why": {"type": "string", "max_length": 50}},
}
FILES: dict[str, FileContent] = {
    "system.j2": b"You judge texts.\n",
    "ask.j2": b"Judge the {{ criterion.name }} of {{ case_study.name }}: {{ row.text }}\n"
    b"{% for point in criterion.subcriteria %}\n- {{ point }}\n{% endfor %}\n"
    b"{% for mark in lookup[criterion.code].marks %}\n{{ mark.score }}: {{ mark.means }}\n{% endfor %}\n",
    "lookup.yaml": b"CLEAR:\n  marks: [{score: 0, means: dark}]\nDEEP:\n  marks: [{score: 0, means: shallow}]\n",
    "query.j2": b"Which language is this? {{ row.text }}",
}
QUERY: dict[str, Any] = {
    "name": "language",
    "template": "query.j2",
    "inputs": {"text": "cs1_text"},
    "answer": {"language": {"type": "enum", "values": ["de", "en"]}},
}
NOTHING = object()


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The attributes with some values put elsewhere: `{"criteria.0.code": "X", "answer.why": NOTHING}`."""
    attributes = deepcopy(ATTRIBUTES)
    for dotted, value in changes.items():
        *way, last = [int(key) if key.isdigit() else key for key in dotted.split(".")]
        place: Any = attributes
        for key in way:
            place = place.setdefault(key, {}) if isinstance(place, dict) else place[key]
        if value is NOTHING:
            del place[last]
        else:
            place[last] = deepcopy(value)
    return attributes


def spec(changes: dict[str, Any] | None = None) -> AssessmentSpec:
    """The spec of the changed attributes."""
    return AssessmentSpec.model_validate(changed(changes or {}))


def assessment(changes: dict[str, Any] | None = None, files: Mapping[str, FileContent] | None = None) -> Assessment:
    """The changed assessment with its files' text; it has no mistakes."""
    declared = spec(changes)
    checked = check(declared, {name: {**FILES, **(files or {})}[name] for name in named_files(declared)})
    assert not checked.problems, checked.problems
    return checked.assessment
