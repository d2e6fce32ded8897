"""Requests pass the gate at a pace that a real provider bears, in order, and nobody waits there for ever."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from typing import Any

import pytest

from elspeth_dagster.core.errors import LandscapeError
from elspeth_dagster.counting import Counts
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.limits import Limit, Limits
from elspeth_dagster.landscape.records import Reply
from elspeth_dagster.llm.providers import ProviderSettings
from elspeth_dagster.llm.wire import Wire
from elspeth_dagster.pacing import Bounds, Pace, Taken, pace_of
from elspeth_dagster.progressing import progress_line
from elspeth_dagster.stages.calling import ErrorClass, Exchange
from elspeth_dagster.stages.limiting import Promised
from elspeth_dagster.stages.querying import Request
from elspeth_dagster.stopping import Stop, Stopped
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.landscape.sample import a_run
from elspeth_dagster_tests.sending import ACCOUNT, ask, ask_within

FINE = Exchange(200, b"")
REQUEST = Request(b"x" * 400, "sha256:0", "sha256:0", 50)


@pytest.fixture(scope="module")
def one_server() -> Iterator[FaultServer]:
    with FaultServer(record=True) as server:
        yield server


@pytest.fixture
def server(one_server: FaultServer) -> FaultServer:
    one_server.configure()
    one_server.reset()
    return one_server


def refused(server: FaultServer) -> int:
    return int(server.stats()["outcomes"].get("429", 0))


# The level ------------------------------------------------------------------------------------------------------------


def test_the_level_settles_near_what_the_provider_bears(server: FaultServer) -> None:
    server.configure(max_in_flight=10, latency_ms=20)
    pace = ask(server.base_url, lambda: Pace(Bounds(1, 64), Stop()), 1200)
    assert 5 <= pace.level.current <= 14
    assert refused(server) < 80  # of 1200; the first round alone costs ten
    assert pace.told()["throttled"] == pace.level.cuts > 0


def test_the_level_grows_to_the_bound_where_nothing_is_refused(server: FaultServer) -> None:
    server.configure(latency_ms=20)
    pace = ask(server.base_url, lambda: Pace(Bounds(1, 50), Stop()), 600)
    assert (pace.level.current, pace.level.highest, pace.level.cuts) == (50, 50, 0)
    assert server.stats()["in_flight_max"] == 50


def test_no_more_are_in_flight_than_the_bound(server: FaultServer) -> None:
    server.configure(latency_ms=5)
    ask(server.base_url, lambda: Pace(Bounds(1, 7), Stop()), 200)
    assert server.stats()["in_flight_max"] == 7


def test_no_fewer_are_in_flight_than_the_least(server: FaultServer) -> None:
    server.configure(shares={"429": 0.5}, latency_ms=10)
    pace = ask(server.base_url, lambda: Pace(Bounds(6, 64), Stop()), 200)
    assert min(point["level"] for point in pace.history()) == 6


def test_a_limit_a_second_is_kept_by_waiting_as_long_as_it_says(server: FaultServer) -> None:
    server.configure(requests_per_second=40, retry_after="0.5", latency_ms=100)
    pace = ask(server.base_url, lambda: Pace(Bounds(1, 64), Stop()), 120)
    assert pace.level.cuts > 0
    assert refused(server) < 120
    assert pace.waited_seconds > 0.5


def test_nothing_is_sent_while_the_headers_say_that_nothing_is_left(server: FaultServer) -> None:
    left = {
        "x-ratelimit-limit-requests": "9",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1s",
    }
    server.configure(headers=left)
    ask(server.base_url, lambda: Pace(Bounds(1, 2), Stop()), 6, workers=2)
    sent = moments(server)
    pauses = [after - before for before, after in pairwise(sent)]
    assert sum(pause > 0.9 for pause in pauses) == 2
    assert refused(server) == 0


# Who waits ------------------------------------------------------------------------------------------------------------


def in_a_loop(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await work

    asyncio.run(bounded())


async def entered(pace: Pace, count: int) -> list[asyncio.Task[Taken]]:
    tasks = [asyncio.create_task(pace.enter(REQUEST)) for _ in range(count)]
    await asyncio.sleep(0.01)
    return tasks


def test_who_came_first_goes_first() -> None:
    async def work() -> None:
        pace = Pace(Bounds(1, 1), Stop())
        tasks = await entered(pace, 4)
        for number, task in enumerate(tasks, start=1):
            assert [one.done() for one in tasks] == [n < number for n in range(4)]
            pace.leave(await task, FINE, None)
            await asyncio.sleep(0)

    in_a_loop(work())


def test_who_is_cancelled_while_waiting_holds_no_place() -> None:
    async def work() -> None:
        pace = Pace(Bounds(1, 1), Stop())
        first, second, third = await entered(pace, 3)
        second.cancel()
        pace.leave(await first, FINE, None)
        pace.leave(await third, FINE, None)
        assert pace.level.in_flight == 0

    in_a_loop(work())


def test_who_is_cancelled_just_when_it_is_its_turn_gives_its_place_back() -> None:
    async def work() -> None:
        pace = Pace(Bounds(1, 1), Stop())
        first, second, third = await entered(pace, 3)
        pace.leave(await first, FINE, None)  # the second's turn, of which it has not heard
        second.cancel()
        pace.leave(await third, FINE, None)
        assert pace.level.in_flight == 0

    in_a_loop(work())


def test_being_told_to_stop_wakes_all_who_wait() -> None:
    async def work() -> None:
        stop = Stop()
        pace = Pace(Bounds(1, 1), stop)
        first, *others = await entered(pace, 4)
        stop.ask()
        results = await asyncio.gather(*others, pace.enter(REQUEST), return_exceptions=True)
        assert [type(result) for result in results] == [Stopped] * 4
        pace.leave(await first, FINE, None)

    in_a_loop(work())


def test_where_nothing_more_can_succeed_nobody_goes_on_waiting_for_a_limit(landscape: Landscape) -> None:
    async def work() -> None:
        stop = Stop()
        async with Pace(Bounds(1, 10), stop, Limits(landscape, ACCOUNT, [Limit("requests", 1)])) as pace:
            first, second = await entered(pace, 2)
            pace.leave(await first, FINE, None)
            stop.close()
            with pytest.raises(Stopped):
                await second
            assert not stop.is_asked

    in_a_loop(work())


# Limits per minute ----------------------------------------------------------------------------------------------------


def shared(landscape: Landscape, *limits: Limit, most: int = 64) -> Callable[[], Pace]:
    return lambda: Pace(Bounds(1, most), Stop(), Limits(landscape, ACCOUNT, limits))


def assert_paced(sent: list[float], per_minute: int, late: float = 1) -> None:
    """Between any two requests there is time for those between them: so no minute sees more than the limit.

    The first of them may be `late` by so many seconds.
    """
    assert sent
    rate, burst = per_minute / 62, max(1.0, per_minute / 62)
    for first, start in enumerate(sent):
        for last in range(first, len(sent)):
            assert last - first + 1 <= burst + rate * (sent[last] - start + late) + 1e-6


def test_requests_a_minute_are_kept_and_used(landscape: Landscape, server: FaultServer) -> None:
    began = time.monotonic()
    pace = ask(server.base_url, shared(landscape, Limit("requests", 1800)), 90)
    took = time.monotonic() - began
    assert_paced(moments(server), 1800)
    assert 1.5 < took < 4.5
    assert pace.waited_seconds > 1


def test_a_limit_that_is_not_reached_holds_nobody_back_for_long(landscape: Landscape, server: FaultServer) -> None:
    server.configure(latency_ms=100)
    began = time.monotonic()
    pace = ask(server.base_url, shared(landscape, Limit("requests", 100_000), Limit("tokens", 100_000_000)), 400)
    assert time.monotonic() - began < 10
    assert pace.waited_seconds == 0


def test_tokens_a_minute_are_kept_by_estimate(landscape: Landscape, server: FaultServer) -> None:
    ask(server.base_url, shared(landscape, Limit("tokens", 62 * 400)), 20)  # each is reckoned to need some 70
    sent = moments(server)
    assert sent[-1] - sent[0] > 1.5


def test_who_waits_for_a_limit_holds_no_place(landscape: Landscape) -> None:
    async def work() -> None:
        async with shared(landscape, Limit("requests", 1))() as pace:
            first, *others = await entered(pace, 5)
            pace.leave(await first, FINE, None)
            await asyncio.sleep(0.3)
            assert pace.level.in_flight == 0
            for other in others:
                other.cancel()

    in_a_loop(work())


class Counted(Limits):
    """Limits that count the requests of each drawing, and note what is given back with it."""

    def __init__(self, landscape: Landscape, *limits: Limit) -> None:
        super().__init__(landscape, ACCOUNT, limits)
        self.drawings: list[int] = []
        self.given_back: list[list[int]] = []

    def draw(self, wanted: Sequence[Sequence[int]], back: Sequence[int]) -> Promised:
        promised = super().draw(wanted, back)
        self.drawings.append(len(promised.waits))
        self.given_back.append(list(back))
        return promised


def test_many_who_wait_are_served_by_few_transactions(landscape: Landscape, server: FaultServer) -> None:
    limits = Counted(landscape, Limit("requests", 30_000), Limit("tokens", 50_000_000))
    began = time.monotonic()
    ask(server.base_url, lambda: Pace(Bounds(1, 64), Stop(), limits), 600)
    assert len(limits.drawings) <= 10 * (time.monotonic() - began) + 2
    assert max(limits.drawings) > 5


def test_a_promise_that_could_not_be_used_in_time_is_drawn_anew(landscape: Landscape) -> None:
    async def work() -> None:
        limits = Counted(landscape, Limit("requests", 620))
        async with Pace(Bounds(1, 20), Stop(), limits) as pace:
            tasks = await entered(pace, 18)
            await asyncio.sleep(0.3)
            assert sum(limits.drawings) == 18
            wait = Exchange(429, b"", {"retry-after": "2"}, ErrorClass.RATE_LIMITED)
            pace.leave(await tasks[0], wait, None)
            await asyncio.sleep(1.5)
            gone = [task for task in tasks if task.done()]
            assert len(gone) < 18
            for task in gone[1:]:
                pace.leave(await task, FINE, None)
            await asyncio.gather(*tasks)
            assert sum(limits.drawings) == 18 + (18 - len(gone))

    in_a_loop(work())


def reply(prompt_tokens: int | None, completion_tokens: int | None) -> Reply:
    [found] = [fact for fact in a_run("r1") if isinstance(fact, Reply)][:1]
    return found._replace(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)


@pytest.mark.parametrize(
    ("reported", "back", "next_estimate"),
    [((60, 30), 60, 90), ((200, 130), -180, 330), ((None, 30), 0, 150), ((60, None), 0, 150), ((10**12, 9), 0, 150)],
)
def test_what_a_reply_reports_is_settled_and_learnt_from(
    landscape: Landscape, reported: tuple[int | None, int | None], back: int, next_estimate: int
) -> None:
    async def work() -> None:
        limits = Counted(landscape, Limit("tokens", 1_000_000))
        async with Pace(Bounds(1, 20), Stop(), limits) as pace:
            taken = await pace.enter(REQUEST)
            assert taken.tokens == 150  # a quarter of its 400 bytes, and the 50 that can come
            pace.leave(taken, FINE, reply(*reported))
            again = await pace.enter(REQUEST)
            assert again.tokens == next_estimate
            pace.leave(again, FINE, None)
        assert limits.given_back[:2] == [[0], [back]]

    in_a_loop(work())


def test_a_database_that_is_away_is_not_the_providers_fault(sqlite_url: str) -> None:
    async def work() -> None:
        landscape = Landscape(Database.open(sqlite_url, patience=0.2))
        with landscape.operate(lambda connection: connection.engine).connect() as other:
            other.execution_options(landscape_write=True).begin()
            async with shared(landscape, Limit("requests", 1000))() as pace:
                for _ in range(2):
                    with pytest.raises(LandscapeError, match="limits per minute") as raised:
                        await pace.enter(REQUEST)
                    assert type(raised.value) is LandscapeError
        landscape.close()

    in_a_loop(work())


# Several processes ----------------------------------------------------------------------------------------------------


def started(count: int, *what: object) -> list[SpawnProcess]:
    processes = [get_context("spawn").Process(target=ask_within, args=what) for _ in range(count)]
    for process in processes:
        process.start()
    return processes


def moments(server: FaultServer) -> list[float]:
    return sorted(request["at"] for request in server.stats()["requests"])


def test_processes_stay_within_one_limit_by_the_servers_own_log(database_url: str, server: FaultServer) -> None:
    for process in started(3, database_url, server.base_url, 1800, 34):
        process.join(timeout=60)
        assert process.exitcode == 0
    sent = moments(server)
    assert len(sent) == 102
    assert_paced(sent, 1800)
    assert sent[-1] - sent[0] < 3 * 102 / (1800 / 60)


def test_a_process_that_is_killed_holds_nothing(database_url: str, server: FaultServer) -> None:
    killed, other = started(2, database_url, server.base_url, 1200, 60)
    while server.stats()["received"] < 20:
        time.sleep(0.05)
    assert killed.pid
    os.kill(killed.pid, signal.SIGKILL)
    other.join(timeout=30)
    assert other.exitcode == 0
    assert_paced(moments(server), 1200)


def test_whatever_goes_wrong_with_a_limit_who_waits_learns_it(sqlite_url: str) -> None:
    def broken() -> int:
        raise OSError("no such clock")

    async def work() -> None:
        with Landscape.open(sqlite_url) as landscape:
            async with Pace(Bounds(1, 20), Stop(), Limits(landscape, ACCOUNT, [Limit("requests", 10)], broken)) as pace:
                with pytest.raises(LandscapeError, match="limits per minute can't be shared: no such clock"):
                    await pace.enter(REQUEST)

    in_a_loop(work())


# One step after another -----------------------------------------------------------------------------------------------


def test_the_next_shard_of_a_process_goes_on_where_the_last_one_came_to(
    landscape: Landscape, server: FaultServer
) -> None:
    server.configure(max_in_flight=5, latency_ms=10)
    first = ask(server.base_url, lambda: pace_of(landscape, ACCOUNT, Bounds(1, 64), Stop()), 300)
    refused_first = refused(server)
    second = ask(server.base_url, lambda: pace_of(landscape, ACCOUNT, Bounds(1, 64), Stop()), 300)
    assert second.history()[0]["level"] == first.level.current
    assert refused(server) - refused_first < refused_first
    other = pace_of(landscape, ACCOUNT._replace(model="other"), Bounds(1, 64), Stop())
    assert other.level.current == 20


def test_an_account_is_an_address_and_a_credential_by_its_fingerprint() -> None:
    async def account(key: str, **settings: str) -> str:
        async with Wire(ProviderSettings("openai", api_key=key, base_url="http://x/v1", **settings), "m") as wire:
            return wire.head.account

    one, other = asyncio.run(account("sk-canary-1")), asyncio.run(account("sk-canary-2"))
    assert one != other == asyncio.run(account("sk-canary-2"))
    assert other != asyncio.run(account("sk-canary-2", organization="org-1"))
    assert "canary" not in str(one)
    assert one.startswith("http://x/v1/chat/completions ")


def test_what_a_state_keeps_is_short_and_in_whole_numbers() -> None:
    pace = Pace(Bounds(1, 64), Stop())
    for number in range(60):
        pace.level._note(float(number), "grown")
    told = pace.told()
    assert len(json.dumps(told)) < 1000
    assert isinstance(told["history"], list) and len(told["history"]) <= 20
    assert all(isinstance(told[name], int) for name in ("max", "final", "throttled", "waited_ms"))


def test_the_progress_line_tells_the_level_once_it_was_cut() -> None:
    async def work() -> None:
        pace = Pace(Bounds(1, 64), Stop())
        assert "at a time" not in progress_line(Counts(), pace)
        refusal = Exchange(429, b"", {"retry-after": "1.2"}, ErrorClass.RATE_LIMITED)
        pace.leave(await pace.enter(REQUEST), refusal, None)
        assert progress_line(Counts(), pace).endswith(", 14 requests at a time (cut: 1)")
        pace.leave(await pace.enter(REQUEST), FINE, None)
        assert progress_line(Counts(), pace).endswith(", 14 requests at a time (cut: 1, held back for 1 s)")

    in_a_loop(work())
