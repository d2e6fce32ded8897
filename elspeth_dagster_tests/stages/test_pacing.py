"""The level of requests in flight follows what comes back, within its bounds, whatever a provider says."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from elspeth_dagster.stages.calling import ErrorClass, Exchange
from elspeth_dagster.stages.pacing import (
    FREEZE_SECONDS,
    POINTS,
    REFUSAL_CAP_SECONDS,
    RESET_CAP_SECONDS,
    START,
    Level,
    duration_seconds,
    seconds_until_more,
)

WALL = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
FINE = Exchange(200, b"")
BUSY = Exchange(429, b"", error=ErrorClass.RATE_LIMITED)
TROUBLE = Exchange(503, b"", error=ErrorClass.SERVER)
TEXTS = st.text(max_size=20) | st.sampled_from(
    ["0", "-1", "1e9", "999999999999", "9" * 400, "NaN", "inf", "Wed, 21 Oct 2099 07:28:00 GMT", "6m0s", "20ms", "٣"]
)
NAMES = ["retry-after", "retry-after-ms", *(f"x-ratelimit-{what}-{unit}" for what in ("remaining", "limit", "reset")
         for unit in ("requests", "tokens"))]  # fmt: skip
HEADERS = st.dictionaries(st.sampled_from(NAMES), TEXTS)


def a_round(level: Level, exchange: Exchange, now: float = 0.0, count: int | None = None) -> None:
    """Fill all places, or `count` of them; then all come back."""
    numbers = [level.begin() for _ in range(level.room(now) if count is None else count)]
    for number in numbers:
        level.end(number, exchange, 100, now, WALL)


def refused(**headers: str) -> Exchange:
    return Exchange(429, b"", {name.replace("_", "-"): value for name, value in headers.items()},
                    error=ErrorClass.RATE_LIMITED)  # fmt: skip


BOUNDS = st.tuples(st.integers(1, 60), st.integers(1, 60)).map(lambda pair: (min(pair), max(pair)))
EVENTS = st.lists(st.tuples(st.sampled_from(["send", "fine", "busy", "trouble", "lost"]), HEADERS, st.floats(0, 100)))


@given(BOUNDS, EVENTS)
def test_the_level_stays_within_its_bounds_whatever_happens(bounds: tuple[int, int], events: list) -> None:
    least, most = bounds
    level, now, under_way = Level(least, most, 0.0), 0.0, []
    came = {"fine": FINE, "busy": BUSY, "trouble": TROUBLE, "lost": None}
    for what, headers, seconds in events:
        now += seconds
        if what == "send" and level.room(now):
            under_way.append(level.begin())
        elif what != "send" and under_way:
            exchange = came[what] and Exchange(came[what].status, b"", headers, came[what].error)
            level.end(under_way.pop(0), exchange, 10, now, WALL)
        assert least <= level.current <= most
        assert level.in_flight == len(under_way) <= most
        assert level.held_until <= now + REFUSAL_CAP_SECONDS
    assert len(level.history) <= POINTS


def test_it_starts_at_some_and_doubles_each_round_until_it_is_refused() -> None:
    level = Level(1, 200, 0.0)
    assert level.current == START
    a_round(level, FINE)
    assert level.current == 2 * START
    a_round(level, FINE)
    assert level.current == 4 * START


def test_after_a_cut_it_grows_by_one_a_round() -> None:
    level = Level(1, 200, 0.0)
    a_round(level, BUSY)
    assert level.current == 14
    a_round(level, FINE)
    assert 14 <= level.current <= 15
    a_round(level, FINE)
    a_round(level, FINE)
    assert 16 <= level.current <= 17


def test_it_feels_its_way_beside_the_level_that_was_refused() -> None:
    level = Level(1, 200, 0.0)
    a_round(level, BUSY)
    rounds = 0
    while level.current < START:
        a_round(level, FINE)
        rounds += 1
    assert 10 <= rounds <= 30
    while level.current < START + 2:
        a_round(level, FINE)
    a_round(level, FINE)
    a_round(level, FINE)
    assert level.current >= START + 3  # what it was refused at holds no more


def test_it_grows_only_while_all_places_are_taken() -> None:
    level = Level(1, 200, 0.0)
    for _ in range(50):
        a_round(level, FINE, count=START - 1)
    assert level.current == START
    a_round(level, FINE, count=START)
    assert level.current > START


def test_what_was_sent_before_a_cut_cuts_once() -> None:
    level = Level(1, 200, 0.0)
    a_round(level, BUSY)
    assert (level.current, level.cuts) == (14, 1)
    a_round(level, BUSY)
    assert (level.current, level.cuts) == (9, 2)


@pytest.mark.parametrize("error", [ErrorClass.SERVER, ErrorClass.TIMEOUT, ErrorClass.CONNECTION])
def test_an_error_of_the_server_freezes_it_for_a_while(error: ErrorClass) -> None:
    level = Level(1, 200, 0.0)
    a_round(level, Exchange(None, b"", error=error), count=1)
    a_round(level, FINE)
    assert level.current == START
    a_round(level, FINE, now=FREEZE_SECONDS)
    assert level.current == 2 * START


def test_nothing_is_sent_until_retry_after_has_passed() -> None:
    level = Level(1, 200, 0.0)
    a_round(level, refused(retry_after="30"), now=5.0, count=3)
    assert level.room(34.9) == 0
    assert level.room(35.0) == level.current
    assert level.history[-1].why == "429, retry after 30 s"


@pytest.mark.parametrize(
    ("said", "held"),
    [("1000000000", 300), ("-5", 0), ("1e9", 0), ("soon", 0), ("Sun, 01 Mar 2026 12:00:40 GMT", 40),
     ("Sun, 01 Mar 2099 12:00:00 GMT", 300), ("Sun, 01 Mar 1999 12:00:00 GMT", 0)],
)  # fmt: skip
def test_a_retry_after_that_lies_is_bounded(said: str, held: float) -> None:
    level = Level(1, 200, 0.0)
    a_round(level, refused(retry_after=said), now=5.0, count=1)
    assert level.held_until - 5.0 == pytest.approx(held) or (held == 0 and level.held_until <= 5.0)


def test_one_that_always_says_wait_is_believed_less_and_less() -> None:
    level, now, waited = Level(1, 200, 0.0), 0.0, 0.0
    for _ in range(1000):
        a_round(level, refused(retry_after="300"), now=now)
        waited += max(0.0, level.held_until - now)
        now = max(now, level.held_until)
    assert 300 < waited <= 600
    a_round(level, FINE, now=now)
    a_round(level, refused(retry_after="300"), now=now)
    assert level.held_until == now + 300


def test_it_waits_ahead_of_a_refusal_when_nothing_is_left() -> None:
    level = Level(1, 200, 0.0)
    headers = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0",
               "x-ratelimit-reset-requests": "12s"}  # fmt: skip
    a_round(level, Exchange(200, b"", headers), count=1)
    assert level.held_until == 12
    assert level.history[-1].why == "nothing left for 12 s"
    assert level.cuts == 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"remaining-requests": "1", "reset-requests": "9s"}, 0),
        ({"remaining-requests": "0", "reset-requests": "9s"}, 9),
        ({"remaining-requests": "0", "reset-requests": "6m0s"}, 60),
        ({"remaining-requests": "0", "reset-requests": "20ms"}, 0.02),
        ({"remaining-requests": "0"}, 1),
        ({"remaining-requests": "0", "reset-requests": "tomorrow"}, 1),
        ({"remaining-requests": "0", "reset-requests": "9s", "limit-requests": "60"}, 9),
        ({"remaining-requests": "0", "reset-requests": "9s", "limit-requests": "0"}, 0),
        ({"remaining-tokens": "0", "limit-tokens": "-1", "reset-tokens": "0"}, 0),
        ({"remaining-tokens": "-1", "limit-tokens": "-1", "reset-tokens": "0"}, 0),
        ({"remaining-tokens": "99", "limit-tokens": "1000", "reset-tokens": "3s"}, 3),
        ({"remaining-tokens": "100", "limit-tokens": "1000", "reset-tokens": "3s"}, 0),
        ({"remaining-tokens": "50", "limit-tokens": "50", "reset-tokens": "3s"}, 0),
        ({"remaining-requests": "0", "reset-requests": "2s", "remaining-tokens": "0", "reset-tokens": "5s"}, 5),
    ],
)
def test_what_headers_say_of_what_is_left(headers: dict[str, str], seconds: float) -> None:
    told = {f"x-ratelimit-{name}": value for name, value in headers.items()}
    assert seconds_until_more(told, 100) == pytest.approx(seconds)


@given(HEADERS, st.integers(0, 10**6))
@example({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9" * 400}, 1)
def test_whatever_headers_say_the_wait_is_bounded(headers: dict[str, str], tokens: int) -> None:
    assert 0 <= seconds_until_more(headers, tokens) <= RESET_CAP_SECONDS


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("6m0s", 360), ("20ms", 0.02), ("8.64s", 8.64), ("1h2m3.5s", 3723.5), ("1m2s3ms", 62.003), ("7", 7),
     ("1d", 86400), ("", None), ("-1s", None), ("s", None), ("1 s", None), ("1e9s", None), ("5ns", None)],
)  # fmt: skip
def test_durations_are_read_as_providers_write_them(text: str, seconds: float | None) -> None:
    assert duration_seconds(text) == (None if seconds is None else pytest.approx(seconds))


def test_a_second_level_goes_on_where_the_first_has_come_to() -> None:
    level = Level(1, 200, 0.0)
    a_round(level, refused(retry_after="7"), now=0.0)
    again = Level(1, 200, 1.0, level)
    assert (again.current, again.cuts, again.in_flight) == (14, 0, 0)
    assert again.room(6.9) == 0 and again.room(7.0) == 14
    a_round(again, FINE, now=7.0)
    assert again.current <= 15
    assert Level(30, 200, 1.0, level).current == 30


def test_the_history_tells_how_it_went_and_stays_short() -> None:
    level = Level(1, 500, 0.0)
    for round_ in range(400):
        a_round(level, BUSY if round_ % 4 == 3 else FINE, now=float(round_))
    assert level.history[0] == (0.0, START, "start")
    assert level.history[-1].why == "429"
    assert 50 <= len(level.history) <= POINTS
    assert {point.why for point in level.history} == {"start", "grown", "429"}
    assert level.highest == 160
