"""What an assessment will take, before anything is sent: calls, tokens, money and time.

    prompt tokens      the bytes of the requests × the tokens per byte that this model's earlier replies reported
    completion tokens  the mean of this assessment's earlier replies
    time               calls ÷ requests in flight × how long this model's earlier replies took, or what the limits per
                       minute let through, if that is less

What no earlier reply tells is assumed: four bytes a token, half of `max_tokens`. What can't be assumed is unknown:
money without a price, time without a reply. Retries, repairs and replies that are on record already are not foreseen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.canonical import Json
from elspeth_dagster.stages.prompting import RENDER_ERRORS, messages
from elspeth_dagster.stages.querying import Form, Question, Request, questions, request

BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class Experience:
    """What earlier replies reported; None where there are none. Replies of this assessment for `completion_tokens`."""

    tokens_per_byte: float | None = None
    completion_tokens: float | None = None
    latency_seconds: float | None = None


@dataclass(frozen=True)
class Load:
    """What is to be asked: how many rows and calls, and the bytes of all requests."""

    rows: int
    calls: int
    request_bytes: int


@dataclass(frozen=True)
class Tokens:
    """How many tokens calls will take, None where nothing tells; and whether that is learnt from earlier replies."""

    prompt: int
    completion: int | None
    is_prompt_learnt: bool
    is_completion_learnt: bool


def load_of(assessment: Assessment, rows: Iterable[Mapping[str, Json]], *, bounded_schema: bool) -> Load:
    """The first calls that asking about these rows takes. What would not be asked or can't be rendered is left out."""
    asked = questions(assessment)
    forms = {question.key: Form(assessment.spec, question, bounded_schema=bounded_schema) for question in asked}
    is_whole = assessment.spec.errors.row == "all_or_nothing"
    row_count = calls = size = 0
    for values in rows:
        row_count += 1
        answerable = [question for question in asked if not question.missing_inputs(values)]
        if is_whole and len(answerable) < len(asked):
            continue
        sizes = [_size(assessment, question, forms[question.key], values) for question in answerable]
        calls += sum(one > 0 for one in sizes)
        size += sum(sizes)
    return Load(row_count, calls, size)


def _size(assessment: Assessment, question: Question, form: Form, values: Mapping[str, Json]) -> int:
    try:
        asked = messages(question, values, assessment.lookup)
    except RENDER_ERRORS:
        return 0
    return len(form.request(asked).body)


def scaled(sample: Load, rows: int) -> Load:
    """The load of so many rows, of which a sample was looked at."""
    if sample.rows == 0:
        return Load(rows, 0, 0)
    factor = rows / sample.rows
    return Load(rows, round(sample.calls * factor), round(sample.request_bytes * factor))


def tokens_of(load: Load, max_tokens: int | None, experience: Experience) -> Tokens:
    """How many tokens a load will take."""
    per_byte = experience.tokens_per_byte or 1 / BYTES_PER_TOKEN
    assumed = None if max_tokens is None else max_tokens / 2
    each = assumed if experience.completion_tokens is None else experience.completion_tokens
    return Tokens(
        prompt=round(load.request_bytes * per_byte),
        completion=None if each is None else round(load.calls * each),
        is_prompt_learnt=experience.tokens_per_byte is not None,
        is_completion_learnt=experience.completion_tokens is not None,
    )


def seconds_of(
    load: Load,
    tokens: Tokens,
    in_flight: int,
    experience: Experience,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> float | None:
    """How long asking takes, by whatever holds it back most; None where no earlier reply tells how long one takes."""
    if experience.latency_seconds is None:
        return None
    seconds = [load.calls * experience.latency_seconds / in_flight]
    if requests_per_minute is not None:
        seconds.append(60 * load.calls / requests_per_minute)
    if tokens_per_minute is not None:
        seconds.append(60 * (tokens.prompt + (tokens.completion or 0)) / tokens_per_minute)
    return max(seconds)


def cheapest_request(assessment: Assessment, *, bounded_schema: bool) -> Request:
    """The shortest request that can be sent: a question whose inputs are empty."""
    found = (_without_text(assessment, question, bounded_schema=bounded_schema) for question in questions(assessment))
    return min(found, key=lambda one: len(one.body))


def _without_text(assessment: Assessment, question: Question, *, bounded_schema: bool) -> Request:
    try:
        asked = messages(question, dict.fromkeys(question.inputs.values(), ""), assessment.lookup)
    except RENDER_ERRORS:  # a template that reckons with its inputs
        asked = []
    return request(assessment.spec, question, asked, bounded_schema=bounded_schema)
