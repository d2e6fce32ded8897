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
from dataclasses import dataclass, field

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.canonical import Json
from elspeth_dagster.stages.prompting import RENDER_ERRORS, messages
from elspeth_dagster.stages.querying import Form, Question, Request, questions, request

BYTES_PER_TOKEN = 4
ROWS_SEEN_WHOLE, ROWS_FOR_ONE = 10_000, 100


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


@dataclass
class _Seen:
    """Questions that can be put: how many there are, how many of them were, and what that came to."""

    answerable: int = 0
    put: int = 0
    calls: int = 0
    request_bytes: int = 0

    def share_of(self, number: int) -> float:
        """A number of those that were put, as one of all."""
        return number * self.answerable / self.put if self.put else 0


@dataclass
class Counting:
    """Counts the first calls that asking about rows takes, row by row, and keeps none.

    What would not be asked or can't be rendered is left out. Of the first ten thousand rows every prompt is made; after
    these of every hundredth, which stands for those between.
    """

    assessment: Assessment
    bounded_schema: bool
    rows: int = 0
    _first: _Seen = field(default_factory=_Seen)
    _later: _Seen = field(default_factory=_Seen)

    def __post_init__(self) -> None:
        self._asked = questions(self.assessment)
        self._is_whole = self.assessment.spec.errors.row == "all_or_nothing"
        self._forms = {
            one.key: Form(self.assessment.spec, one, bounded_schema=self.bounded_schema) for one in self._asked
        }

    def add(self, values: Mapping[str, Json]) -> None:
        """Count a row."""
        self.rows += 1
        answerable = [question for question in self._asked if not question.missing_inputs(values)]
        if self._is_whole and len(answerable) < len(self._asked):
            return
        seen = self._first if self.rows <= ROWS_SEEN_WHOLE else self._later
        seen.answerable += len(answerable)
        if seen is self._first or self.rows % ROWS_FOR_ONE == 0 or not seen.put:
            self._put(seen, answerable, values)

    def _put(self, seen: _Seen, answerable: list[Question], values: Mapping[str, Json]) -> None:
        sizes = [_size(self.assessment, question, self._forms[question.key], values) for question in answerable]
        seen.put += len(answerable)
        seen.calls += sum(one > 0 for one in sizes)
        seen.request_bytes += sum(sizes)

    @property
    def load(self) -> Load:
        """What was counted."""
        both = (self._first, self._later)
        calls = sum(seen.share_of(seen.calls) for seen in both)
        return Load(self.rows, round(calls), round(sum(seen.share_of(seen.request_bytes) for seen in both)))


def _size(assessment: Assessment, question: Question, form: Form, values: Mapping[str, Json]) -> int:
    try:
        asked = messages(question, values, assessment.lookup)
    except RENDER_ERRORS:
        return 0
    return len(form.request(asked).body)


def load_of(assessment: Assessment, rows: Iterable[Mapping[str, Json]], *, bounded_schema: bool) -> Load:
    """The first calls that asking about these rows takes, as `Counting` counts them."""
    counting = Counting(assessment, bounded_schema)
    for values in rows:
        counting.add(values)
    return counting.load


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
    at_limits = seconds_at_limits(load, tokens, requests_per_minute, tokens_per_minute)
    return max(load.calls * experience.latency_seconds / in_flight, at_limits or 0)


def seconds_at_limits(
    load: Load, tokens: Tokens, requests_per_minute: int | None, tokens_per_minute: int | None
) -> float | None:
    """The least that the limits per minute let asking take, which needs no earlier reply; None without a limit."""
    seconds = []
    if requests_per_minute is not None:
        seconds.append(60 * load.calls / requests_per_minute)
    if tokens_per_minute is not None:
        seconds.append(60 * (tokens.prompt + (tokens.completion or 0)) / tokens_per_minute)
    return max(seconds, default=None)


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
