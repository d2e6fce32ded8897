"""Several endpoints are asked as one: by real servers of which some misbehave, each gets what it bears."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import pytest

from elspeth_dagster.breaking import Breaker
from elspeth_dagster.calling import Inquiry
from elspeth_dagster.core.errors import ProviderError
from elspeth_dagster.landscape.batches import Member
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.limits import Account, Limit, Limits
from elspeth_dagster.llm.providers import ProviderSettings
from elspeth_dagster.llm.wire import Wire
from elspeth_dagster.pacing import Bounds, Pace
from elspeth_dagster.pooling import Endpoint, Paces, Pool
from elspeth_dagster.stages.calling import Exchange
from elspeth_dagster.stages.querying import Request
from elspeth_dagster.stopping import Stop, Stopped
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.test_pacing import assert_paced, moments

Send = Callable[[int], Awaitable[Exchange]]
NOWHERE = "http://127.0.0.1:1/v1"


@pytest.fixture(scope="module")
def three_servers() -> Iterator[list[FaultServer]]:
    with FaultServer(record=True) as one, FaultServer(record=True) as two, FaultServer(record=True) as three:
        yield [one, two, three]


@pytest.fixture
def servers(three_servers: list[FaultServer]) -> list[FaultServer]:
    for server in three_servers:
        server.configure(record=True)
        server.reset()
    return three_servers


def received(servers: Sequence[FaultServer]) -> list[int]:
    return [int(server.stats()["received"]) for server in servers]


@asynccontextmanager
async def sending(
    addresses: Sequence[str], limits: Sequence[Limits | None] = (), most: int = 16, stop: Stop | None = None
) -> AsyncIterator[tuple[Pool, Send]]:
    """Send a row's question through the pool until it is answered."""
    stop = stop or Stop()
    async with AsyncExitStack() as stack:
        wires, endpoints = [], []
        for place, address in enumerate(addresses):
            settings = ProviderSettings("openai", api_key="k", base_url=address)
            wires.append(await stack.enter_async_context(Wire(settings, "m")))
            limited = limits[place] if limits else None
            pace = await stack.enter_async_context(Pace(Bounds(1, most), stop, limited))
            breaker = Breaker("openai", 3, stop, is_one_of_several=True)
            endpoints.append(Endpoint(f"endpoint{place}", 1.0, breaker, pace, cast("Any", None)))
        pool = Pool("openai", endpoints, stop)
        stack.callback(pool.close)

        async def send(number: int) -> Exchange:
            body = f'{{"model": "m", "messages": [{{"role": "user", "content": "Question {number}?"}}]}}'.encode()
            inquiry = Inquiry(cast("Any", None), Member(0, "t", f"R{number}", {}), cast("Any", None), 0)
            while True:
                seat, exchange = await pool.seat(inquiry, Request(body, "r", f"sha256:{number}", 50)), None
                try:
                    exchange = await wires[seat.place].send(body, str(number), str(number))
                finally:
                    pool.leave(seat, exchange, None)
                if exchange.error is None:
                    return exchange
                await asyncio.sleep(0.05)

        yield pool, send


async def ask(send: Send, numbers: Sequence[int], workers: int = 48) -> None:
    waiting = iter(numbers)

    async def some() -> None:
        for number in waiting:
            await send(number)

    await asyncio.gather(*(some() for _ in range(workers)))


def its_rows(pool: Pool) -> list[int]:
    """Some rows of the first endpoint's that were not asked about yet."""
    return [number for number in range(300, 1300) if pool._ranked(f"R{number}")[0] == 0][:5]


async def seconds(send: Send, numbers: Sequence[int]) -> float:
    """How long the quickest of some questions takes, asked one by one."""
    took = []
    for number in numbers:
        began = time.monotonic()
        await send(number)
        took.append(time.monotonic() - began)
    return min(took)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(60):
            await work()

    asyncio.run(within())


def test_while_all_are_well_a_row_is_asked_at_one_endpoint_only(servers: list[FaultServer]) -> None:
    async def work() -> None:
        async with sending([server.base_url for server in servers]) as (_, send):
            await ask(send, [number % 60 for number in range(300)], workers=12)

    run(work)
    asked = [set(server.stats()["tries"]) for server in servers]
    assert all(asked) and sum(map(len, asked)) == len(set.union(*asked)) == 60


def test_an_endpoint_that_only_refuses_holds_nobody_up(servers: list[FaultServer]) -> None:
    servers[0].configure(shares={"429": 1}, retry_after="30", record=True)

    async def work() -> None:
        async with sending([server.base_url for server in servers]) as (pool, send):
            await ask(send, range(300))
            assert await seconds(send, its_rows(pool)) < 0.5  # at once, and not for want of patience

    began = time.monotonic()
    run(work)
    assert time.monotonic() - began < 15
    assert servers[0].stats()["received"] <= 16
    assert [server.stats()["paid_extra"] for server in servers[1:]] == [0, 0]
    assert sum(received(servers[1:])) == 305


def test_the_only_one_that_lives_is_waited_for_as_long_as_it_asks(servers: list[FaultServer]) -> None:
    servers[0].configure(first_tries={"status": 429, "times": 1, "retry_after": "2"}, record=True)

    async def work() -> None:
        async with sending([servers[0].base_url, NOWHERE]) as (_, send):
            await ask(send, range(3), workers=3)

    run(work)
    assert servers[0].stats()["paid"] == 3
    first, last = moments(servers[0])[0], moments(servers[0])[-1]
    assert 2 <= last - first < 5


def test_an_endpoint_that_is_not_there_costs_a_handful_of_tries(servers: list[FaultServer]) -> None:
    tried: list[int] = []

    async def work() -> None:
        async with sending([NOWHERE, servers[1].base_url, servers[2].base_url]) as (pool, send):
            await ask(send, range(200))
            assert await seconds(send, its_rows(pool)) < 0.5
            tried.append(pool.endpoints[0].breaker._health.failures.total())

    run(work)
    assert 1 <= tried[0] <= 8
    assert sum(received(servers[1:])) == 205


def test_a_slow_endpoint_does_not_hold_the_others_back(servers: list[FaultServer]) -> None:
    servers[0].configure(latency_ms=1500, record=True)

    async def work() -> None:
        async with sending([server.base_url for server in servers], most=4) as (_, send):
            await ask(send, range(180))

    began = time.monotonic()
    run(work)
    # Sixty rows are its own: four at a time they would take it 22 seconds.
    assert time.monotonic() - began < 12
    assert 4 <= servers[0].stats()["received"] < 40


def test_one_that_comes_back_gets_its_rows_back(servers: list[FaultServer]) -> None:
    servers[0].configure(shares={"503": 1}, record=True)

    async def work() -> None:
        async with sending([server.base_url for server in servers]) as (pool, send):
            await ask(send, range(150))
            assert pool.endpoints[0].breaker.is_shut and servers[0].stats()["received"] < 40
            servers[0].configure(record=True)
            servers[0].reset()
            began = time.monotonic()
            while pool.endpoints[0].breaker.is_shut and time.monotonic() - began < 10:
                await ask(send, range(150, 200), workers=4)
            for server in servers:
                server.reset()
            await ask(send, range(300, 600), workers=12)

    run(work)
    assert 60 <= servers[0].stats()["received"] <= 140


def test_each_endpoints_limit_a_minute_is_kept_and_what_it_can_not_bear_goes_to_others(
    servers: list[FaultServer], landscape: Landscape
) -> None:
    per_minute = [300, 1200, 2400]
    limits = [
        Limits(landscape, Account("openai", f"account{place}", "m"), [Limit("requests", number)])
        for place, number in enumerate(per_minute)
    ]

    async def work() -> None:
        async with sending([server.base_url for server in servers], limits) as (pool, send):
            await ask(send, range(150))
            assert pool.endpoints[0].pace.waited_seconds > 1 > Paces(pool.endpoints).waited_seconds

    began = time.monotonic()
    run(work)
    took = time.monotonic() - began
    for server, number in zip(servers, per_minute, strict=True):
        assert_paced(moments(server), number)
    assert sum(received(servers)) == 150
    assert took < 7  # by a third of the rows alone, the first would take 10 seconds


def test_where_all_are_dead_each_is_sent_few_requests_and_all_are_told(servers: list[FaultServer]) -> None:
    servers[0].configure(shares={"401": 1}, record=True)
    servers[1].configure(shares={"500": 1}, record=True)

    async def work() -> None:
        async with sending([servers[0].base_url, servers[1].base_url, NOWHERE]) as (_, send):
            with pytest.raises(ProviderError) as raised:
                await ask(send, range(200))
            told = str(raised.value)
            assert told.startswith("None of the 3 endpoints of openai can be used: endpoint0 (authentication: HTTP 401")
            assert "endpoint1 (server: HTTP 500" in told and "endpoint2 (unreachable: " in told

    run(work)
    assert received(servers)[0] <= 4 and received(servers)[1] <= 20


def test_being_told_to_stop_wakes_all_who_wait_at_any_endpoint(servers: list[FaultServer]) -> None:
    for server in servers:
        server.configure(latency_ms=300, record=True)

    async def work() -> None:
        stop = Stop()
        async with sending([server.base_url for server in servers], most=1, stop=stop) as (_, send):
            asked = [asyncio.create_task(send(number)) for number in range(30)]
            await asyncio.sleep(0.1)
            stop.ask()
            came = await asyncio.gather(*asked, return_exceptions=True)
            assert sum(isinstance(one, Stopped) for one in came) >= 27

    run(work)


def test_who_is_cancelled_while_waiting_holds_nothing(servers: list[FaultServer]) -> None:
    async def work() -> None:
        async with sending([server.base_url for server in servers], most=1) as (pool, send):
            for _ in range(4):
                asked = [asyncio.create_task(send(number)) for number in range(30)]
                await asyncio.sleep(0.003)
                for one in asked:
                    one.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
            assert [endpoint.pace.level.in_flight for endpoint in pool.endpoints] == [0, 0, 0]
            assert [endpoint.breaker._in_flight for endpoint in pool.endpoints] == [0, 0, 0]

    run(work)
