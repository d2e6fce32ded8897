"""A budget as a gate: no call goes through that could exceed it, whatever other processes of the run spend meanwhile.

    enter ─► is the most that it can cost free of what we were granted? ─► reserved ─► leave: the rest comes back
                └─► no: be granted more ─► wait for what is in flight ─► give back, wait for other steps ─► BudgetError

What a call cost is mostly far below the most it can cost, so near its end a budget is spent with less and less in
flight. A grant is asked of the database for many calls at once; most calls pass without it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from elspeth_dagster.core.errors import BudgetError, LandscapeError
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.core.pooling import prices
from elspeth_dagster.core.spec import AssessmentSpec, BudgetSpec, EndpointSpec
from elspeth_dagster.landscape import budgets
from elspeth_dagster.landscape.budgets import Share, Spent
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Reply
from elspeth_dagster.landscape.states import Execution
from elspeth_dagster.llm.prices import NANO, bound_nanousd, listing_of
from elspeth_dagster.stages.calling import Exchange
from elspeth_dagster.stages.charging import charge
from elspeth_dagster.stages.querying import Request
from elspeth_dagster.stopping import Stop, Stopped

CALLS_AT_ONCE = 256
TICK_SECONDS = 0.5
BEAT_SECONDS = 5.0
GONE_SECONDS = 20.0
UNLIMITED = 2**60
NOTHING = Spent(0, 0)


@asynccontextmanager
async def budget_of(
    landscape: Landscape,
    spec: AssessmentSpec,
    provider: str,
    execution: Execution,
    stop: Stop,
    endpoints: Sequence[EndpointSpec] = (),
) -> AsyncIterator[list[Budget]]:
    """The assessment's budget as a gate, if it has one, for as long as its calls are made.

    Raises BudgetError when what earlier runs spent can't be told.
    """
    if spec.budget is None:
        yield []
        return
    budget = await asyncio.to_thread(Budget, landscape, spec, spec.budget, provider, execution, stop, endpoints)
    beating = asyncio.create_task(budget.beat())
    try:
        yield [budget]
    finally:
        beating.cancel()
        await asyncio.to_thread(budget.settle)


class Budget:
    """What this step may spend. Belongs to one event loop."""

    def __init__(
        self,
        landscape: Landscape,
        spec: AssessmentSpec,
        budget: BudgetSpec,
        provider: str,
        execution: Execution,
        stop: Stop,
        endpoints: Sequence[EndpointSpec] = (),
    ) -> None:
        self._landscape = landscape
        self._budget = budget
        self._provider = provider
        self._model = spec.llm.model_name
        self._prices = {listing_of(price) for price, _ in prices(endpoints, spec.llm.price)}
        self._execution = execution
        self._stop = stop
        self._holder = new_id()
        spent = budgets.begin(landscape, execution, self._holder)
        with landscape.read() as connection:
            self._before = budgets.spent_before(connection, execution.run_id, execution.node_id)
        self._check_told(self._before.unbounded + spent.unbounded)
        self._granted = self._spent = Spent(spent.nanousd, spent.calls)
        self._reserved, self._is_holding = NOTHING, False
        self._settled = asyncio.Event()
        self._drawing = asyncio.Lock()
        self._dry_until = 0.0
        self._over: BudgetError | None = None
        self._heard: dict[str, tuple[int, float]] = {}

    async def enter(self, request: Request) -> int:
        """Reserve the most that the call can cost. Raises BudgetError when the budget can't cover it."""
        bound = self._bound(request)
        while not self._can(bound):
            await self._make_room(bound)
        self._reserved = Spent(self._reserved.nanousd + bound, self._reserved.calls + 1)
        return bound

    def leave(self, taken: int, exchange: Exchange | None, reply: Reply | None) -> None:
        """Spend what the call cost; the rest of its reservation is free again."""
        cost = charge(taken, reply and reply.cost_nanousd, exchange)
        self._reserved = Spent(self._reserved.nanousd - taken, self._reserved.calls - 1)
        self._spent = Spent(self._spent.nanousd + cost, self._spent.calls + 1)
        self._settled.set()

    async def beat(self) -> None:
        """Tell the other steps, until cancelled, that this one is at work."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            with suppress(LandscapeError):  # whoever records a call will say so
                await asyncio.to_thread(budgets.beat, self._landscape, self._execution, self._holder)

    def settle(self) -> None:
        """Give back what was not spent, by the record. (Where this fails, the next attempt or run does it.)"""
        with suppress(LandscapeError):
            budgets.settle(self._landscape, self._execution, self._holder)

    def _bound(self, request: Request) -> int:
        if self._budget.max_cost_usd is None:
            return 0
        asked = self._provider, self._model, len(request.body), request.max_tokens
        bounds = [bound_nanousd(*asked, price) for price in self._prices]  # it may go to the dearest endpoint
        known = [bound for bound in bounds if bound is not None]
        if len(known) < len(bounds):
            raise BudgetError(
                f"budget.max_cost_usd can't be kept: {self._provider} knows no price of {self._model!r}, or a reply "
                "can be of any length. Give `llm.price` and `llm.max_tokens`, or budget by `max_calls`."
            )
        return max(known)

    def _can(self, bound: int) -> bool:
        return self._lacking(bound) == NOTHING

    def _lacking(self, bound: int) -> Spent:
        """What was not granted yet and is needed for one more call."""
        granted, spent, reserved = self._granted, self._spent, self._reserved
        nanousd = spent.nanousd + reserved.nanousd + bound - granted.nanousd
        calls = spent.calls + reserved.calls + 1 - granted.calls
        return Spent(
            0 if self._budget.max_cost_usd is None or nanousd < 0 else nanousd,
            0 if self._budget.max_calls is None or calls < 0 else calls,
        )

    async def _make_room(self, bound: int) -> None:
        """Be granted more, or wait until something may have changed. One at a time."""
        async with self._drawing:
            if self._over is not None:
                raise self._over
            if self._stop.is_closed:
                raise Stopped
            if self._can(bound):
                return
            if time.monotonic() >= self._dry_until:
                await self._draw(bound)
            else:
                await self._wait()

    async def _draw(self, bound: int) -> None:
        in_flight = self._reserved.calls > 0
        if not in_flight and self._is_holding:
            self._granted, self._is_holding = self._spent, False
            await asyncio.to_thread(budgets.give_back, self._landscape, self._execution, self._holder, self._spent)
        share = await asyncio.to_thread(self._drawn, bound)
        self._granted = share.granted
        if self._can(bound):
            self._is_holding = True
            return
        self._dry_until = time.monotonic() + TICK_SECONDS
        if not in_flight and not self._are_at_work(share.others):
            self._over = self._exceeded(bound, share.committed)
            raise self._over

    def _drawn(self, bound: int) -> Share:
        wanted = Spent(CALLS_AT_ONCE * bound, CALLS_AT_ONCE)
        return budgets.draw(
            self._landscape,
            self._execution,
            self._holder,
            granted=self._granted,
            wanted=wanted,
            needed=self._lacking(bound),
            left=self._left,
        )

    @property
    def _left(self) -> Spent:
        """The budget without what earlier runs of the lineage spent."""
        usd, calls = self._budget.max_cost_usd, self._budget.max_calls
        return Spent(
            UNLIMITED if usd is None else round(usd * NANO) - self._before.nanousd,
            UNLIMITED if calls is None else calls - self._before.calls,
        )

    async def _wait(self) -> None:
        self._settled.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(TICK_SECONDS):
                await self._settled.wait()

    def _are_at_work(self, others: dict[str, int]) -> bool:
        """Whether another step that holds a part of the budget still lives, and may give some of it back."""
        now = time.monotonic()
        for step, beats in others.items():
            if self._heard.get(step, (None, now))[0] != beats:
                self._heard[step] = (beats, now)
        return any(now - self._heard[step][1] < GONE_SECONDS for step in others)

    def _exceeded(self, bound: int, committed: Spent) -> BudgetError:
        spent = Spent(committed.nanousd + self._before.nanousd, committed.calls + self._before.calls)
        usd, calls = self._budget.max_cost_usd, self._budget.max_calls
        told, keys = [], []
        if usd is not None and self._left.nanousd - committed.nanousd < bound:
            told.append(f"${spent.nanousd / NANO:.6f} of ${usd:g}, and the next call can cost ${bound / NANO:.6f}")
            keys.append("budget.max_cost_usd")
        if calls is not None and self._left.calls - committed.calls < 1:
            told.append(f"{spent.calls} of {calls} calls")
            keys.append("budget.max_calls")
        what = " and ".join(told) or f"${spent.nanousd / NANO:.6f} and {spent.calls} calls"
        return BudgetError(
            f"The budget is spent: {what}. Raise {' or '.join(keys) or 'budget'} and launch again: "
            "what is answered is not asked again."
        )

    def _check_told(self, unbounded: int) -> None:
        if unbounded and self._budget.max_cost_usd is not None:
            raise BudgetError(
                f"budget.max_cost_usd can't be kept: what {unbounded} calls of this lineage cost is not known, nor the "
                "most that it can have been. Launch with `reuse: none` to begin anew, or budget by `max_calls`."
            )
