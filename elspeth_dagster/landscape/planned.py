"""What a recorded configuration asks: its questions in order, each with the fields that its answers must have.

The configuration may be of an older form than today's spec, so it is read as it is, and what it doesn't say is left
out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from elspeth_dagster.core.canonical import Json

NUMERIC = ("integer", "number")
BY_VALUE = ("enum", "boolean")


@dataclass(frozen=True)
class PlannedField:
    """A field of an answer: its type, and its bounds or values where they are declared."""

    name: str
    type: str
    minimum: float | None = None
    maximum: float | None = None
    values: tuple[str, ...] = ()

    @property
    def is_numeric(self) -> bool:
        """Whether it holds numbers."""
        return self.type in NUMERIC

    @property
    def is_counted(self) -> bool:
        """Whether how often it has which value says something: all but free text."""
        return self.is_numeric or self.type in BY_VALUE


@dataclass(frozen=True)
class PlannedQuestion:
    """A question by its key, with its answers' fields in the order in which they were declared.

    `group` is its case study, `label` its criterion; a named query has no group, and its name as label.
    """

    key: str
    group: str | None
    label: str
    fields: tuple[PlannedField, ...]

    def main_field(self, wished: str | None = None) -> PlannedField | None:
        """The field that stands for the answer: the one wished for, else the first number, else the first at all."""
        for fits in (lambda field: field.name == wished, lambda field: field.is_numeric, lambda field: True):
            if found := [field for field in self.fields if fits(field)]:
                return found[0]
        return None


def questions(config: Json) -> tuple[PlannedQuestion, ...]:
    """The questions of a node's recorded configuration."""
    return tuple(_asked(config.get("spec", {})))


def _asked(spec: Mapping[str, Any]) -> Iterator[PlannedQuestion]:
    answer = _fields(spec.get("answer") or {})
    for case, criterion in product(spec.get("case_studies", []), spec.get("criteria", [])):
        yield PlannedQuestion(f"{case['name']}_{criterion['name']}", case["name"], criterion["name"], answer)
    for query in spec.get("queries", []):
        own = query.get("answer")
        yield PlannedQuestion(query["name"], None, query["name"], _fields(own) if own else answer)


def _fields(answer: Mapping[str, Any]) -> tuple[PlannedField, ...]:
    return tuple(_field(name, declared) for name, declared in answer.items())


def _field(name: str, declared: Mapping[str, Any]) -> PlannedField:
    return PlannedField(
        name=name,
        type=declared.get("type", "string"),
        minimum=declared.get("minimum"),
        maximum=declared.get("maximum"),
        values=tuple(declared.get("values") or ()),
    )
