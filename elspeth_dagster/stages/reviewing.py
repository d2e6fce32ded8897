"""What a person says of an answer, and what follows from it.

agree    the answer stands
correct  the values that are given stand in place of its own
reject   nothing stands

An answer is never changed by that. What is held for right stands beside it, with who said so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.spec import AnswerField
from elspeth_dagster.stages.answering import Refused, checked_value
from elspeth_dagster.stages.heading import ANSWER_KINDS
from elspeth_dagster.stages.querying import Question

REJECT = "reject"
WHOLE = re.compile(r"([+-]?[0-9]+)(?:\.0+)?")
DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Judgement(NamedTuple):
    """What a reviewer said of an answer: the values that it gave (none if refused), and those that were corrected.

    Where some of these were erased, nobody knows any more what the reviewer held for right.
    """

    token_id: str
    row_key: str
    question: str
    reviewer: str
    verdict: str
    given: Mapping[str, Json]
    corrected: Mapping[str, Json]
    is_erased: bool = False

    @property
    def held(self) -> dict[str, Json]:
        """The values that the reviewer holds for right; none for a rejected answer, and for what was erased."""
        return {} if self.verdict == REJECT or self.is_erased else {**self.given, **self.corrected}


def latest_by_question(judgements: Iterable[Judgement]) -> dict[tuple[str, str], Judgement]:
    """By token and question what was said last, whoever said it; they come in the order in which they were said."""
    return {(each.token_id, each.question): each for each in judgements}


def latest_by_reviewer(judgements: Iterable[Judgement]) -> list[Judgement]:
    """The last word of each reviewer on each answer; they come in the order in which they were said."""
    return list({(each.token_id, each.question, each.reviewer): each for each in judgements}.values())


def review_columns(question: Question) -> dict[str, str]:
    """The columns that `results` has for the reviews of a question, with their kinds."""
    held = {f"{question.column(name)}_reviewed": ANSWER_KINDS[field.type] for name, field in question.fields.items()}
    return {**held, f"{question.key}_reviewer": "string", f"{question.key}_verdict": "string"}


def review_cells(question: Question, said: Judgement) -> dict[str, Json]:
    """These columns, filled by what was said last."""
    held = {f"{question.column(name)}_reviewed": said.held.get(name) for name in question.fields}
    return {**held, f"{question.key}_reviewer": said.reviewer, f"{question.key}_verdict": said.verdict}


def value_of_text(name: str, text: str, field: AnswerField) -> Json:
    """The value that a person wrote for a field. Raises ValueError, which says what the field takes."""
    try:
        return checked_value(name, _typed(text, field), field)
    except Refused as refused:
        raise ValueError(refused.detail) from None


def _typed(text: str, field: AnswerField) -> Json:
    written = text.strip()
    match field.type:
        case "integer" if whole := WHOLE.fullmatch(written):
            return int(whole[1]) if len(whole[1]) <= 20 else 10**20
        case "number" if DECIMAL.fullmatch(written):
            return _shortest(float(written))
        case "boolean" if written.lower() in BOOLEANS:
            return BOOLEANS[written.lower()]
        case "enum":
            return written
        case "string":
            return text
    raise ValueError(f"{written[:40]!r} is no {field.type}: {WRITTEN[field.type]}")


WRITTEN = {
    "integer": "write digits alone, like 41",
    "number": "write it with a point, like 0.5",
    "boolean": "write true or false",
}


def _shortest(number: float) -> float | int:
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def is_the_same(text: str, value: Json, field: AnswerField) -> bool:
    """Whether a cell still says a value, however a spreadsheet program has written it since."""
    if isinstance(value, str):
        return text.split() == value.split()
    try:
        return bool(_typed(text, field) == value)
    except ValueError:
        return False
