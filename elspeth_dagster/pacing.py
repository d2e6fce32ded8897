"""The pace of a step: the gate at which its requests wait, first come first served, until they may be sent.

    a place      there is room below the level of requests in flight (`stages.pacing`), which finds itself
    a promise    of the limits per minute that all processes share (`landscape.limits`), where there are any

A promise is drawn only for those for whom there is a place, for all of them in one transaction, at most ten times a
second. Who waits for a promise holds no place. A promise that could not be used in time, since the places went
meanwhile, is given back and drawn anew: what is sent in a minute is what was promised for it.

Who waits may be sent away, to another endpoint where there are several (`pooling`).

The level and what was learnt of the tokens that requests need are kept for the next shard that this process asks.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, Protocol, Self
from weakref import WeakKeyDictionary

from elspeth_dagster.core.errors import LandscapeError
from elspeth_dagster.landscape.ledger import Landscape, now
from elspeth_dagster.landscape.limits import Account, Limit, Limits
from elspeth_dagster.landscape.records import Reply
from elspeth_dagster.stages.calling import ErrorClass, Exchange
from elspeth_dagster.stages.limiting import Estimate, is_credible
from elspeth_dagster.stages.pacing import Level, Point
from elspeth_dagster.stages.querying import Request
from elspeth_dagster.stopping import Stop, Stopped

DRAWING_SECONDS = 0.1
ASK_AGAIN_SECONDS = 5.0  # others may have given back, or died
STALE_SECONDS = 0.5
POINTS_IN_SHORT = 20


class Bounds(NamedTuple):
    """Between what the level finds itself, and what may be sent in a minute; None: no limit of ours."""

    least: int
    most: int
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def limits(self) -> Iterator[Limit]:
        """The limits there are."""
        if self.requests_per_minute is not None:
            yield Limit("requests", self.requests_per_minute)
        if self.tokens_per_minute is not None:
            yield Limit("tokens", self.tokens_per_minute)


class Taken(NamedTuple):
    """A place in flight: its request's number and size, and how many tokens it was reckoned to need."""

    number: int
    body_bytes: int
    tokens: int


class Elsewhere(Exception):  # noqa: N818  (not an error: a place may be free)
    """Who waited was sent away: another endpoint can be asked."""


class Heights(Protocol):
    """How many requests may be in flight, how many may have been at most, and how often that was cut."""

    @property
    def current(self) -> int: ...

    @property
    def highest(self) -> int: ...

    @property
    def cuts(self) -> int: ...


class Paced(Protocol):
    """What a step tells of its pace: one endpoint's, or that of several."""

    @property
    def level(self) -> Heights:
        """The level it has come to."""

    @property
    def waited_seconds(self) -> float:
        """For how long the step was held back by a limit, or because the provider asked to wait."""

    def told(self) -> dict[str, object]:
        """What a state's end keeps."""

    def history(self) -> list[Mapping[str, object]]:
        """The level's history."""


@dataclass(eq=False, slots=True)
class _Waiting:
    """Who waits: to be told its number. `due` is when its promise falls due; `since`, when it came."""

    tokens: int
    number: asyncio.Future[int]
    since: float
    due: float | None = None


@dataclass
class Kept:
    """What one step leaves to the next: how far the level came, what was learnt of tokens."""

    level: Level | None = None
    estimate: Estimate = field(default_factory=Estimate)


_kept: WeakKeyDictionary[Landscape, dict[Account, Kept]] = WeakKeyDictionary()


def pace_of(landscape: Landscape, account: Account, bounds: Bounds, stop: Stop) -> Pace:
    """The pace of a step that asks this account, going on from where the last one in this process came to."""
    kept = _kept.setdefault(landscape, {}).setdefault(account, Kept())
    limits = list(bounds.limits())
    return Pace(bounds, stop, Limits(landscape, account, limits) if limits else None, kept)


class Pace:
    """A gate (`calling.Gate`) for one step; an async context manager. Belongs to one event loop."""

    def __init__(
        self,
        bounds: Bounds,
        stop: Stop,
        limits: Limits | None = None,
        kept: Kept | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stop = stop
        self._limits = limits
        self._kept = kept or Kept()
        self._estimate = self._kept.estimate
        self._clock = clock
        self._began = clock()
        self.level = Level(bounds.least, bounds.most, self._began, self._kept.level)
        self._kept.level = self.level
        self._waiting: deque[_Waiting] = deque()
        self._failure: LandscapeError | None = None
        self._drawing: asyncio.Task[None] | None = None
        self._next_drawing = self._began
        self._is_short = False
        self._requests_back = self._tokens_back = 0
        self._timer: asyncio.TimerHandle | None = None
        self._held_since: float | None = None
        self._held = 0.0
        stop.on_close(self._shut)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Settle what the last requests needed. If it can't be, the next drawings don't miss it for long."""
        if self._timer is not None:
            self._timer.cancel()
        if self._drawing is not None:
            await asyncio.wait([self._drawing])
        if self._limits is not None and (self._requests_back or self._tokens_back) and self._failure is None:
            await self._draw([])

    async def enter(self, request: Request) -> Taken:
        """Wait for a place, and for a promise where there are limits.

        Raises Stopped where nothing new may be sent meanwhile, LandscapeError where the limits can't be drawn.
        """
        if self._stop.is_closed:
            raise Stopped
        size = len(request.body)
        tokens = self._estimate.tokens(size, request.max_tokens) if self._limits is not None else size // 4
        if self._limits is None and not self._waiting and self.level.room(self._clock()):
            return Taken(self.level.begin(), size, tokens)
        return Taken(await self._turn(tokens), size, tokens)

    def leave(self, taken: Taken, exchange: Exchange | None, reply: Reply | None) -> None:
        """It has come back: the level follows, the place goes to the next."""
        is_refused = exchange is not None and exchange.error is ErrorClass.RATE_LIMITED
        self.level.end(taken.number, exchange, taken.tokens, self._clock(), now() if is_refused else None)
        if self._limits is not None and reply is not None:
            self._settle(taken, reply)
        if self._waiting:
            self._let_in()

    def told(self) -> dict[str, object]:
        """What a state's end keeps: in whole numbers, the history in short."""
        return {
            "max": self.level.highest,
            "final": self.level.current,
            "throttled": self.level.cuts,
            "waited_ms": round(1000 * self.waited_seconds),
            "history": [[round(1000 * at), level, why] for at, level, why in _some_of(list(self._points()))],
        }

    def history(self) -> list[Mapping[str, object]]:
        """The level's history, in seconds since the step began."""
        return [{"seconds": round(at, 3), "level": level, "why": why} for at, level, why in self._points()]

    def _points(self) -> Iterator[Point]:
        return (point._replace(at=point.at - self._began) for point in self.level.history)

    @property
    def waited_seconds(self) -> float:
        """For how long the step was held back by a limit, or because the provider asked to wait."""
        return self._held + (0.0 if self._held_since is None else self._clock() - self._held_since)

    # Sending away -----------------------------------------------------------------------------------------------------

    def room(self) -> int:
        """How many more could be sent now, beside those who wait."""
        if self._is_short:
            return 0
        return max(0, self.level.room(self._clock()) - len(self._waiting))

    def waiting_longer_than(self, seconds: float) -> int:
        """How many have waited so long without a promise."""
        then = self._clock() - seconds
        return sum(one.since < then and one.due is None for one in self._waiting)

    def send_away(self, most: int, waited: float = 0.0) -> None:
        """Those who came first, and have waited so long without a promise, are told that others can be asked."""
        then = self._clock() - waited
        for one in [one for one in self._waiting if one.since <= then and one.due is None][:most]:
            self._waiting.remove(one)
            if not one.number.done():
                one.number.set_exception(Elsewhere())
        self._reckon_held(self._clock())

    def send_all_away(self) -> None:
        """Whoever waits is told that others can be asked."""
        self._refuse_all(Elsewhere())

    # Who waits --------------------------------------------------------------------------------------------------------

    async def _turn(self, tokens: int) -> int:
        if self._failure is not None:
            raise LandscapeError(str(self._failure))
        waiting = _Waiting(tokens, asyncio.get_running_loop().create_future(), self._clock())
        self._waiting.append(waiting)
        self._let_in()
        try:
            return await waiting.number
        except asyncio.CancelledError:
            self._give_up(waiting)
            raise

    def _give_up(self, waiting: _Waiting) -> None:
        """Cancelled: give back what it had, or had been handed at the same moment."""
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            self._take_back(waiting)
        elif not waiting.number.cancelled() and waiting.number.exception() is None:
            self.level.end(waiting.number.result(), None, 0, self._clock(), None)
        self._let_in()

    def _let_in(self) -> None:
        """Hand places to those who are first and may go; see to it that the next are thought of in time."""
        moment = self._clock()
        while self._waiting and self.level.room(moment) and self._may_go(self._waiting[0], moment):
            one = self._waiting.popleft()
            if one.number.done():  # cancelled, and about to give up
                self._take_back(one)
            else:
                one.number.set_result(self.level.begin())
        self._reckon_held(moment)
        if self._waiting:
            self._see_to_the_next(moment)

    def _may_go(self, first: _Waiting, moment: float) -> bool:
        if self._limits is None:
            return True
        if first.due is not None and moment > first.due + STALE_SECONDS:
            self._take_back(first)
        return first.due is not None and moment >= first.due

    def _see_to_the_next(self, moment: float) -> None:
        room = self.level.room(moment)
        if moment < self.level.held_until:
            self._look_again_at(self.level.held_until)
        elif self._limits is not None and room:
            if self._waiting[0].due is not None:
                self._look_again_at(self._waiting[0].due)
            if self._drawing is None and any(one.due is None for one in islice(self._waiting, room)):
                self._draw_when_it_is_time(room, moment)

    def _draw_when_it_is_time(self, room: int, moment: float) -> None:
        if moment < self._next_drawing:
            self._look_again_at(min(self._next_drawing, self._waiting[0].due or self._next_drawing))
            return
        wanted = [one for one in islice(self._waiting, room) if one.due is None]
        self._drawing = asyncio.get_running_loop().create_task(self._draw(wanted))

    def _look_again_at(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wait = max(0.0, moment - self._clock())
        self._timer = asyncio.get_running_loop().call_later(wait, self._let_in)

    def _reckon_held(self, moment: float) -> None:
        """Count the time in which somebody waits since the provider asked to, or since a limit is used up."""
        is_used_up = self._is_short and self.level.room(moment) > 0
        is_held = bool(self._waiting) and (is_used_up or moment < self.level.held_until)
        if is_held and self._held_since is None:
            self._held_since = moment
        elif not is_held and self._held_since is not None:
            self._held += moment - self._held_since
            self._held_since = None

    def _shut(self) -> None:
        self._refuse_all(Stopped())

    def _refuse_all(self, error: Exception) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            self._take_back(waiting)
            if not waiting.number.done():
                waiting.number.set_exception(type(error)(*error.args))
        self._reckon_held(self._clock())

    # Promises ---------------------------------------------------------------------------------------------------------

    async def _draw(self, wanted: list[_Waiting]) -> None:
        assert self._limits is not None
        back = self._by_unit(self._requests_back, self._tokens_back)
        self._requests_back = self._tokens_back = 0
        needs = [self._by_unit(1, one.tokens) for one in wanted]
        try:
            promised = await asyncio.to_thread(self._limits.draw, needs, back)
        except Exception as error:  # whatever it is, who waits must learn it
            told = f"the limits per minute can't be shared: {error}"
            self._failure = error if isinstance(error, LandscapeError) else LandscapeError(told)
            self._refuse_all(self._failure)
            return
        finally:
            self._drawing = None
        moment = self._clock()
        for one, wait in zip(wanted, promised.waits, strict=False):
            one.due = moment + wait
            if one.number.done():
                self._take_back(one)
        self._is_short = promised.come_again > 0 or any(promised.waits)
        self._next_drawing = moment + min(max(DRAWING_SECONDS, promised.come_again), ASK_AGAIN_SECONDS)
        self._let_in()

    def _by_unit(self, requests: int, tokens: int) -> list[int]:
        assert self._limits is not None
        return [requests if unit == "requests" else tokens for unit in self._limits.units]

    def _take_back(self, waiting: _Waiting) -> None:
        """It has not used its promise, if it had one: the next drawing gives it back."""
        if waiting.due is not None:
            waiting.due = None
            self._requests_back += 1
            self._tokens_back += waiting.tokens

    def _settle(self, taken: Taken, reply: Reply) -> None:
        """Tell the next drawing what it needed more or less; where that is not known, the estimate stands."""
        prompt, completion = reply.prompt_tokens, reply.completion_tokens
        if prompt is None or completion is None or not is_credible(taken.body_bytes, prompt, completion):
            return
        self._tokens_back += taken.tokens - prompt - completion
        self._estimate.learn(taken.body_bytes, prompt, completion)


def _some_of(points: list[Point]) -> list[Point]:
    """The first, the last, and some between them."""
    count = min(len(points), POINTS_IN_SHORT)
    return [points[number * (len(points) - 1) // max(count - 1, 1)] for number in range(count)]
