"""What is promised in any minute is within the limit, and nobody waits for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elspeth_dagster.stages.limiting import AHEAD_SECONDS, DEBT_MINUTES, Bucket, Estimate, is_credible, promise

MINUTE = 60.0


def most_in_a_minute(sent: list[tuple[float, float]]) -> float:
    """The most that was sent in any 60 seconds, of (moment, amount)."""
    sent = sorted(sent)
    return max((sum(amount for at, amount in sent if start <= at < start + MINUTE) for start, _ in sent), default=0.0)


@given(
    st.integers(1, 300),
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 64), st.floats(0, 0.5)), max_size=60),
)
def test_no_minute_sees_more_requests_than_the_limit(limit: int, drawings: list[tuple[float, int, float]]) -> None:
    bucket, now, sent = Bucket(limit), 0.0, []
    for pause, wanted, late in drawings:
        now += pause
        bucket.fill(pause)
        promised = promise([bucket], [[1]] * wanted)
        sent += [(now + wait + late, 1.0) for wait in promised.waits]
    assert most_in_a_minute(sent) <= limit


@pytest.mark.parametrize("limit", [1, 2, 7, 60, 61, 63, 600])
def test_no_minute_sees_more_when_all_that_can_be_had_is_taken_and_some_is_late(limit: int) -> None:
    bucket, sent = Bucket(limit), []
    for tick in range(1300):
        bucket.fill(0.1)
        late = 0.9 * (tick // 10 % 2)
        sent += [(tick / 10 + wait + late, 1.0) for wait in promise([bucket], [[1]] * 64).waits]
    assert limit - 2 - limit / 20 <= most_in_a_minute(sent) <= limit


@given(st.integers(100, 10_000), st.lists(st.tuples(st.floats(0, 5), st.integers(1, 500)), max_size=60))
def test_no_minute_sees_more_tokens_than_the_limit_and_one_request(
    limit: int, drawings: list[tuple[float, int]]
) -> None:
    bucket, now, sent = Bucket(limit), 0.0, []
    for pause, need in drawings:
        now += pause
        bucket.fill(pause)
        promised = promise([bucket], [[need]] * 5)
        sent += [(now + wait, float(need)) for wait in promised.waits]
    assert most_in_a_minute(sent) <= limit + 500


@pytest.mark.parametrize("limit", [1, 7, 60, 600, 100_000])
def test_nearly_all_of_the_limit_is_used(limit: int) -> None:
    bucket, sent = Bucket(limit), 0
    for _ in range(6000):  # ten minutes
        bucket.fill(0.1)
        sent += len(promise([bucket], [[1]] * 2000).waits)
    assert 0.95 * 10 * limit <= sent <= 10 * limit + 1


def test_a_request_that_needs_more_than_a_minute_allows_goes_alone() -> None:
    bucket = Bucket(100)
    assert promise([bucket], [[5000], [1]]).waits == [0.0]
    bucket.fill(40)
    assert promise([bucket], [[1]]).waits == []
    for _ in range(DEBT_MINUTES * 70):
        bucket.fill(1)
    assert promise([bucket], [[5000]]).waits == [0.0]


def test_requests_are_served_in_order() -> None:
    requests, tokens = Bucket(6000), Bucket(620)
    promised = promise([requests, tokens], [[1, 10], [1, 15], [1, 1]])
    assert promised.waits == pytest.approx([0.0, 1.0])  # the third, small as it is, comes after the second
    assert promised.come_again == pytest.approx(0.6)
    assert requests.level == pytest.approx(6000 / 62 - 2)


def test_it_is_promised_a_second_ahead_and_no_further() -> None:
    promised = promise([Bucket(620)], [[1]] * 100)
    assert len(promised.waits) == 20
    assert max(promised.waits) == pytest.approx(AHEAD_SECONDS)
    assert promised.come_again == pytest.approx(0.1)


@pytest.mark.parametrize("seconds", [-86_400.0, -1.0, 0.0])
def test_a_clock_that_was_set_back_fills_nothing(seconds: float) -> None:
    bucket = Bucket(60, level=0.25)
    bucket.fill(seconds)
    assert bucket.level == 0.25


def test_a_clock_that_was_set_forward_a_day_fills_the_bucket_and_no_more() -> None:
    bucket = Bucket(600, level=-5)
    bucket.fill(86_400)
    assert bucket.level == pytest.approx(600 / 62)


def test_a_limit_that_was_lowered_owes_no_more_than_ten_minutes() -> None:
    bucket = Bucket(10, level=-1_000_000)
    assert bucket.seconds_until(1) <= (DEBT_MINUTES + 1) * 62


def test_the_estimate_begins_with_what_can_come() -> None:
    assert Estimate().tokens(4000, 300) == 1300
    assert Estimate().tokens(4000, None) == 1500


def test_the_estimate_learns_from_what_is_reported() -> None:
    estimate = Estimate()
    for _ in range(50):
        estimate.learn(3000, 1000, 40)
    assert estimate.tokens(3000, 300) == 1040
    for _ in range(100):
        estimate.learn(3000, 600, 140)
    assert estimate.tokens(3000, 300) == pytest.approx(740, abs=10)


@pytest.mark.parametrize(("prompt", "completion"), [(10**15, 1), (1, 10**15)])
def test_what_no_reply_can_have_needed_is_not_believed(prompt: int, completion: int) -> None:
    assert not is_credible(3000, prompt, completion)
    assert is_credible(3000, 3000, 3000)
