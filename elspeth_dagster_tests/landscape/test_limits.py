"""Limits per minute in the database: one bucket for all, whatever clocks do and whoever dies."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from elspeth_dagster.landscape import schema
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.limits import Account, Limit, Limits
from elspeth_dagster.landscape.operating import limit_buckets, metadata

ACCOUNT = Account("openai", "https://x hmac:1", "gpt-4o")
DAY_US = 86_400 * 1_000_000
REQUESTS = Limit("requests", 620)
ONE = [[1]]


class Clock:
    """A monotonic clock that stands still until it is told."""

    def __init__(self) -> None:
        self.us = 5_000_000

    def __call__(self) -> int:
        return self.us


def drawn(limits: Limits, wanted: int = 100) -> int:
    """How many of so many requests may go at once."""
    return sum(wait == 0 for wait in limits.draw(ONE * wanted, [0]).waits)


def stored(landscape: Landscape) -> list[dict[str, Any]]:
    with landscape.read() as connection:
        return [dict(row) for row in connection.execute(sa.select(limit_buckets)).mappings()]


def change(landscape: Landscape, **values: Any) -> None:
    landscape.operate(lambda connection: connection.execute(limit_buckets.update().values(**values)))


def test_the_tables_are_no_part_of_the_record() -> None:
    assert not metadata.tables.keys() & schema.metadata.tables.keys()
    assert all((table.comment or "").startswith("Operational, not evidence") for table in metadata.tables.values())


def test_a_second_is_there_at_once_and_a_second_is_promised(landscape: Landscape) -> None:
    promised = Limits(landscape, ACCOUNT, [REQUESTS]).draw(ONE * 100, [0])
    assert len(promised.waits) == 20
    assert promised.waits[:10] == [0.0] * 10
    assert 0.9 < promised.waits[-1] <= 1.0 and promised.come_again == pytest.approx(0.1)


def test_all_who_ask_one_account_draw_from_one_bucket(landscape: Landscape, database_url: str) -> None:
    with Landscape.open(database_url) as elsewhere:
        assert drawn(Limits(landscape, ACCOUNT, [REQUESTS]), 7) == 7
        assert drawn(Limits(elsewhere, ACCOUNT, [REQUESTS]), 7) in (3, 4)


@pytest.mark.parametrize("part", Account._fields)
def test_another_account_or_model_has_a_bucket_of_its_own(landscape: Landscape, part: str) -> None:
    assert drawn(Limits(landscape, ACCOUNT, [REQUESTS])) == 10
    assert drawn(Limits(landscape, ACCOUNT._replace(**{part: "other"}), [REQUESTS])) == 10


def test_who_draws_waits_for_who_is_drawing(landscape: Landscape) -> None:
    limits = Limits(landscape, ACCOUNT, [REQUESTS])
    limits.draw([], [0])
    is_drawing = threading.Event()

    def draw_slowly(connection: sa.Connection) -> None:
        connection.execute(limit_buckets.update().values(level_millionths=-50_000_000))
        is_drawing.set()
        time.sleep(0.5)

    with ThreadPoolExecutor(1) as thread:
        slow = thread.submit(landscape.operate, draw_slowly)
        is_drawing.wait()
        assert limits.draw(ONE, [0]).waits == []
        slow.result()


def test_threads_that_draw_at_once_all_find_the_bucket(landscape: Landscape) -> None:
    limits = Limits(landscape, ACCOUNT, [REQUESTS])
    with ThreadPoolExecutor(8) as threads:
        granted = sum(threads.map(lambda _: len(limits.draw(ONE * 5, [0]).waits), range(16)))
    assert 20 <= granted <= 40
    assert len(stored(landscape)) == 1


def test_what_is_given_back_can_be_taken(landscape: Landscape) -> None:
    limits = Limits(landscape, ACCOUNT, [Limit("tokens", 62_000)], Clock())
    limits.draw([[900]], [0])
    assert limits.draw([[900]], [800]).waits == [0.0]
    assert limits.draw([[500]], [-1500]).waits == []


def test_both_limits_are_kept(landscape: Landscape) -> None:
    limits = Limits(landscape, ACCOUNT, [Limit("tokens", 6200), REQUESTS])
    assert limits.units == ["requests", "tokens"]
    waits = limits.draw([[1, 90]] * 10, [0, 0]).waits
    assert len(waits) == 2 and waits[0] == 0.0 and 0.5 < waits[1] < 1


def test_on_one_host_time_is_the_hosts_monotonic_clock(sqlite_url: str) -> None:
    clock = Clock()
    with Landscape.open(sqlite_url) as landscape:
        limits = Limits(landscape, ACCOUNT, [REQUESTS], clock)
        assert drawn(limits) == 10
        assert drawn(limits) == 0
        clock.us += 1_500_000  # a second of which is promised
        assert drawn(limits) == 5
        clock.us += DAY_US
        assert drawn(limits) == 10


def test_a_host_that_was_started_anew_goes_on(sqlite_url: str) -> None:
    clock = Clock()
    with Landscape.open(sqlite_url) as landscape:
        limits = Limits(landscape, ACCOUNT, [REQUESTS], clock)
        drawn(limits)
        clock.us = 1_000
        assert drawn(limits) == 0
        clock.us += 2_000_000
        assert drawn(limits) == 10


@pytest.mark.parametrize("days", [-1, 1])
def test_a_servers_clock_that_is_set_a_day_off_gives_a_second_at_most(postgresql_url: str, days: int) -> None:
    with Landscape.open(postgresql_url) as landscape:
        limits = Limits(landscape, ACCOUNT, [REQUESTS], Clock())
        drawn(limits)
        [bucket] = stored(landscape)
        assert abs(bucket["filled_at_us"] / 1_000_000 - time.time()) < 600  # the server is on this host
        change(landscape, filled_at_us=bucket["filled_at_us"] + days * DAY_US)
        assert drawn(limits) == (10 if days < 0 else 0)
        change(landscape, level_millionths=3_000_000)
        assert drawn(limits) in (3, 4)


def test_a_limit_that_was_changed_holds_from_the_next_drawing_on(landscape: Landscape) -> None:
    assert drawn(Limits(landscape, ACCOUNT, [REQUESTS])) == 10
    change(landscape, level_millionths=10_000_000)
    assert drawn(Limits(landscape, ACCOUNT, [Limit("requests", 62)])) == 1
