"""A reply is an answer only if everything about it is as declared; otherwise the reason says what isn't."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elspeth_dagster.core.canonical import canonical_json
from elspeth_dagster.core.spec import AnswerField
from elspeth_dagster.stages.answering import Completion, Refused, accepted_values, read_completion

FIELDS = {
    "score": AnswerField(type="integer", minimum=0, maximum=100),
    "weight": AnswerField(type="number", minimum=-1, maximum=1),
    "why": AnswerField(type="string", max_length=5),
    "sure": AnswerField(type="boolean"),
    "level": AnswerField(type="enum", values=["low", "high"]),
}
GOOD: dict[str, Any] = {"score": 41, "weight": 0.5, "why": "short", "sure": True, "level": "low"}


def completion(content: str | None, **other: Any) -> Completion:
    return Completion(content=content, is_one=True, **{"finish_reason": "stop", **other})


def reason(content: str | None, **other: Any) -> str:
    with pytest.raises(Refused) as refused:
        accepted_values(completion(content, **other), FIELDS)
    assert refused.value.detail.endswith(".")
    return refused.value.reason


def test_a_good_answer_has_its_declared_fields_in_declared_order() -> None:
    values = accepted_values(completion(json.dumps({"extra": 1, **dict(reversed(GOOD.items()))})), FIELDS)
    assert values == GOOD and list(values) == list(FIELDS)


@pytest.mark.parametrize("fence", ["```json\n%s\n```", "```\n%s```", "  ```JSON\n%s\n```\n", "\n%s\n"])
def test_a_code_fence_is_taken_off(fence: str) -> None:
    assert accepted_values(completion(fence % json.dumps(GOOD)), FIELDS) == GOOD


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"score": 41.0}, "wrong_type"),
        ({"score": "41"}, "wrong_type"),
        ({"score": True}, "wrong_type"),
        ({"score": None}, "wrong_type"),
        ({"score": -1}, "out_of_bounds"),
        ({"score": 101}, "out_of_bounds"),
        ({"weight": 1.01}, "out_of_bounds"),
        ({"weight": "0.5"}, "wrong_type"),
        ({"weight": 10**20}, "out_of_bounds"),
        ({"why": "longer"}, "out_of_bounds"),
        ({"why": 5}, "wrong_type"),
        ({"why": "\ud800"}, "wrong_type"),
        ({"sure": 1}, "wrong_type"),
        ({"level": "middle"}, "out_of_bounds"),
        ({"level": ["low"]}, "wrong_type"),
    ],
)
def test_a_field_of_another_type_or_out_of_bounds_is_refused(change: dict[str, Any], expected: str) -> None:
    assert reason(json.dumps({**GOOD, **change})) == expected


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_field_is_refused(name: str) -> None:
    assert reason(json.dumps({key: value for key, value in GOOD.items() if key != name})) == "missing_field"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no_content"),
        ("  ", "no_content"),
        ("Sure! Here it is.", "not_json"),
        ('{"score": 41', "not_json"),
        ("[" * 100_000, "not_json"),
        ('{"score": ' + "9" * 5000 + "}", "not_json"),
        ("{} {}", "not_json"),
        ("[]", "not_an_object"),
        ('"text"', "not_an_object"),
        ("null", "not_an_object"),
        ('{"score": NaN}', "not_finite"),
        ('{"score": -Infinity}', "not_finite"),
        ('{"score": 1, "score": 2}', "duplicate_key"),
        ('{"score": 1, "inner": {"a": 1, "a": 1}}', "duplicate_key"),
    ],
)
def test_a_text_that_is_not_one_json_object_is_refused(content: str | None, expected: str) -> None:
    assert reason(content) == expected


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"finish_reason": "length"}, "truncated"),
        ({"finish_reason": "content_filter"}, "content_filter"),
        ({"finish_reason": "tool_calls"}, "not_stopped"),
        ({"refusal": "I can't."}, "model_refused"),
        ({"is_one": False}, "not_a_completion"),
    ],
)
def test_a_reply_that_did_not_end_well_is_refused_whatever_it_says(other: dict[str, Any], expected: str) -> None:
    with pytest.raises(Refused) as refused:
        accepted_values(
            Completion(**{"content": json.dumps(GOOD), "is_one": True, "finish_reason": "stop", **other}), FIELDS
        )
    assert refused.value.reason == expected


def test_without_a_finish_reason_a_good_answer_is_accepted() -> None:
    assert accepted_values(completion(json.dumps(GOOD), finish_reason=None), FIELDS) == GOOD


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_reading_a_body_never_raises(body: bytes) -> None:
    found = read_completion(body)
    assert found.usage.prompt_tokens is None or found.usage.prompt_tokens >= 0


@pytest.mark.parametrize("odd", ["NaN", "-Infinity", '"\\ud800"', "1" * 400])
def test_a_reply_with_json_that_only_python_reads_is_a_completion(odd: str) -> None:
    body = f'{{"choices": [{{"message": {{"content": "{{}}"}}, "logprobs": {odd}}}]}}'
    assert read_completion(body.encode()).is_one


@given(JSON)
def test_whatever_comes_instead_of_a_message_never_raises(value: Any) -> None:
    for body in ({"choices": value}, {"choices": [value]}, {"choices": [{"message": value}]}, {"usage": value}):
        read_completion(json.dumps(body).encode())


@given(st.dictionaries(st.sampled_from([*FIELDS, "extra"]), JSON))
def test_any_object_is_accepted_within_its_bounds_or_refused_with_a_reason(content: dict[str, Any]) -> None:
    try:
        values = accepted_values(completion(json.dumps(content)), FIELDS)
    except Refused as refused:
        assert refused.detail
    else:
        assert 0 <= values["score"] <= 100 and len(values["why"]) <= 5 and values["level"] in ("low", "high")


def test_usage_that_was_not_reported_is_none_and_never_zero() -> None:
    body = {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 0, "completion_tokens": -1}}
    usage = read_completion(json.dumps(body).encode()).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (0, None, None)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", ["integer", "number"])
def test_every_accepted_number_has_a_canonical_form(kind: Any, sign: int) -> None:
    largest = sign * (2**53 - 1)
    fields = {"score": AnswerField(type=kind)}
    assert canonical_json(accepted_values(completion(json.dumps({"score": largest})), fields))
    with pytest.raises(Refused, match="within"):
        accepted_values(completion(json.dumps({"score": largest + sign})), fields)
