"""Who waits at the breaker can be cancelled, also at the moment in which it is let through."""

from __future__ import annotations

import asyncio

import pytest

from elspeth_dagster.breaking import Breaker
from elspeth_dagster.stages.calling import Exchange
from elspeth_dagster.stages.querying import Request
from elspeth_dagster.stopping import Stop

REQUEST = Request(b"{}", "sha256:1", "sha256:1", 1)


@pytest.mark.parametrize("turns", range(4))
def test_a_cancellation_is_never_lost(turns: int) -> None:
    async def cancel_when_let_through() -> bool:
        breaker = Breaker("openai", 10, Stop())
        taken = [await breaker.enter(REQUEST) for _ in range(4)]
        waiting = asyncio.create_task(breaker.enter(REQUEST))
        await asyncio.sleep(0.01)
        breaker.leave(taken[0], Exchange(200, b""), None)
        for _ in range(turns):
            await asyncio.sleep(0)
        was_done = waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
        return waiting.cancelled() or was_done

    assert asyncio.run(cancel_when_let_through())
