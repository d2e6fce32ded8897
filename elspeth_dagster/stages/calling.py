"""What one HTTP exchange with a provider came to, and whether and when to try it again.

Judged by status code and exception type, never by words in a message. Transient (a later try may succeed):
408, 409, 429, 5xx, and a connection that failed or timed out. Fatal (no other question can succeed either):
401, 402, 403, 404, 405, 407, 410, a redirect (it is not followed: the address is wrong) and an address at which
nothing listens. Everything else is the question's own refusal: 400 is never tried again, whatever it says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import NamedTuple

BACKOFF_BASE_SECONDS = 0.5
BACKOFF_CAP_SECONDS = 30.0
RETRY_AFTER_CAP_SECONDS = 300.0
DETAIL_CHARS = 500
MESSAGE_BYTES = 64 * 1024
CODES = {"code": "code", "type": "type", "param": "parameter"}
WORD = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,64}")


class ErrorClass(StrEnum):
    """Why an exchange brought no reply to read."""

    RATE_LIMITED = "rate_limited"
    TIMEOUT = "timeout"
    CONFLICT = "conflict"
    SERVER = "server"
    CONNECTION = "connection"
    UNREACHABLE = "unreachable"
    AUTHENTICATION = "authentication"
    PERMISSION = "permission"
    NOT_FOUND = "not_found"
    BAD_REQUEST = "bad_request"
    OVERSIZED = "oversized"
    NOT_SENT = "not_sent"  # the step was stopped between recording and sending


TRANSIENT = frozenset(
    {
        ErrorClass.RATE_LIMITED,
        ErrorClass.TIMEOUT,
        ErrorClass.CONFLICT,
        ErrorClass.SERVER,
        ErrorClass.CONNECTION,
    }
)
FATAL = frozenset({ErrorClass.UNREACHABLE, ErrorClass.AUTHENTICATION, ErrorClass.PERMISSION, ErrorClass.NOT_FOUND})
_BY_STATUS = {
    401: ErrorClass.AUTHENTICATION,
    402: ErrorClass.PERMISSION,
    403: ErrorClass.PERMISSION,
    404: ErrorClass.NOT_FOUND,
    405: ErrorClass.NOT_FOUND,
    407: ErrorClass.AUTHENTICATION,
    408: ErrorClass.TIMEOUT,
    409: ErrorClass.CONFLICT,
    410: ErrorClass.NOT_FOUND,
    429: ErrorClass.RATE_LIMITED,
}


class Usage(NamedTuple):
    """What the provider says it counted, in tokens of its own; None is what it did not say, never 0."""

    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None = None


class Exchange(NamedTuple):
    """What came back from one HTTP request, as it came.

    `error` is None exactly when a 2xx status and the whole body arrived. `status` is None when no status line did.
    `body` holds the bytes that arrived, also of an error or of a cut connection. `headers` has lower-case names.
    `redacted` says that a credential came back in body, headers or detail, and was replaced by its fingerprint.
    `latency_us` is in microseconds of a monotonic clock, from handing over the request to the last byte.
    """

    status: int | None
    body: bytes
    headers: dict[str, str] = {}  # noqa: RUF012  (nobody changes it)
    error: ErrorClass | None = None
    detail: str = ""
    latency_us: int = 0
    redacted: bool = False


def classify_status(status: int) -> ErrorClass | None:
    """What an HTTP status code means for a question; None for 2xx."""
    if 200 <= status < 300:
        return None
    if status >= 500:
        return ErrorClass.SERVER
    if 300 <= status < 400:
        return ErrorClass.NOT_FOUND
    return _BY_STATUS.get(status, ErrorClass.BAD_REQUEST)


def is_transient(error: ErrorClass | None) -> bool:
    """Whether a later try of the same request may succeed."""
    return error in TRANSIENT


def is_fatal(error: ErrorClass | None) -> bool:
    """Whether no other question can succeed either: the step stops."""
    return error in FATAL


def is_open(status: int | None, error: str | None) -> bool:
    """Whether the provider may have done the work although no whole response came: asked again, it may bill twice."""
    return status is None or (200 <= status < 300 and error in (ErrorClass.CONNECTION, ErrorClass.TIMEOUT))


def retry_delay(tries: int, retry_after: float | None, jitter: float) -> float:
    """Seconds to wait after the `tries`-th try (1, 2, …) failed; `jitter` is a random number in [0, 1).

    Exponential backoff with full jitter, at most 30 s
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). What the server asked for
    is waited in full before it, so that callers told the same don't come back at the same instant.
    """
    ceiling = min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2.0 ** min(max(tries, 1) - 1, 16))
    return (retry_after or 0.0) + ceiling * jitter


def retry_after_seconds(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """How long the server asks to wait, in seconds within [0, 300]; None where it asks nothing that makes sense.

    `retry-after-ms` (milliseconds, Azure and OpenAI) goes before `retry-after` (RFC 9110 §10.2.3: seconds, or
    an HTTP date, which needs `now` with its time zone). Decimal digits only: a negative number, NaN, infinity, an
    exponent or any other text is ignored. More than 300 is 300, a date that has passed is 0.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return min(milliseconds / 1000, RETRY_AFTER_CAP_SECONDS)
    asked = headers.get("retry-after", "")
    seconds = _number(asked)
    if seconds is None and now is not None:
        seconds = _seconds_until(asked, now)
    return None if seconds is None else min(max(seconds, 0.0), RETRY_AFTER_CAP_SECONDS)


def provider_codes(body: bytes) -> str:
    """By which words of its own a provider names an error: `code model_not_found, type invalid_request_error`.

    Its message is left to the body, which is on record: it may repeat the row's text, which must not outlive the row.
    The body is `{"error": {"code": …, "type": …, "param": …}}` (OpenAI, Azure and most others); empty for any other.
    """
    try:
        said = json.loads(body[:MESSAGE_BYTES])
    except (ValueError, RecursionError):
        return ""
    error = said.get("error", said) if isinstance(said, dict) else None
    if not isinstance(error, dict):
        return ""
    words = ((name, str(error.get(key))) for key, name in CODES.items() if isinstance(error.get(key), str | int))
    return ", ".join(f"{name} {word}" for name, word in words if WORD.fullmatch(word))


def one_line(text: str) -> str:
    """`text` as at most 500 printable characters on one line, which any log and database can hold."""
    printable = "".join(char if char.isprintable() else " " for char in text[: 4 * DETAIL_CHARS])
    return " ".join(printable.split())[:DETAIL_CHARS]


def _number(text: str) -> float | None:
    return float(text.strip()) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text.strip()) else None


def _seconds_until(http_date: str, now: datetime) -> float | None:
    try:
        then = parsedate_to_datetime(http_date)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # A date without a zone is one in GMT, the only zone of an HTTP date.
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return (then - now).total_seconds()
