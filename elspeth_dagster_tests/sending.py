"""Questions sent through the gate to a real server, by this process or by others of the tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.limits import Account, Limit, Limits
from elspeth_dagster.llm.providers import ProviderSettings
from elspeth_dagster.llm.wire import Wire
from elspeth_dagster.pacing import Bounds, Pace
from elspeth_dagster.stages.calling import Exchange
from elspeth_dagster.stages.querying import Request
from elspeth_dagster.stopping import Stop

ACCOUNT = Account("openai", "http://x", "m")
Send = Callable[[int], Awaitable[Exchange]]


@asynccontextmanager
async def sending(base_url: str, pace: Pace) -> AsyncIterator[Send]:
    """Send a question through the gate until it is not refused."""
    async with Wire(ProviderSettings("openai", api_key="k", base_url=base_url), "m") as wire, pace:

        async def send(number: int) -> Exchange:
            body = json.dumps({"model": "m", "messages": [{"role": "user", "content": f"Question {number}?"}]})
            request = Request(body.encode(), "sha256:0", "sha256:0", 50)
            while True:
                taken, exchange = await pace.enter(request), None
                try:
                    exchange = await wire.send(request.body, str(number), str(number))
                finally:
                    pace.leave(taken, exchange, None)
                if exchange.error is None:
                    return exchange
                await asyncio.sleep(0.02)

        yield send


def ask(base_url: str, pace_of_loop: Callable[[], Pace], questions: int, workers: int = 64) -> Pace:
    """Send so many questions, some at a time; the pace it came to."""

    async def work() -> Pace:
        pace, numbers = pace_of_loop(), iter(range(questions))
        async with sending(base_url, pace) as send:

            async def some() -> None:
                for number in numbers:
                    await send(number)

            await asyncio.gather(*(some() for _ in range(workers)))
        return pace

    return asyncio.run(work())


def ask_within(url: str, base_url: str, requests_per_minute: int, questions: int) -> None:
    """What one of several processes does: send within the limit that they share."""
    with Landscape.open(url) as landscape:
        limits = Limits(landscape, ACCOUNT, [Limit("requests", requests_per_minute)])
        ask(base_url, lambda: Pace(Bounds(1, 64), Stop(), limits), questions)
