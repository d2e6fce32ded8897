"""Counts over a whole run that are kept between two looks, so that the next one goes on where the last one stopped.

Only counts over runs that are over are kept, a few, and not for long: what is erased meanwhile shall be forgotten here
too. A run that goes on is counted anew each time.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

import sqlalchemy as sa

from elspeth_dagster.landscape.leafing import Deadline
from elspeth_dagster.landscape.tallying import Tally

T = TypeVar("T", bound=Tally)
KEPT = 16
KEPT_SECONDS = 600.0


class Counting:
    """The counts that were begun lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[float, threading.Lock, Tally]] = OrderedDict()

    def go_on(self, connection: sa.Connection, key: Hashable, begin: Callable[[], T], deadline: Deadline) -> T:
        """The count with this key, begun if there is none, and counted further as far as the time allows."""
        lock, tally = self._take(key, begin)
        with lock:
            tally.go_on(connection, deadline)
        return tally

    def _take(self, key: Hashable, begin: Callable[[], T]) -> tuple[threading.Lock, T]:
        with self._lock:
            self._forget()
            began, lock, tally = self._kept.get(key) or (self._clock(), threading.Lock(), begin())
            if tally.is_lasting:
                self._kept[key] = began, lock, tally
                self._kept.move_to_end(key)
        return lock, tally  # type: ignore[return-value]  # a key is of one kind of count

    def _forget(self) -> None:
        old = [key for key, (began, *_) in self._kept.items() if began < self._clock() - KEPT_SECONDS]
        for key in old:
            del self._kept[key]
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
