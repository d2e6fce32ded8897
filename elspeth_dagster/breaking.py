"""The circuit breaker, a gate: it holds calls back from a provider that only fails, and gives up one that stays so.

The rules are in `stages.breaking`. A provider that can't be used at all (wrong key, unknown deployment) is given up by
the first call that learns it; whoever waits here then is sent nowhere. One of several endpoints is asked less and less
instead while it only fails: whether all are to be given up is for their pool to say (`pooling`).
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from elspeth_dagster.core.errors import ProviderError
from elspeth_dagster.landscape.ledger import now
from elspeth_dagster.landscape.records import Reply
from elspeth_dagster.stages.breaking import Health
from elspeth_dagster.stages.calling import ErrorClass, Exchange, is_fatal, is_transient, retry_after_seconds
from elspeth_dagster.stages.querying import Request
from elspeth_dagster.stopping import Stop, Stopped

TICK_SECONDS = 0.25

Passage = tuple[str, bool]
"""A question that was let through, and whether as a probe."""


class Breaker:
    """How one step deals with a provider that fails. Belongs to one event loop."""

    def __init__(self, provider: str, retry_seconds: float, stop: Stop, *, is_one_of_several: bool = False) -> None:
        self._provider = provider
        self._retry_seconds = retry_seconds
        self._is_one_of_several = is_one_of_several
        self._last_failure = ""
        self._stop = stop
        self._health = Health()
        self._in_flight = self._probing = 0
        self._is_reached = False
        self._given_up: ProviderError | None = None
        self._changed = asyncio.Event()

    @property
    def is_shut(self) -> bool:
        """Whether the provider only fails: then a try that fails says nothing about its question."""
        return self._health.is_shut

    async def enter(self, request: Request) -> Passage:
        """Wait until the provider can be asked. Raises ProviderError when it is given up, Stopped when told to stop."""
        while not self._lets_pass():
            self._changed.clear()
            with suppress(TimeoutError):  # asyncio.wait_for of Python 3.11 can swallow a cancellation
                async with asyncio.timeout(TICK_SECONDS):
                    await self._changed.wait()
        return self.begin(request)

    def begin(self, request: Request) -> Passage:
        """One more is let through."""
        self._in_flight += 1
        self._probing += self.is_shut
        return request.question_hash, self.is_shut

    @property
    def may_pass(self) -> bool:
        """Whether one more may be let through now."""
        return self._given_up is None and self._health.lets_pass(self._in_flight, self._probing, time.monotonic())

    @property
    def is_down(self) -> bool:
        """Whether it only fails, and is not to be probed now."""
        return self._given_up is not None or (self.is_shut and not self.may_pass)

    @property
    def is_hopeless(self) -> bool:
        """Whether nothing is left to wait for: it can't be used, never was there, or has only failed for too long."""
        was_never_there = self._health.is_gone and not self._is_reached
        is_over = self._health.is_hopeless(time.monotonic(), self._retry_seconds)
        return self._given_up is not None or was_never_there or is_over

    @property
    def told(self) -> str:
        """Why it is not asked, in words."""
        return self._last_failure

    def suspect(self, request: Request) -> None:
        """This question has failed in an earlier run: it may itself be at fault."""
        self._health.suspects.add(request.question_hash)

    def leave(self, taken: Passage, exchange: Exchange | None, reply: Reply | None) -> None:
        """Learn from what came back."""
        question, is_probe = taken
        self._in_flight -= 1
        self._probing -= is_probe
        if exchange is not None:
            self._learn(question, exchange, is_probe=is_probe)
        self._changed.set()

    def _lets_pass(self) -> bool:
        if self._given_up is not None:
            raise self._given_up
        if self._health.lets_pass(self._in_flight, self._probing, time.monotonic()):
            return True
        if self._stop.is_closed:
            raise Stopped
        return False

    def _learn(self, question: str, exchange: Exchange, *, is_probe: bool) -> None:
        error = exchange.error
        is_gone = error is ErrorClass.UNREACHABLE and self._is_reached
        self._last_failure = f"{exchange.error}: {exchange.detail}" if exchange.error else ""
        may_come_back = error is ErrorClass.UNREACHABLE and self._is_one_of_several
        if is_fatal(error) and not (is_gone or may_come_back):
            self._given_up = ProviderError(f"{self._provider} can't be used: {exchange.detail}")
            return
        self._is_reached |= not may_come_back
        if error is None or not (is_transient(error) or is_gone or may_come_back):
            self._health.answered(well=error is None)
            return
        wait, instant = retry_after_seconds(exchange.headers, now()) or 0.0, time.monotonic()
        self._health.failed(
            question, _told(exchange), instant, is_probe=is_probe, retry_after=wait, is_gone=may_come_back
        )
        if not self._is_one_of_several and self._health.is_hopeless(instant, self._retry_seconds):
            self._given_up = ProviderError(self._what_it_saw())

    def _what_it_saw(self) -> str:
        failures = self._health.failures
        seconds = time.monotonic() - self._health.failing_since
        kinds = ", ".join(f"{count} × {error}" for error, count in failures.most_common())
        return (
            f"{self._provider} has only failed for {seconds:.0f} seconds, {failures.total()} tries in a row ({kinds}). "
            "Nothing more is sent. Launch again when it answers: what is answered is not asked again."
        )


def _told(exchange: Exchange) -> str:
    return str(exchange.error) + (f" (HTTP {exchange.status})" if exchange.status else "")
