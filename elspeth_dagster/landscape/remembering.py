"""What was derived of runs that are over, remembered: the database takes no further fact of these.

It is counts and sums alone, never a text, so that there is nothing in it to be erased.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
MOST = 5000


class Memory:
    """What is remembered of some runs, the last ones that were asked for."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], Any] = OrderedDict()

    def recall(self, what: str, run_id: str) -> Any:
        """What is remembered of a run; None where it is nothing."""
        with self._lock:
            return self._known.get((what, run_id))

    def keep(self, what: str, run_id: str, value: object) -> None:
        """Remember what was derived of a run that is over."""
        with self._lock:
            self._known[what, run_id] = value
            self._known.move_to_end((what, run_id))
            while len(self._known) > self._most:
                self._known.popitem(last=False)

    def of(self, what: str, run_id: str, derive: Callable[[], T], *, is_over: bool) -> T:
        """What is remembered of a run, or else derived anew; remembered if the run was over before."""
        known: T | None = self.recall(what, run_id) if is_over else None
        if known is None:
            known = derive()
            if is_over:
                self.keep(what, run_id, known)
        return known
