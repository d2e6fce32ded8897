"""A provider is judged by what failed since its last answer, whatever comes back in whatever order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from elspeth_dagster.stages.breaking import (
    FAILED_QUESTIONS,
    FAILED_TRIES,
    FEW,
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    Health,
)

FAILURES = st.tuples(st.sampled_from([f"q{n}" for n in range(8)]), st.sampled_from(["server", "timeout"]))
EVENTS = st.lists(st.one_of(st.none(), FAILURES), max_size=60)


def after(events: list[tuple[str, str] | None], health: Health | None = None) -> Health:
    """What a provider looks like after answers (None) and failures, a second apart."""
    health = health or Health()
    for second, event in enumerate(events):
        if event is None:
            health.answered(well=True)
        else:
            health.failed(*event, float(second), is_probe=health.is_shut)
    return health


def dead() -> Health:
    return after([(f"q{n}", "server") for n in range(FAILED_TRIES)])


@given(EVENTS)
def test_an_answer_opens_it_whatever_failed_before(events: list[tuple[str, str] | None]) -> None:
    health = after([*events, None])
    assert not health.is_shut and health.lets_pass(1000, 0, 0.0)


@given(EVENTS)
def test_it_is_shut_only_by_many_failures_in_a_row_of_several_questions(events: list[tuple[str, str] | None]) -> None:
    last = max((place for place, event in enumerate(events) if event is None), default=-1)
    since = [event for event in events[last + 1 :] if event is not None]
    before = {event[0] for event in events[: last + 1] if event is not None}
    new = {question for question, _ in since} - before
    assert after(events).is_shut == (len(since) >= FAILED_TRIES and len(new) >= FAILED_QUESTIONS)


@given(EVENTS, st.floats(0, 1000), st.floats(0, 100))
def test_it_is_hopeless_only_when_shut_and_after_a_probe(
    events: list[tuple[str, str] | None], now: float, seconds: float
) -> None:
    health = after(events)
    if health.is_hopeless(now, seconds):
        assert health.is_shut and health.probes >= 1 and now - health.failing_since >= seconds


def test_few_are_in_flight_until_it_has_answered_well() -> None:
    health = Health()
    assert [health.lets_pass(number, 0, 0.0) for number in (0, FEW - 1, FEW)] == [True, True, False]
    health.answered(well=False)
    assert not health.lets_pass(FEW, 0, 0.0)
    health.answered(well=True)
    assert health.lets_pass(FEW, 0, 0.0)


def test_when_shut_it_is_probed_by_one_at_a_time_later_and_later() -> None:
    health = dead()
    now = health.next_probe
    assert health.lets_pass(50, 0, now)
    assert not health.lets_pass(50, 1, now)
    assert not health.lets_pass(50, 0, now - 0.01)
    pauses = []
    for _ in range(40):
        health.failed("q1", "server", now, is_probe=True)
        pauses.append(health.next_probe - now)
    assert pauses[:3] == [2 * FIRST_PAUSE_SECONDS, 4 * FIRST_PAUSE_SECONDS, 8 * FIRST_PAUSE_SECONDS]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS


def test_what_was_in_flight_when_it_was_shut_puts_no_probe_off() -> None:
    health = dead()
    planned = health.next_probe
    for _ in range(30):
        health.failed("q1", "server", planned - 0.1, is_probe=False)
    assert (health.next_probe, health.probes) == (planned, 0)


def test_it_is_not_probed_before_it_said() -> None:
    health = dead()
    health.failed("q1", "rate_limited", 100.0, is_probe=True, retry_after=60.0)
    assert not health.lets_pass(0, 0, 159.0) and health.lets_pass(0, 0, 160.0)
