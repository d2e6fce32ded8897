"""How many requests may be in flight: a level that finds itself by what comes back.

    a success while all places were taken   up: one more each, until the first cut; then one more a round, and slower
                                            beside the level that was refused
    429                                     down: to 0.7 of it, once for all that was sent before; nothing is sent
                                            until Retry-After has passed
    5xx, a timeout, a lost connection       it stays for ten seconds
    nothing is left, say the headers        nothing is sent until what they say has passed

What a provider asks us to wait is bounded, and believed half as long each time that waiting has brought nothing: one
that always says `wait` can't hold a step for ever. Seconds are of a monotonic clock, given by the caller.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from elspeth_dagster.stages.calling import ErrorClass, Exchange, retry_after_seconds

START = 20
CUT = 0.7
CAREFUL = 0.1  # how much slower it grows beside the level that was refused last
FREEZE_SECONDS = 10.0
REFUSAL_CAP_SECONDS = 300.0
RESET_CAP_SECONDS = 60.0  # limits are by the minute
WITHOUT_RESET_SECONDS = 1.0
POINTS = 100
TROUBLE = frozenset({ErrorClass.SERVER, ErrorClass.TIMEOUT, ErrorClass.CONNECTION, ErrorClass.CONFLICT})


class Point(NamedTuple):
    """The level from a moment on, and why."""

    at: float
    level: int
    why: str


class Level:
    """How many requests may be in flight, and how many are. Begins where `earlier` has come to, if there is one."""

    def __init__(self, least: int, most: int, now: float, earlier: Level | None = None) -> None:
        self._least, self._most = least, most
        self._value: float = self._bounded(earlier._value if earlier else START)
        self._is_starting: bool = earlier._is_starting if earlier else True
        self._held_until: float = earlier._held_until if earlier else now
        self._refused_at: float = earlier._refused_at if earlier else float("inf")
        self._frozen_until = now
        self._sent = self._sent_before_cut = self._sent_before_hold = 0
        self._last_place = 0  # which took the last place that was free: those up to it were sent when all were wanted
        self._fruitless = 0
        self.in_flight = self.cuts = 0
        self.highest = self.current
        self.history = [Point(now, self.current, "start")]

    @property
    def current(self) -> int:
        """How many may be in flight."""
        return int(self._value)

    @property
    def held_until(self) -> float:
        """Until when nothing is sent, in seconds of the monotonic clock; it may have passed."""
        return self._held_until

    def room(self, now: float) -> int:
        """How many more may be sent."""
        return 0 if now < self._held_until else max(0, int(self._value) - self.in_flight)

    def begin(self) -> int:
        """One more is sent; returns its number."""
        self.in_flight += 1
        self._sent += 1
        if self.in_flight >= int(self._value):
            self._last_place = self._sent
        return self._sent

    def end(self, number: int, exchange: Exchange | None, tokens: int, now: float, wall: datetime | None) -> None:
        """It has come back, with this; or with None: it was not sent, or nobody knows.

        `tokens` is what another such request needs; `wall`, the time of day, is for a Retry-After that is a date.
        """
        self.in_flight -= 1
        if exchange is None:
            return
        if exchange.error is None and self._sent_before_cut < number <= self._last_place and now >= self._frozen_until:
            self._grow(now)
        elif exchange.error in TROUBLE:
            self._frozen_until = now + FREEZE_SECONDS
        elif exchange.error is ErrorClass.RATE_LIMITED:
            self._refused(number, retry_after_seconds(exchange.headers, wall), now)
        self._look_ahead(number, exchange, tokens, now)

    def _grow(self, now: float) -> None:
        beside = abs(self._value - self._refused_at) <= 1
        step = 1.0 if self._is_starting else (CAREFUL if beside else 1.0) / self._value
        self._value = self._bounded(self._value + step)
        self.highest = max(self.highest, self.current)
        last = self.history[-1].level
        if self.current >= 2 * last or self.current == self._most > last:
            self._note(now, "grown")

    def _refused(self, number: int, asked: float | None, now: float) -> None:
        if number > self._sent_before_cut:
            self._cut(now, "429" if asked is None else f"429, retry after {asked:g} s")
        if asked:
            self._hold(number, asked, REFUSAL_CAP_SECONDS, now)

    def _cut(self, now: float, why: str) -> None:
        if self.current != self.history[-1].level:
            self._note(now, "grown")
        self._refused_at, self._is_starting = self._value, False
        self._value = self._bounded(self._value * CUT)
        self._sent_before_cut = self._sent
        self.cuts += 1
        self._note(now, why)

    def _look_ahead(self, number: int, exchange: Exchange, tokens: int, now: float) -> None:
        if seconds := seconds_until_more(exchange.headers, tokens):
            if number > self._sent_before_hold and exchange.error is None:
                self._note(now, f"nothing left for {seconds:g} s")
            self._hold(number, seconds, RESET_CAP_SECONDS, now)
        elif exchange.error is None:
            self._fruitless = 0

    def _hold(self, number: int, asked: float, cap: float, now: float) -> None:
        if number > self._sent_before_hold:
            self._sent_before_hold = self._sent
            self._fruitless += 1
        believed = min(asked, cap * 2.0 ** (1 - max(self._fruitless, 1)))
        self._held_until = max(self._held_until, now + believed)

    def _bounded(self, value: float) -> float:
        return float(min(max(value, self._least), self._most))

    def _note(self, now: float, why: str) -> None:
        self.history.append(Point(now, self.current, why))
        if len(self.history) > POINTS:
            # By twos: what it had grown to, and what it was cut to.
            self.history = [self.history[0], *(point for n, point in enumerate(self.history[1:]) if n % 4 >= 2)]


# What the headers say (https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers) --------------------

_NAMES = {
    unit: tuple(f"x-ratelimit-{what}-{unit}" for what in ("remaining", "limit", "reset"))
    for unit in ("requests", "tokens")
}
_DURATION = re.compile(
    r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m(?!s))?(?:([0-9]+(?:\.[0-9]+)?)s)?(?:([0-9]+(?:\.[0-9]+)?)ms)?"
)
_SECONDS = (86400.0, 3600.0, 60.0, 1.0, 0.001)


def seconds_until_more(headers: Mapping[str, str], tokens: int) -> float:
    """For how long nothing should be sent since too little is left for a request of so many tokens; 0: enough is left.

    Within [0, 60]. Azure tells what is left but not until when: a second. What makes no sense says nothing.
    """
    if _NAMES["requests"][0] not in headers and _NAMES["tokens"][0] not in headers:
        return 0.0
    return max(_seconds_of(headers, "requests", 1), _seconds_of(headers, "tokens", max(tokens, 1)))


def _seconds_of(headers: Mapping[str, str], unit: str, needed: int) -> float:
    remaining, limit, reset = (headers.get(name) for name in _NAMES[unit])
    left = _count(remaining)
    if left is None or left >= needed:
        return 0.0
    if limit is not None and (_count(limit) or 0) < needed:  # then waiting would not help
        return 0.0
    seconds = WITHOUT_RESET_SECONDS if reset is None else duration_seconds(reset)
    return min(WITHOUT_RESET_SECONDS if seconds is None else seconds, RESET_CAP_SECONDS)


def _count(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch("[0-9]+", text) else None


def duration_seconds(text: str) -> float | None:
    """`1s`, `6m0s`, `20ms`, `1h2m3.5s`, or plain seconds; None for anything else."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    found = _DURATION.fullmatch(text)
    if not text or found is None:
        return None
    return sum(float(part) * seconds for part, seconds in zip(found.groups(), _SECONDS, strict=True) if part)
