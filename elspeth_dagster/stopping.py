"""Being told to stop, by a signal: nothing new is sent, what is in flight may come back within a grace time.

Dagster ends a step by SIGINT or SIGTERM. While questions are asked these are heard here; when the record is in order
they are handed on to whoever listened before, so that Dagster learns that the step was interrupted.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):  # noqa: N818  (not an error: what was asked for)
    """The step was told to stop, so this was not sent."""


class Stop:
    """Whether a step was told to stop, once or urgently, or has closed by itself. Belongs to one event loop."""

    def __init__(self) -> None:
        self._times = 0
        self._asked, self._closed = asyncio.Event(), asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    def ask(self) -> None:
        """Send nothing new; asked again: don't wait for what is in flight either."""
        self._times += 1
        self._asked.set()
        self.close()

    def close(self) -> None:
        """Send nothing new, since nothing more can succeed; what is in flight is waited for as ever."""
        self._closed.set()
        while self._listeners:
            self._listeners.pop()()

    def on_close(self, listener: Callable[[], None]) -> None:
        """Have it called once, when nothing new is to be sent any more."""
        self._listeners.append(listener)

    @property
    def is_asked(self) -> bool:
        """Whether somebody told it to stop."""
        return self._times > 0

    @property
    def is_closed(self) -> bool:
        """Whether nothing new may be sent."""
        return self._closed.is_set()

    @property
    def is_urgent(self) -> bool:
        """Whether it was asked more than once."""
        return self._times > 1

    async def asked(self) -> None:
        """Wait for it."""
        await self._asked.wait()

    async def sleep(self, seconds: float) -> None:
        """Sleep, but only for as long as something new may be sent."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()


@contextmanager
def asked_by_signals(ask: Callable[[], None]) -> Iterator[None]:
    """Within an event loop: SIGINT and SIGTERM call `ask`; at the end the first of them goes to whoever had it before.

    Outside the main thread, where no signal is heard, and for a signal that the process ignores, nothing changes.
    """
    heard: list[int] = []
    loop = asyncio.get_running_loop()

    def hear(number: int, _frame: FrameType | None) -> None:
        heard.append(number)
        loop.call_soon_threadsafe(ask)

    before = {number: signal.signal(number, hear) for number in _audible()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if heard:
            signal.raise_signal(heard[0])


def _audible() -> list[signal.Signals]:
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
