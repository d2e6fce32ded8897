"""Several endpoints of one model, asked as one: who is asked next, and when all are to be given up.

    call ─► failures, budget ─► an endpoint (`stages.distributing`) ─► its breaker ─► its pace ─► its wire
                                    ▲                                                     │
                                    └── sent away: it is in trouble, or others have room ◄┘

Each endpoint has its own breaker, pace, limits, connections and price, so that trouble at one holds nobody up who can
be asked elsewhere. One that fails is probed later and later by one of its own rows at a time, and gets its rows back
when it answers. Only where none is left to wait for is the step given up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from elspeth_dagster.breaking import Breaker, Passage
from elspeth_dagster.calling import Caller, Gate, Inquiry
from elspeth_dagster.core.errors import ProviderError
from elspeth_dagster.landscape.records import Reply
from elspeth_dagster.pacing import Elsewhere, Pace, Taken
from elspeth_dagster.stages.calling import Exchange
from elspeth_dagster.stages.distributing import PATIENCE_SECONDS, Standing, choose, ranking
from elspeth_dagster.stages.querying import Request
from elspeth_dagster.stopping import Stop, Stopped

TICK_SECONDS = 0.25
REMEMBERED_ROWS = 4096
TRIES_AN_ENDPOINT = 2  # after which a question's own time counts, although it was not tried everywhere


@dataclass(frozen=True, eq=False)
class Endpoint:
    """One of several endpoints, as a step asks it."""

    name: str
    weight: float
    breaker: Breaker
    pace: Pace
    caller: Caller

    def is_well(self, now: float) -> bool:
        """Whether it answers, or is to be probed, and has not asked to wait for longer than one is patient."""
        return not self.breaker.is_down and self.pace.level.held_until - now <= PATIENCE_SECONDS

    def standing(self, now: float) -> Standing:
        """How it is."""
        return Standing(self.is_well(now), self.breaker.may_pass and self.pace.room() > 0)


class Seat(NamedTuple):
    """What a call has taken: which endpoint is asked which question, past its breaker, in a place in flight."""

    inquiry: Inquiry
    place: int
    passage: Passage
    taken: Taken


class Pool:
    """The endpoints as a gate. Belongs to one event loop."""

    def __init__(self, provider: str, endpoints: Sequence[Endpoint], stop: Stop) -> None:
        self.endpoints = endpoints
        self._provider = provider
        self._stop = stop
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        weights = [(endpoint.name, endpoint.weight) for endpoint in endpoints]
        self._ranked = lru_cache(REMEMBERED_ROWS)(lambda row_key: ranking(row_key, weights))

    async def enter(self, request: Request) -> Seat:
        """A question without a row goes nowhere."""
        raise AssertionError("a pool is entered by `seat`, with the row")

    async def seat(self, inquiry: Inquiry, request: Request) -> Seat:
        """Wait for a place in flight at an endpoint.

        Raises ProviderError when no endpoint is left to wait for, Stopped when nothing new may be sent, LandscapeError
        where the limits can't be drawn.
        """
        came = time.monotonic()
        while True:
            place = self._choose(inquiry, came)
            endpoint = None if place is None else self.endpoints[place]
            if place is None or endpoint is None or not endpoint.breaker.may_pass:
                await self._wait()
                continue
            passage = endpoint.breaker.begin(request)
            self._look_soon()
            try:
                return Seat(inquiry, place, passage, await endpoint.pace.enter(request))
            except BaseException as error:
                endpoint.breaker.leave(passage, None, None)
                if not isinstance(error, Elsewhere):
                    raise

    def leave(self, seat: Seat, exchange: Exchange | None, reply: Reply | None) -> None:
        """It has come back: what holds for this endpoint is learnt; where it failed, who waits there may go."""
        endpoint = self.endpoints[seat.place]
        endpoint.pace.leave(seat.taken, exchange, reply)
        endpoint.breaker.leave(seat.passage, exchange, reply)
        if exchange is not None and exchange.error is not None:
            seat.inquiry.tried_at = (*seat.inquiry.tried_at, seat.place)
            self._look()
        self._changed.set()

    def are_well(self) -> list[int]:
        """The places of the endpoints that can be asked."""
        now = time.monotonic()
        return [place for place, endpoint in enumerate(self.endpoints) if endpoint.is_well(now)]

    def close(self) -> None:
        """Look after nobody any more."""
        if self._timer is not None:
            self._timer.cancel()

    # Choosing ---------------------------------------------------------------------------------------------------------

    def _choose(self, inquiry: Inquiry, came: float) -> int | None:
        ranked, tried, now = self._ranked(inquiry.member.row_key), inquiry.tried_at, time.monotonic()
        if not tried and all(self.endpoints[ranked[0]].standing(now)):  # as mostly: no need to look at the others
            return ranked[0]
        standings = [endpoint.standing(now) for endpoint in self.endpoints]
        place = choose(ranked, standings, tried, is_patient=now - came < PATIENCE_SECONDS)
        if place is not None:
            return place
        if self._stop.is_closed:
            raise Stopped
        if all(endpoint.breaker.is_hopeless for endpoint in self.endpoints):
            raise ProviderError(self._what_they_said())
        return self._soonest(ranked)

    def _soonest(self, ranked: Sequence[int]) -> int | None:
        """Of those that only asked to wait, the one that asked for the least."""
        waiting = [place for place in ranked if not self.endpoints[place].breaker.is_down]
        return min(waiting, key=lambda place: self.endpoints[place].pace.level.held_until, default=None)

    def _what_they_said(self) -> str:
        said = "; ".join(f"{endpoint.name} ({endpoint.breaker.told})" for endpoint in self.endpoints)
        return (
            f"None of the {len(self.endpoints)} endpoints of {self._provider} can be used: {said}. Check their keys, "
            "addresses and deployments, mend one and launch again: what is answered is not asked again."
        )

    # Who waits --------------------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        """Until something may have changed."""
        if self._stop.is_closed:
            raise Stopped
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(TICK_SECONDS):
                await self._changed.wait()

    def _look_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._look_and_go_on)

    def _look_and_go_on(self) -> None:
        self._timer = None
        self._look()
        if any(endpoint.pace.waiting_longer_than(0) for endpoint in self.endpoints):
            self._look_soon()

    def _look(self) -> None:
        """Send those away who wait at an endpoint in trouble, or for long while others have room."""
        now = time.monotonic()
        standings = [endpoint.standing(now) for endpoint in self.endpoints]
        is_any_well = any(standing.is_well for standing in standings)
        for endpoint, standing in zip(self.endpoints, standings, strict=True):
            if endpoint.breaker.is_down or (is_any_well and not standing.is_well):
                endpoint.pace.send_all_away()
            elif late := endpoint.pace.waiting_longer_than(PATIENCE_SECONDS):
                endpoint.pace.send_away(min(late, self._room_beside(endpoint, standings)), PATIENCE_SECONDS)

    def _room_beside(self, endpoint: Endpoint, standings: Sequence[Standing]) -> int:
        others = zip(self.endpoints, standings, strict=True)
        return sum(
            other.pace.room()
            for other, standing in others
            if other is not endpoint and standing.is_well and standing.has_room
        )


class PooledCaller(Caller):
    """Makes the calls for one model of one provider by several endpoints; the last gate is their pool."""

    def __init__(self, pool: Pool, gates: Sequence[Gate]) -> None:
        self._pool = pool
        self._gates = gates
        self._first = pool.endpoints[0].caller
        self.provider, self.address, self._landscape = self._first.provider, "", self._first._landscape

    async def begin(self) -> None:
        """Put on record what the calls to each endpoint have in common."""
        for endpoint in self._pool.endpoints:
            await endpoint.caller.begin()

    async def _pass(self, inquiry: Inquiry, request: Request, passed: list[tuple[Gate, Any]]) -> Caller:
        await super()._pass(inquiry, request, passed)
        seat = await self._pool.seat(inquiry, request)
        passed.append((self._pool, seat))
        return self._pool.endpoints[seat.place].caller

    async def pause(self, seconds: float) -> None:
        """Wait before the next try, but not beyond being told to stop."""
        await self._first.pause(seconds)

    def may_succeed_elsewhere(self, inquiry: Inquiry) -> bool:
        """Whether another endpoint, at which this question was not tried yet, can be asked; for so many tries only."""
        if len(inquiry.tried_at) >= TRIES_AN_ENDPOINT * len(self._pool.endpoints):
            return False
        return any(place not in inquiry.tried_at for place in self._pool.are_well())

    def asked_to_wait(self, exchange: Exchange) -> float | None:
        """What one endpoint asks holds up nobody who can be asked of another."""
        return None if self._pool.are_well() else super().asked_to_wait(exchange)

    def gives_up_at(self, exchange: Exchange) -> bool:
        """One endpoint's error is never all endpoints'; the pool says when none is left."""
        return False

    @property
    def is_held_up(self) -> bool:
        """Whether no endpoint answers: a try that fails is not its question's fault."""
        breakers = [endpoint.breaker for endpoint in self._pool.endpoints]
        return all(breaker.is_shut or breaker.is_hopeless for breaker in breakers)

    def suspect(self, request: Request) -> None:
        """What this asks has failed in an earlier run: that it fails again says nothing about any endpoint."""
        for endpoint in self._pool.endpoints:
            endpoint.breaker.suspect(request)


class Together(NamedTuple):
    """The levels of several endpoints, added up."""

    current: int
    highest: int
    cuts: int


class Paces:
    """What a step tells of the pace of its endpoints."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints

    @property
    def level(self) -> Together:
        """What is in flight at most, at all together."""
        levels = [endpoint.pace.level for endpoint in self._endpoints]
        return Together(
            sum(one.current for one in levels), sum(one.highest for one in levels), sum(one.cuts for one in levels)
        )

    @property
    def waited_seconds(self) -> float:
        """For how long even the endpoint that was held back least was."""
        return min(endpoint.pace.waited_seconds for endpoint in self._endpoints)

    def told(self) -> dict[str, object]:
        """What a state's end keeps, of each endpoint."""
        return {"endpoints": {endpoint.name: endpoint.pace.told() for endpoint in self._endpoints}}

    def history(self) -> list[Mapping[str, object]]:
        """The levels' histories, in seconds since the step began."""
        return [{"endpoint": one.name, **point} for one in self._endpoints for point in one.pace.history()]
