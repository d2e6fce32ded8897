"""Templates into messages: row text is only ever a value, and a template can't do more than write text."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jinja2 import TemplateSyntaxError

from elspeth_dagster.stages.prompting import RENDER_ERRORS, condition, messages, repair_messages
from elspeth_dagster.stages.querying import Question, questions
from elspeth_dagster_tests.stages.declared import NOTHING, assessment

PLAIN = assessment({"prompt.lookup": NOTHING}, {"ask.j2": b"<{{ row.text }}>", "system.j2": b"Be brief."})
ROW = {"id": "R1", "region": "north", "cs1_text": "one", "cs2_text": "two"}


def asking(template: str, system: str | None = None) -> Question:
    return replace(questions(PLAIN)[0], template=template, system=system)


def test_the_messages_of_a_question_are_exactly_what_its_templates_say() -> None:
    good = assessment()
    first, *_, last = questions(good)
    assert messages(first, ROW, good.lookup) == [
        {"role": "system", "content": "You judge texts."},
        {"role": "user", "content": "Judge the clarity of cs1: one\n0: dark\n"},
    ]
    assert messages(last, ROW, good.lookup)[1]["content"] == "Judge the depth of cs2: two\n- why\n- how\n0: shallow\n"


def test_without_a_system_template_there_is_no_system_message() -> None:
    assert messages(asking("Hello {{ row.text }}"), ROW, None) == [{"role": "user", "content": "Hello one"}]


@given(st.text())
@example("{{ 7 * 7 }}{% for x in row %}{% endfor %}{# gone #}")
@example("a\r\nb\n\n")
@example("&<>\"'")
def test_row_text_stands_in_the_message_as_it_is(text: str) -> None:
    [_, message] = messages(questions(PLAIN)[0], {**ROW, "cs1_text": text}, None)
    assert message["content"] == f"<{text}>"


@given(st.dictionaries(st.sampled_from(sorted(ROW)), st.text(), min_size=4))
def test_a_question_sees_its_inputs_and_no_other_column(values: dict[str, str]) -> None:
    [message] = messages(asking("{{ row.keys() | list }}{{ row.values() | list }}"), values, None)
    assert message["content"] == f"{['text']}{[values['cs1_text']]}"


@pytest.mark.parametrize(
    "template",
    [
        "{{ row.txt }}",
        "{{ student }}",
        "{{ lookup.CLEAR.marks }}",
        "{{ row.text + 1 }}",
        "{{ 1 / 0 }}",
        "{{ [1][7] }}",
        "{{ row.text.__class__ }}",
        "{{ row.text.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ row.update({'text': 'other'}) }}",
        "{{ row.pop('text') }}",
        "{{ row.clear() }}",
        "{{ [].append(1) }}",
        "{{ 'a' * 1000000000 }}",
        "{{ 1000000000 * 'a' }}",
        "{{ 9 ** 99 }}",
        "{{ [0] * 9 }}",
        "{% for n in range(9) %}{% endfor %}",
        "{{ dict() }}",
        "{{ cycler }}",
        "{% include 'system.j2' %}",
    ],
)
def test_what_a_template_may_not_do_refuses_the_question(template: str) -> None:
    row = dict(ROW)
    with pytest.raises(RENDER_ERRORS):
        messages(asking(template), row, {"CLEAR": {}})
    assert row == ROW


@pytest.mark.parametrize(
    ("template", "expected"), [("{{ '-' * 5 }}", "-----"), ("{{ 3 * 4 }}", "12"), ("{{ 5 * 'ab' }}", "ab" * 5)]
)
def test_small_products_are_fine(template: str, expected: str) -> None:
    assert messages(asking(template), ROW, None)[0]["content"] == expected


@given(st.text(), st.text())
def test_a_repair_keeps_the_conversation_and_tells_the_reason(reply: str, reason: str) -> None:
    asked = [{"role": "user", "content": "Judge."}]
    again = repair_messages(asked, reply, reason)
    assert again[0] == asked[0] and len(asked) == 1
    assert again[1] == {"role": "assistant", "content": reply}
    assert again[2]["role"] == "user" and reason in again[2]["content"]


@given(st.text(), st.integers(-5, 5))
def test_a_condition_is_python_like_over_the_row(region: str, number: int) -> None:
    row = {"region": region, "number": number}
    assert condition("row.region == 'n' or row.number > 2")(row=row) == (region == "n" or number > 2)


def test_a_condition_that_is_none_raises() -> None:
    with pytest.raises(TemplateSyntaxError):
        condition("row.region ==")
