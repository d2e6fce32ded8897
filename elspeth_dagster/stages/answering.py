"""A reply into an answer, or into the reason why it is none.

A reply becomes an answer only if its finish_reason is `stop` (or absent), its text is one JSON object (a Markdown code
fence around it is taken off; NaN, infinities, repeated keys and lists are refused), and each declared field is there
with its declared type and within its bounds. Fields that were not declared are left aside. Nothing is coerced.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.spec import AnswerField
from elspeth_dagster.stages.calling import ErrorClass, Usage
from elspeth_dagster.stages.querying import exactly

MOST_TOKENS = 10**9  # that a call can credibly report
LARGEST_INTEGER = 2**53 - 1  # of which canonical JSON has a form
NO_USAGE = Usage(None, None)
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@+-]{0,199}")
HALF_A_PAIR = re.compile("[\ud800-\udfff]")
FENCE = re.compile(r"\s*```[A-Za-z]*[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)


class Refusal(StrEnum):
    """Why a question has no answer although the provider replied, or was never asked."""

    BLANK_INPUT = "blank_input"
    ROW_NOT_ASKED = "row_not_asked"
    TEMPLATE = "template"
    UNKNOWN_CALL = "unknown_call"
    NOT_ON_RECORD = "not_on_record"
    ERASED = "erased"
    NOT_A_COMPLETION = "not_a_completion"
    NO_CONTENT = "no_content"
    MODEL_REFUSED = "model_refused"
    CONTENT_FILTER = "content_filter"
    TRUNCATED = "truncated"
    NOT_STOPPED = "not_stopped"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    DUPLICATE_KEY = "duplicate_key"
    NOT_FINITE = "not_finite"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    OUT_OF_BOUNDS = "out_of_bounds"


FINAL = frozenset({Refusal.MODEL_REFUSED, Refusal.CONTENT_FILTER, Refusal.NOT_A_COMPLETION})
"""Refusals that telling the model about would not mend."""


class Refused(Exception):  # noqa: N818  (a refusal is a fact about a reply, not an error)
    """A question that gets no answer: the reason (a Refusal, or the ErrorClass of its last call), and a sentence.

    The sentence doesn't repeat the reply's text.
    """

    def __init__(self, reason: Refusal | ErrorClass, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Completion(NamedTuple):
    """What a chat completion's body says about itself; everything may be missing."""

    model: str | None = None
    system_fingerprint: str | None = None
    finish_reason: str | None = None
    content: str | None = None
    refusal: str | None = None
    usage: Usage = NO_USAGE
    is_one: bool = False


def read_completion(body: bytes) -> Completion:
    """The parts of a chat completion that we use. Never raises: a body of another shape has `is_one` false."""
    try:
        document = _document(body)
        choice = (document.get("choices") or [{}])[0]
        message = choice.get("message") or {}
        return Completion(
            model=_word(document.get("model")),
            system_fingerprint=_word(document.get("system_fingerprint")),
            finish_reason=_word(choice.get("finish_reason")),
            content=_text(message.get("content")),
            refusal=_text(message.get("refusal")),
            usage=_usage(document.get("usage")),
            is_one=isinstance(document.get("choices"), list),
        )
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        return Completion()


def _document(body: bytes) -> Any:
    """A reply's JSON, read fast where it is strict, and as Python reads it where it holds NaN, say."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body)


def _usage(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        return NO_USAGE
    details = usage.get("prompt_tokens_details")
    return Usage(
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        cached_tokens=_count(details.get("cached_tokens")) if isinstance(details, dict) else None,
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS else None


def _word(value: Any) -> str | None:
    """A provider's own word; whatever else it wrote there, which could be anybody's text, stays in the raw body."""
    return value if isinstance(value, str) and WORD.fullmatch(value) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def accepted_values(completion: Completion, fields: Mapping[str, AnswerField]) -> dict[str, Json]:
    """The declared fields of a good answer, in declared order. Raises Refused for anything else."""
    values = _parsed(_finished_text(completion))
    return {name: _checked(name, values, field) for name, field in fields.items()}


def _finished_text(completion: Completion) -> str:
    if not completion.is_one:
        raise Refused(Refusal.NOT_A_COMPLETION, "The provider's reply is not a chat completion.")
    if completion.refusal is not None:
        raise Refused(Refusal.MODEL_REFUSED, "The model refused to answer.")
    if completion.finish_reason == "content_filter":
        raise Refused(Refusal.CONTENT_FILTER, "The provider's content filter stopped the reply.")
    if completion.finish_reason == "length":
        raise Refused(Refusal.TRUNCATED, "It was cut off at the longest allowed length.")
    if completion.finish_reason not in ("stop", None):
        raise Refused(Refusal.NOT_STOPPED, f"It ended by {completion.finish_reason!r}, not by `stop`.")
    if completion.content is None or not completion.content.strip():
        raise Refused(Refusal.NO_CONTENT, "It has no text.")
    return completion.content


def _parsed(text: str) -> dict[str, Any]:
    fenced = FENCE.fullmatch(text)
    try:
        value = _STRICTLY.decode(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError) as error:
        raise Refused(Refusal.NOT_JSON, "It is not one JSON object.") from error
    if not isinstance(value, dict):
        raise Refused(Refusal.NOT_AN_OBJECT, f"It is a JSON {_json_type(value)}, not an object.")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise Refused(Refusal.DUPLICATE_KEY, "It has the same key twice.")
    return dict(pairs)


def _refuse_constant(name: str) -> Any:
    raise Refused(Refusal.NOT_FINITE, f"It holds {name}, which is not JSON.")


_STRICTLY = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_refuse_constant)


def _checked(name: str, values: Mapping[str, Any], field: AnswerField) -> Json:
    if name not in values:
        raise Refused(Refusal.MISSING_FIELD, f"The field `{name}` is missing.")
    value = values[name]
    if not _has_type(value, field):
        raise Refused(Refusal.WRONG_TYPE, f"The field `{name}` must be {field.type}, it is {_json_type(value)}.")
    if problem := _out_of_bounds(value, field):
        raise Refused(Refusal.OUT_OF_BOUNDS, f"The field `{name}` {problem}.")
    return value


def checked_value(name: str, value: Json, field: AnswerField) -> Json:
    """A value for one field, as it is. Raises Refused when it has not the field's type, or is out of its bounds."""
    return _checked(name, {name: value}, field)


def _has_type(value: Any, field: AnswerField) -> bool:
    match field.type:
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "string" | "enum":
            return isinstance(value, str) and _is_unicode(value)


def _is_unicode(text: str) -> bool:
    return HALF_A_PAIR.search(text) is None


def _out_of_bounds(value: Any, field: AnswerField) -> str | None:
    if field.type in ("integer", "number"):
        return _number_out_of_bounds(value, field)
    if field.max_length is not None and len(value) > field.max_length:
        return f"must have at most {field.max_length} characters, it has {len(value)}"
    if field.values is not None and value not in field.values:
        return f"must be one of {', '.join(field.values)}"
    return None


def _number_out_of_bounds(value: float, field: AnswerField) -> str | None:
    if (isinstance(value, float) and not math.isfinite(value)) or abs(value) > LARGEST_INTEGER:
        return "must be within ±(2^53 - 1)"
    if field.minimum is not None and value < field.minimum:
        return f"must be at least {exactly(field.minimum)}"
    if field.maximum is not None and value > field.maximum:
        return f"must be at most {exactly(field.maximum)}"
    return None


def _json_type(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")
