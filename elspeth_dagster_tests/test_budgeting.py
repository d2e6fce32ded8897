"""The budget as a gate: what it lets through can never cost more than there is, and it waits before it stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from elspeth_dagster import budgeting
from elspeth_dagster.budgeting import Budget
from elspeth_dagster.core.errors import BudgetError
from elspeth_dagster.core.spec import EndpointList
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Reply
from elspeth_dagster.landscape.states import Execution
from elspeth_dagster.stages.calling import Exchange
from elspeth_dagster.stages.querying import Request
from elspeth_dagster.stopping import Stop, Stopped
from elspeth_dagster_tests.landscape.sample import a_run, a_running_run, only
from elspeth_dagster_tests.stages.declared import spec

STEP = Execution("r1", "r1-ask", "new step", 0, "host", 7)
OTHER = STEP._replace(step_key="other step")
DOLLAR = 10**9
NAME = "sha256:" + "00" * 32
SIX = Request(b"", NAME, NAME, 6)
"""A call that can cost six dollars: six completion tokens of a dollar each."""
CAME = Exchange(200, b"")


@pytest.fixture
def landscape(landscape: Landscape) -> Landscape:
    landscape.write(*a_running_run("r1"))
    return landscape


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits looks ten times a second, so that a test need not wait long to see it wait."""
    monkeypatch.setattr(budgeting, "TICK_SECONDS", 0.1)


def a_budget(landscape: Landscape, step: Execution = STEP, stop: Stop | None = None, **budget: float) -> Budget:
    declared = spec({"llm.price": {"input_mtok": 0, "output_mtok": 1e6}, "budget": budget})
    assert declared.budget is not None
    return Budget(landscape, declared, declared.budget, "openai", step, stop or Stop())


def test_with_several_endpoints_the_dearest_that_a_call_can_go_to_is_reserved(landscape: Landscape) -> None:
    declared = spec({"llm.price": {"input_mtok": 0, "output_mtok": 1e6}, "budget": {"max_cost_usd": 100}})
    prices = [None, {"input_mtok": 0, "output_mtok": 2e6}, {"input_mtok": 0, "output_mtok": 5e5}]
    endpoints = EndpointList.model_validate([{"name": f"e{n}", "price": one} for n, one in enumerate(prices)]).root
    assert declared.budget is not None

    async def test() -> None:
        budget = Budget(landscape, declared, declared.budget, "openai", STEP, Stop(), endpoints)  # type: ignore[arg-type]
        assert await budget.enter(SIX) == 12 * DOLLAR

    run(test)


def reply_for(dollars: int) -> Reply:
    return only(Reply, a_run("r1"))._replace(cost_nanousd=dollars * DOLLAR)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


async def is_waiting(task: asyncio.Task[int]) -> bool:
    done, _ = await asyncio.wait([task], timeout=0.4)
    return not done


def test_a_call_waits_for_what_is_in_flight_and_goes_when_that_cost_less(landscape: Landscape) -> None:
    async def test() -> None:
        budget = a_budget(landscape, max_cost_usd=10)
        first = await budget.enter(SIX)
        second = asyncio.create_task(budget.enter(SIX))
        assert await is_waiting(second)
        budget.leave(first, CAME, reply_for(1))
        assert await second == 6 * DOLLAR

    run(test)


@pytest.mark.parametrize("came", [(CAME, reply_for(5)), (None, None), (Exchange(200, b""), None)])
def test_it_stops_when_what_was_in_flight_cost_too_much_or_may_have(
    landscape: Landscape, came: tuple[Exchange | None, Reply | None]
) -> None:
    async def test() -> None:
        budget = a_budget(landscape, max_cost_usd=10)
        first = await budget.enter(SIX)
        others = [asyncio.create_task(budget.enter(SIX)) for _ in range(3)]
        assert await is_waiting(others[0])
        budget.leave(first, *came)
        for other in others:
            with pytest.raises(BudgetError, match=r"\$[56]\.000000 of \$10, and the next call can cost \$6\.000000"):
                await other

    run(test)


def test_what_fails_unpaid_costs_nothing(landscape: Landscape) -> None:
    async def test() -> None:
        budget = a_budget(landscape, max_cost_usd=10)
        for _ in range(20):
            budget.leave(await budget.enter(SIX), Exchange(500, b""), reply_for(0)._replace(cost_nanousd=None))

    run(test)


def test_a_step_waits_for_another_that_holds_the_rest(landscape: Landscape) -> None:
    async def test() -> None:
        one, two = a_budget(landscape, max_cost_usd=10), a_budget(landscape, OTHER, max_cost_usd=10)
        first = await one.enter(SIX)
        waiting = asyncio.create_task(two.enter(SIX))
        assert await is_waiting(waiting)
        one.leave(first, Exchange(500, b""), None)
        await asyncio.to_thread(one.settle)
        assert await waiting == 6 * DOLLAR

    run(test)


def test_a_step_does_not_wait_for_one_that_is_gone(landscape: Landscape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgeting, "GONE_SECONDS", 1.5)
    monkeypatch.setattr(budgeting, "BEAT_SECONDS", 0.2)

    async def test() -> None:
        alive, waiting = a_budget(landscape, max_cost_usd=10), a_budget(landscape, OTHER, max_cost_usd=10)
        beating = asyncio.create_task(alive.beat())
        await alive.enter(SIX)
        second = asyncio.create_task(waiting.enter(SIX))
        done, _ = await asyncio.wait([second], timeout=2.5)
        assert not done
        beating.cancel()
        with pytest.raises(BudgetError):
            await second

    run(test)


def test_who_waits_is_let_go_when_the_step_is_told_to_stop(landscape: Landscape) -> None:
    async def test() -> None:
        stop = Stop()
        budget = a_budget(landscape, stop=stop, max_cost_usd=10)
        await budget.enter(SIX)
        second = asyncio.create_task(budget.enter(SIX))
        assert await is_waiting(second)
        stop.ask()
        with pytest.raises(Stopped):
            await second

    run(test)


def test_a_call_whose_most_nobody_knows_is_refused(landscape: Landscape) -> None:
    async def test() -> None:
        with pytest.raises(BudgetError, match=r"budget\.max_cost_usd can't be kept"):
            await a_budget(landscape, max_cost_usd=10).enter(Request(b"", NAME, NAME, None))

    run(test)


def test_calls_alone_need_no_price(landscape: Landscape) -> None:
    async def test() -> None:
        budget = a_budget(landscape, max_calls=2)
        unlimited = Request(b"", NAME, NAME, None)
        for _ in range(2):
            budget.leave(await budget.enter(unlimited), CAME, reply_for(100))
        with pytest.raises(BudgetError, match=r"2 of 2 calls\. Raise budget\.max_calls"):
            await budget.enter(unlimited)

    run(test)


def test_most_calls_pass_without_the_database(landscape: Landscape) -> None:
    """A pass costs some microseconds; a transaction would take a hundred times as long."""

    async def test() -> None:
        budget = a_budget(landscape, max_cost_usd=1e6, max_calls=10**6)
        budget.leave(await budget.enter(SIX), CAME, reply_for(1))
        draws, drawn = 0, budget._draw

        async def counted(bound: int) -> None:
            nonlocal draws
            draws += 1
            await drawn(bound)

        budget._draw = counted  # type: ignore[method-assign]
        began = time.perf_counter()
        for _ in range(1000):
            budget.leave(await budget.enter(SIX), CAME, reply_for(1))
        assert draws <= 1000 / budgeting.CALLS_AT_ONCE + 1
        assert (time.perf_counter() - began) / 1000 < 0.005

    run(test)
