"""How facts become durable: one writer thread per process commits what waits, together, and decides in between.

A caller hands over facts and goes on only when they are committed. While one group is being committed the next one
gathers, so durability costs a caller a few milliseconds and the process almost nothing. A group is half of what
waits: who is committed together is sent together, comes back together, and would wait for each other at every turn.
Facts handed over together are committed together or not at all. Where a group is refused, each hand-over is tried by
itself, so that only the one at fault fails, with an AuditError.

A database that is away or busy is waited for, for as long as it has patience. From the first lost connection on,
nobody knows whether a commit of the group arrived, so whatever is tried of it then is inserted again: see `inserting`.
Where the database itself is at fault in the end, no caller of the group goes on.

What reads and, by what it read, inserts is decided on the same thread, alone in a transaction: two connections of one
process that both write would wait for each other, by SQLite's lot asleep.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from elspeth_dagster.core.errors import AuditError, StorageError
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.faults import why
from elspeth_dagster.landscape.inserting import insert, insert_again
from elspeth_dagster.landscape.records import Fact

T = TypeVar("T")
LEAST_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class _HandOver:
    facts: Sequence[Fact]
    done: Future[None] | asyncio.Future[None]

    def settle(self, error: AuditError | None) -> None:
        if self.done.cancelled():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


@dataclass(frozen=True, slots=True)
class _Decision:
    decide: Callable[[sa.Connection, bool], Any]
    done: Future[Any]

    def settle(self, database: Database) -> None:
        try:
            self.done.set_result(database.commit(self.decide, alone=True))
        except BaseException as error:  # whatever it is, it is for who asked
            self.done.set_exception(error)


@dataclass(slots=True)
class _Insertion:
    """Facts to insert, and whether a commit of them may have arrived."""

    facts: Sequence[Fact]
    may_be_there: bool = False

    def __call__(self, connection: sa.Connection, was_lost: bool) -> None:
        self.may_be_there |= was_lost
        (insert_again if self.may_be_there else insert)(connection, self.facts)


class Writer:
    """Commits facts in groups on its own thread, which starts with the first of them. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: queue.SimpleQueue[_HandOver | _Decision | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def write(self, *facts: Fact) -> None:
        """Return when the facts are durable. Raises AuditError when they can't be recorded."""
        done: Future[None] = Future()
        self._hand_over(_HandOver(facts, done))
        done.result()

    async def record(self, *facts: Fact) -> None:
        """`write` for a coroutine."""
        done = asyncio.get_running_loop().create_future()
        self._hand_over(_HandOver(facts, done))
        await done

    def decide(self, decision: Callable[[sa.Connection, bool], T]) -> T:
        """What `decision` returns, once it is durable; nobody else writes meanwhile.

        Raises what it raises, and what `Database.commit` does. Not to be called by a decision.
        """
        done: Future[T] = Future()
        self._hand_over(_Decision(decision, done))
        return done.result()

    def close(self) -> None:
        """Commit what waits, then stop. Whoever comes later gets an AuditError."""
        with self._gate:
            if not self._closed:
                self._waiting.put(None)
            self._closed = True
        if self._thread is not None:
            self._thread.join()

    def _hand_over(self, hand_over: _HandOver | _Decision) -> None:
        assert threading.current_thread() is not self._thread, "it would wait for itself"
        with self._gate:
            if self._closed:
                raise AuditError("the landscape is closed: a fact came too late to be recorded")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="landscape-writer", daemon=True)
                self._thread.start()
            self._waiting.put(hand_over)

    def _run(self) -> None:
        is_over = False
        while not is_over:
            group, after = self._next_group()
            if group:
                self._see_to(group)
            if isinstance(after, _Decision):
                after.settle(self._database)
            is_over = after is None

    def _next_group(self) -> tuple[list[_HandOver], _HandOver | _Decision | None]:
        """What is committed together, and what came last: a decision is to be made after it, None is the end."""
        group: list[_HandOver] = []
        at_most = 1
        while len(group) < at_most:
            try:
                came = self._waiting.get(block=not group)
            except queue.Empty:
                break
            if not isinstance(came, _HandOver):
                return group, came
            if not group:
                at_most = max(LEAST_AT_ONCE, self._waiting.qsize() // 2)
            group.append(came)
        return group, group[-1]

    def _see_to(self, group: list[_HandOver]) -> None:
        _settle(group, self._commit(group))

    def _commit(self, group: list[_HandOver]) -> list[AuditError | None]:
        together = _Insertion([fact for hand_over in group for fact in hand_over.facts])
        error = self._try(together)
        if error is None or isinstance(error, StorageError) or len(group) == 1:
            return [error] * len(group)
        return [self._try(_Insertion(hand_over.facts, together.may_be_there)) for hand_over in group]

    def _try(self, insertion: _Insertion) -> AuditError | None:
        try:
            self._database.commit(insertion)
        except AuditError as error:
            return error
        except Exception as error:  # whatever it is, the caller must learn it and nothing may be sent
            return AuditError(f"a fact can't be recorded: {why(error)}").with_traceback(error.__traceback__)
        return None


def _settle(group: Sequence[_HandOver], errors: Sequence[AuditError | None]) -> None:
    """Tell each caller; all those of one event loop with one wake-up."""
    by_loop: dict[asyncio.AbstractEventLoop | None, list[tuple[_HandOver, AuditError | None]]] = {}
    for hand_over, error in zip(group, errors, strict=True):
        loop = hand_over.done.get_loop() if isinstance(hand_over.done, asyncio.Future) else None
        by_loop.setdefault(loop, []).append((hand_over, error))
    for loop, settled in by_loop.items():
        if loop is None:
            _tell(settled)
        else:
            with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
                loop.call_soon_threadsafe(_tell, settled)


def _tell(settled: Sequence[tuple[_HandOver, AuditError | None]]) -> None:
    for hand_over, error in settled:
        hand_over.settle(error)
