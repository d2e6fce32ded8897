"""What is asked can be counted before it is asked; what it takes is learnt where it can be, and unknown otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from elspeth_dagster.stages.estimating import (
    Experience,
    Load,
    cheapest_request,
    load_of,
    scaled,
    seconds_at_limits,
    seconds_of,
    tokens_of,
)
from elspeth_dagster.stages.prompting import messages
from elspeth_dagster.stages.querying import most_tokens, questions, request
from elspeth_dagster_tests.stages.declared import assessment

ROW: dict[str, Any] = {"id": "R1", "region": "n", "cs1_text": "one", "cs2_text": "two"}
LOAD = Load(rows=10, calls=40, request_bytes=4000)


def test_the_load_is_every_request_about_every_row() -> None:
    asked = assessment()
    sizes = [
        len(request(asked.spec, question, messages(question, ROW, asked.lookup), bounded_schema=False).body)
        for question in questions(asked)
    ]
    assert load_of(asked, [ROW, ROW], bounded_schema=False) == Load(2, 8, 2 * sum(sizes))


@pytest.mark.parametrize(("policy", "calls"), [("all_or_nothing", 0), ("keep_partial", 2)])
def test_what_would_not_be_asked_is_left_out(policy: str, calls: int) -> None:
    asked = assessment({"errors": {"row": policy}})
    assert load_of(asked, [{**ROW, "cs1_text": " "}], bounded_schema=False).calls == calls


def test_what_cant_be_rendered_is_left_out() -> None:
    asked = assessment({}, {"ask.j2": b"{{ criterion.code }}{{ lookup }}{{ row.text[5] }}{{ case_study.name }}"})
    assert load_of(asked, [ROW], bounded_schema=False).calls == 0


def test_a_sample_stands_for_all() -> None:
    assert scaled(LOAD, 1000) == Load(1000, 4000, 400_000)
    assert scaled(Load(0, 0, 0), 0) == Load(0, 0, 0)


def test_without_experience_tokens_are_assumed_and_time_is_unknown() -> None:
    tokens = tokens_of(LOAD, 300, Experience())
    assert (tokens.prompt, tokens.completion) == (1000, 40 * 150)
    assert not tokens.is_prompt_learnt and not tokens.is_completion_learnt
    assert tokens_of(LOAD, None, Experience()).completion is None
    assert seconds_of(LOAD, tokens, 8, Experience(), 1, 1) is None


def test_experience_goes_before_what_is_assumed() -> None:
    learnt = Experience(tokens_per_byte=0.5, completion_tokens=20, latency_seconds=2)
    tokens = tokens_of(LOAD, 300, learnt)
    assert (tokens.prompt, tokens.completion) == (2000, 800)
    assert tokens.is_prompt_learnt and tokens.is_completion_learnt
    assert seconds_of(LOAD, tokens, 8, learnt) == 10


def test_time_is_what_the_narrowest_limit_leaves() -> None:
    learnt = Experience(tokens_per_byte=0.5, completion_tokens=20, latency_seconds=2)
    tokens = tokens_of(LOAD, 300, learnt)
    assert seconds_of(LOAD, tokens, 8, learnt, requests_per_minute=60, tokens_per_minute=10**6) == 40
    assert seconds_of(LOAD, tokens, 8, learnt, requests_per_minute=60, tokens_per_minute=2800) == 60


def test_what_limits_allow_is_known_without_experience() -> None:
    tokens = tokens_of(LOAD, 300, Experience())
    assert seconds_at_limits(LOAD, tokens, 60, None) == 40
    assert seconds_at_limits(LOAD, tokens, 60, 7000) == 60
    assert seconds_at_limits(LOAD, tokens, None, None) is None


def test_the_cheapest_request_has_no_rows_text() -> None:
    asked = assessment({"llm.max_tokens": 9})
    cheapest = cheapest_request(asked, bounded_schema=False)
    for question in questions(asked):
        put = request(asked.spec, question, messages(question, ROW, asked.lookup), bounded_schema=False)
        assert len(cheapest.body) < len(put.body)
    assert cheapest.max_tokens == 9


def test_a_template_that_reckons_with_its_inputs_is_bounded_without_them() -> None:
    asked = assessment({}, {"ask.j2": b"{{ criterion.code }}{{ lookup }}{{ row.text + 1 }}{{ case_study.name }}"})
    assert b'"messages":[]' in cheapest_request(asked, bounded_schema=False).body


@pytest.mark.parametrize(
    ("llm", "most"),
    [({}, None), ({"max_tokens": 9}, 9), ({"options": {"max_completion_tokens": 7}, "max_tokens": 9}, 7)],
)
def test_the_longest_reply_is_what_the_request_says(llm: dict[str, Any], most: int | None) -> None:
    assert most_tokens(assessment({"llm": {"model_name": "m", **llm}}).spec) == most
