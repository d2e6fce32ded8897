"""Which error an exchange came to, and when to try again."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from elspeth_dagster.stages.calling import (
    BACKOFF_CAP_SECONDS,
    RETRY_AFTER_CAP_SECONDS,
    ErrorClass,
    classify_status,
    is_fatal,
    is_transient,
    one_line,
    provider_codes,
    retry_after_seconds,
    retry_delay,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
JITTER = st.floats(min_value=0, max_value=1, exclude_max=True)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_a_2xx_status_is_no_error(status: int) -> None:
    assert classify_status(status) is None


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529, 599])
def test_a_status_that_may_pass_is_transient(status: int) -> None:
    error = classify_status(status)
    assert is_transient(error)
    assert not is_fatal(error)


@pytest.mark.parametrize("status", [301, 307, 401, 402, 403, 404, 405, 407, 410])
def test_a_status_that_no_question_gets_past_is_fatal(status: int) -> None:
    error = classify_status(status)
    assert is_fatal(error)
    assert not is_transient(error)


@pytest.mark.parametrize("status", [400, 406, 411, 413, 415, 418, 422, 451])
def test_any_other_4xx_refuses_only_its_own_question(status: int) -> None:
    assert classify_status(status) is ErrorClass.BAD_REQUEST


@given(st.integers(min_value=100, max_value=999))
def test_no_status_is_both_transient_and_fatal_and_only_2xx_is_neither_error(status: int) -> None:
    error = classify_status(status)
    assert not (is_transient(error) and is_fatal(error))
    assert (error is None) == (200 <= status < 300)


def test_no_error_is_neither_transient_nor_fatal() -> None:
    assert not is_transient(None)
    assert not is_fatal(None)


def test_every_error_class_is_transient_or_fatal_or_the_questions_own() -> None:
    own = {error for error in ErrorClass if not is_transient(error) and not is_fatal(error)}
    assert own == {ErrorClass.BAD_REQUEST, ErrorClass.OVERSIZED, ErrorClass.NOT_SENT}


@given(st.integers(min_value=-5, max_value=10**9), JITTER)
def test_a_delay_is_never_negative_nor_beyond_the_cap(tries: int, jitter: float) -> None:
    assert 0 <= retry_delay(tries, None, jitter) <= BACKOFF_CAP_SECONDS


@given(st.integers(1, 50), st.floats(0, RETRY_AFTER_CAP_SECONDS), JITTER)
def test_a_delay_is_at_least_what_the_server_asked_for(tries: int, asked: float, jitter: float) -> None:
    assert asked <= retry_delay(tries, asked, jitter) <= asked + BACKOFF_CAP_SECONDS


def test_delays_double_from_half_a_second_up_to_the_cap() -> None:
    longest = [retry_delay(tries, None, 1 - 2**-53) for tries in range(1, 9)]
    assert longest == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30])


def test_two_callers_told_the_same_come_back_at_different_times() -> None:
    assert retry_delay(1, 2.0, 0.1) != retry_delay(1, 2.0, 0.9)


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [("0", 0), ("3", 3), (" 7 ", 7), ("1.5", 1.5), ("300", 300), ("301", 300), ("9" * 400, 300)],
)
def test_retry_after_in_seconds_is_bounded_to_five_minutes(asked: str, seconds: float) -> None:
    assert retry_after_seconds({"retry-after": asked}) == seconds


@pytest.mark.parametrize(
    "asked",
    ["", "-1", "nan", "NaN", "inf", "Infinity", "1e9", "1_0", "soon", "+3", "0x10", "٣", "3;4", "1,5", "."],
)
def test_a_retry_after_that_makes_no_sense_is_ignored(asked: str) -> None:
    assert retry_after_seconds({"retry-after": asked}, NOW) is None


def test_without_the_header_nothing_is_asked() -> None:
    assert retry_after_seconds({}, NOW) is None


def test_milliseconds_go_before_seconds() -> None:
    assert retry_after_seconds({"retry-after-ms": "250", "retry-after": "9"}) == 0.25


def test_milliseconds_that_make_no_sense_leave_the_seconds() -> None:
    assert retry_after_seconds({"retry-after-ms": "-1", "retry-after": "9"}) == 9


@pytest.mark.parametrize(("ahead", "seconds"), [(20, 20), (-20, 0), (10**6, 300)])
def test_an_http_date_is_so_many_seconds_from_now(ahead: int, seconds: float) -> None:
    asked = format_datetime(NOW + timedelta(seconds=ahead), usegmt=True)
    assert retry_after_seconds({"retry-after": asked}, NOW) == seconds


def test_a_date_without_a_zone_is_in_gmt() -> None:
    assert retry_after_seconds({"retry-after": "Sun, 01 Mar 2026 12:00:09 -0000"}, NOW) == 9


def test_an_http_date_says_nothing_to_who_does_not_know_the_time() -> None:
    assert retry_after_seconds({"retry-after": "Sun, 01 Mar 2026 12:00:09 GMT"}) is None


@given(st.text(), st.text())
@example("Mon, 99 Feb 99999 99:99:99 GMT", "")
@example("Sun, 01 Jan 0001 00:00:00 +2359", "")
@example("1 Jan 2026 00:00:00 -9999999", "")
def test_whatever_the_headers_say_the_wait_is_bounded(asked: str, milliseconds: str) -> None:
    seconds = retry_after_seconds({"retry-after": asked, "retry-after-ms": milliseconds}, NOW)
    assert seconds is None or (math.isfinite(seconds) and 0 <= seconds <= RETRY_AFTER_CAP_SECONDS)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "No such model", "code": "model_not_found"}}, "code model_not_found"),
        ({"error": {"type": "bad_request", "param": "messages.[0]", "code": 400}},
         "code 400, type bad_request, parameter messages.[0]"),
        ({"code": "DeploymentNotFound", "message": "it says: secret"}, "code DeploymentNotFound"),
        ({"error": {"code": "a sentence of somebody's", "type": "x" * 65, "param": ["x"]}}, ""),
        ({"error": "overloaded"}, ""),
        ({"detail": "Not Found"}, ""),
        (["?"], ""),
    ],
)  # fmt: skip
def test_a_provider_s_own_words_for_an_error_are_found_and_never_its_message(body: object, said: str) -> None:
    assert provider_codes(json.dumps(body).encode()) == said


@given(st.binary())
@example(b"<h1>Bad gateway</h1>")
@example(b"[" * 60_000)
@example(b'{"a":' * 60_000)
def test_whatever_a_body_is_its_codes_are_words(body: bytes) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.:,\[\] -]{0,250}", provider_codes(body))


@given(st.text(alphabet=st.characters(codec=None)))
def test_one_line_can_be_stored_anywhere(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert "\x00" not in line
    line.encode()
