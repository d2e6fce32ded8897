"""Questions in declared order, and requests whose bytes say exactly what was declared."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elspeth_dagster.core.spec import AnswerField
from elspeth_dagster.stages.answering import Completion, Refused, accepted_values
from elspeth_dagster.stages.querying import (
    Message,
    answer_schema,
    bounds_in_words,
    questions,
    request,
    result_fields,
)
from elspeth_dagster_tests.stages.declared import FILES, QUERY, assessment, spec

ASKED = [{"role": "user", "content": "Judge."}]
ROW = {"id": "R1", "region": "north", "cs1_text": "one", "cs2_text": "two"}


def body(changes: dict[str, Any] | None = None, *, bounded: bool = False, messages: list[Message] = ASKED) -> Any:
    declared = spec(changes or {})
    question = questions(assessment())[0]
    question = replace(question, fields=declared.answer)
    return json.loads(request(declared, question, messages, bounded_schema=bounded).body)


def test_every_case_study_is_asked_every_criterion_and_then_come_the_queries() -> None:
    asked = questions(assessment({"queries": [QUERY]}))
    assert [question.key for question in asked] == ["cs1_clarity", "cs1_depth", "cs2_clarity", "cs2_depth", "language"]
    assert [question.ordinal for question in asked] == [0, 1, 2, 3, 4]


def test_result_columns_are_named_by_case_study_criterion_and_field() -> None:
    columns = list(result_fields(questions(assessment({"queries": [QUERY]}))))
    assert columns[:4] == ["cs1_clarity_score", "cs1_clarity_why", "cs1_depth_score", "cs1_depth_why"]
    assert columns[-1] == "language_language"


def test_a_query_has_its_own_template_and_what_it_does_not_declare_from_the_assessment() -> None:
    own = {**QUERY, "system": "own.j2"}
    without = {key: value for key, value in QUERY.items() if key != "answer"}
    files = {"own.j2": b"Be a linguist."}
    language, other = questions(assessment({"queries": [own, {**without, "name": "other"}]}, files))[-2:]
    assert language.system == "Be a linguist." and list(language.fields) == ["language"]
    assert other.system == "You judge texts.\n" and list(other.fields) == ["score", "why"]
    assert language.template.encode() == FILES["query.j2"]


@pytest.mark.parametrize("blank", [None, "", " \t\n", "\u00a0"])
def test_an_input_that_is_null_or_blank_is_missing(blank: str | None) -> None:
    first, *_, last = questions(assessment())
    row = {**ROW, "cs1_text": blank}
    assert first.missing_inputs(row) == ["cs1_text"]
    assert last.missing_inputs(row) == []


def test_a_number_is_no_blank_input() -> None:
    question = questions(assessment())[0]
    assert question.missing_inputs({**ROW, "cs1_text": 0}) == []
    assert question.missing_inputs({**ROW, "cs1_text": False}) == []


def test_the_body_holds_what_was_declared_and_nothing_else() -> None:
    llm = {"model_name": "m", "temperature": 0, "max_tokens": 9, "seed": 7, "options": {"stop": ["x"], "top_p": 0.5}}
    told = body({"llm": llm, "structured_output": "none"})
    assert told == {
        "model": "m", "messages": ASKED, "temperature": 0, "max_tokens": 9, "seed": 7, "stop": ["x"], "top_p": 0.5,
    }  # fmt: skip
    assert body({"structured_output": "none"}) == {"model": "gpt-4o-mini", "messages": ASKED}


def test_the_form_of_the_reply_is_asked_for_as_declared() -> None:
    assert body({"structured_output": "json_object"})["response_format"] == {"type": "json_object"}
    told = body()["response_format"]
    assert told["type"] == "json_schema" and told["json_schema"]["strict"] is True
    assert list(told["json_schema"]["schema"]["properties"]) == ["score", "why"]


@given(st.text(), st.integers(0, 2**53))
def test_the_same_question_about_the_same_text_has_the_same_bytes(text: str, seed: int) -> None:
    declared = spec({"llm.seed": seed})
    messages = [{"role": "user", "content": text}]
    one, other = (
        request(declared, questions(assessment())[0], list(messages), bounded_schema=False).body for _ in range(2)
    )
    assert one == other
    assert json.loads(one)["messages"] == messages


numeric = st.integers(-50, 50) | st.floats(-50, 50).map(lambda value: round(value, 2))


@st.composite
def answer_fields(draw: st.DrawFn) -> AnswerField:
    kind = draw(st.sampled_from(["integer", "number", "string", "boolean", "enum"]))
    told: dict[str, Any] = {"type": kind}
    if kind in ("integer", "number"):
        bounds = sorted(draw(st.lists(st.integers(-50, 50) if kind == "integer" else numeric, min_size=2, max_size=2)))
        told |= {"minimum": draw(st.none() | st.just(bounds[0])), "maximum": draw(st.none() | st.just(bounds[1]))}
    if kind == "string":
        told["max_length"] = draw(st.none() | st.integers(1, 5))
    if kind == "enum":
        told["values"] = draw(st.lists(st.text("ab", max_size=2), min_size=1, max_size=3, unique=True))
    return AnswerField(**told)


values = st.none() | st.booleans() | st.integers(-60, 60) | st.floats(-60, 60).filter(lambda x: x % 1 != 0) | st.text(
    "ab\U0001f600", max_size=6
) | st.lists(st.integers(), max_size=1)  # fmt: skip


@given(answer_fields(), values)
def test_the_bounded_schema_and_the_reading_of_replies_accept_the_same(field: AnswerField, value: object) -> None:
    fields = {"f": field}
    schema = answer_schema(fields, bounded=True)
    jsonschema.Draft202012Validator.check_schema(schema)
    by_schema = jsonschema.Draft202012Validator(schema).is_valid({"f": value})
    try:
        accepted_values(Completion(content=json.dumps({"f": value}), is_one=True), fields)
        by_reading = True
    except Refused:
        by_reading = False
    assert by_schema == by_reading


@given(answer_fields())
def test_the_unbounded_schema_only_leaves_bounds_to_words(field: AnswerField) -> None:
    bounded, unbounded = (answer_schema({"f": field}, bounded=bounded)["properties"]["f"] for bounded in (True, False))
    assert {**bounded, **unbounded} == bounded
    assert set(bounded) - set(unbounded) <= {"minimum", "maximum", "maxLength"}
    assert unbounded.get("description", "") == bounds_in_words(field)


def test_a_fields_description_is_told_before_its_bounds() -> None:
    field = AnswerField(type="integer", minimum=0, description="How well.")
    assert answer_schema({"f": field}, bounded=False)["properties"]["f"]["description"] == "How well. At least 0."


@given(st.integers(-(2**53), 2**53) | st.floats(-1e6, 1e6))
def test_bounds_are_told_exactly(bound: float) -> None:
    told = bounds_in_words(AnswerField(type="number", minimum=bound))
    [number] = re.fullmatch(r"At least (.+)\.", told).groups()  # type: ignore[union-attr]
    assert float(number) == bound
