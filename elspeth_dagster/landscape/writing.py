"""How facts become durable: one writer thread per process commits what waits, together.

A caller hands over facts and goes on only when they are committed. While one group is being committed the next one
gathers, so durability costs a caller a few milliseconds and the process almost nothing. Facts handed over together
are committed together or not at all. Where a group is refused, each hand-over is tried by itself, so that only the
one at fault fails, with an AuditError.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from elspeth_dagster.core.errors import AuditError
from elspeth_dagster.landscape.database import Database, why
from elspeth_dagster.landscape.records import TABLES, Fact, Payload
from elspeth_dagster.landscape.schema import metadata, node_state_ends, payloads, run_ends

GROUP = 512
# Parents first; ends last, since after the end of a state or a run nothing more of it is taken.
ENDS = (node_state_ends, run_ends)
ORDER = {table: (table in ENDS, position) for position, table in enumerate(metadata.sorted_tables)}


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


class Writer:
    """Commits facts in groups on its own thread, which starts with the first of them. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: queue.SimpleQueue[_HandOver | None] = queue.SimpleQueue()
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

    def close(self) -> None:
        """Commit what waits, then stop. Whoever comes later gets an AuditError."""
        with self._gate:
            if not self._closed:
                self._waiting.put(None)
            self._closed = True
        if self._thread is not None:
            self._thread.join()

    def _hand_over(self, hand_over: _HandOver) -> None:
        with self._gate:
            if self._closed:
                raise AuditError("the landscape is closed: a fact came too late to be recorded")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="landscape-writer", daemon=True)
                self._thread.start()
            self._waiting.put(hand_over)

    def _run(self) -> None:
        while group := self._next_group():
            errors = self._commit(group)
            _settle(group, errors)

    def _next_group(self) -> list[_HandOver]:
        group: list[_HandOver] = []
        while len(group) < GROUP:
            try:
                hand_over = self._waiting.get(block=not group)
            except queue.Empty:
                break
            if hand_over is None:
                if group:
                    self._waiting.put(None)
                break
            group.append(hand_over)
        return group

    def _commit(self, group: list[_HandOver]) -> list[AuditError | None]:
        error = self._try(fact for hand_over in group for fact in hand_over.facts)
        if error is None or len(group) == 1:
            return [error] * len(group)
        return [self._try(hand_over.facts) for hand_over in group]

    def _try(self, facts: Iterable[Fact]) -> AuditError | None:
        try:
            with self._database.write() as connection:
                insert(connection, facts)
        except AuditError as error:
            return error
        except Exception as error:  # whatever it is, the caller must learn it and nothing may be sent
            return AuditError(f"a fact can't be recorded: {why(error)}").with_traceback(error.__traceback__)
        return None


def insert(connection: sa.Connection, facts: Iterable[Fact]) -> None:
    """Insert facts of any kinds, in whatever order they come. A payload that is there already is left as it is."""
    by_table: dict[sa.Table, list[Fact]] = {}
    for fact in facts:
        by_table.setdefault(TABLES[type(fact)], []).append(fact)
    for table in sorted(by_table, key=ORDER.__getitem__):
        if table is payloads:
            _insert_payloads(connection, by_table[table])
        else:
            connection.execute(_INSERTS[table], [fact._asdict() for fact in by_table[table]])


def _insert_payloads(connection: sa.Connection, facts: Iterable[Fact]) -> None:
    """Each payload once, in one order in every process so that two of them can't wait for each other."""
    distinct = {fact.ref: fact._asdict() for fact in facts if isinstance(fact, Payload)}
    connection.execute(_PAYLOAD_INSERTS[connection.dialect.name], [distinct[ref] for ref in sorted(distinct)])


def _payload_insert_if_absent() -> sa.Insert:
    values = sa.select(*(sa.bindparam(column.name, type_=column.type) for column in payloads.columns))
    absent = ~sa.exists().where(payloads.c.ref == sa.bindparam("ref", type_=payloads.c.ref.type))
    return payloads.insert().from_select([column.name for column in payloads.columns], values.where(absent))


_INSERTS = {table: table.insert() for table in metadata.sorted_tables}
_PAYLOAD_INSERTS = {
    "sqlite": _payload_insert_if_absent(),
    "postgresql": postgresql.insert(payloads).on_conflict_do_nothing(),
}


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
