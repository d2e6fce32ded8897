"""The landscape, opened: its database to read from, its writer to hand facts to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TypeVar

import sqlalchemy as sa

from elspeth_dagster.core.notes import Signer
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.inserting import insert
from elspeth_dagster.landscape.records import Fact
from elspeth_dagster.landscape.writing import Writer

T = TypeVar("T")


class Landscape:
    """One per process. The writer's thread starts with the first fact.

    `explorer_url` is where people read it, for links; None where that isn't known.
    """

    explorer_url: str | None = None

    def __init__(self, database: Database, signer: Signer | None = None, anchors: Sequence[str] = ()) -> None:
        self._database = database
        self._writer = Writer(database)
        self.signer = signer
        self.anchors = tuple(anchors)

    @classmethod
    def open(cls, url: str, *, create: bool = True, signer: Signer | None = None, anchors: Sequence[str] = ()) -> Self:
        """Open the landscape at a SQLAlchemy url. Raises what `Database.open` raises.

        `signer` signs seals and checkpoints; `anchors` are the places outside of it that checkpoints are put at.
        """
        return cls(Database.open(url, create=create), signer, anchors)

    @classmethod
    def look_at(cls, url: str, *, patience: float) -> Self:
        """Open the landscape so that the database refuses every write; it is waited for this many seconds."""
        return cls(Database.open(url, read_only=True, patience=patience))

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that sees one consistent state. Raises LandscapeError when the database fails it."""
        with self._database.read() as connection:
            yield connection

    def decide(self, decision: Callable[[sa.Connection], T]) -> T:
        """What `decision` returns, which reads and, by what it read, inserts; durable when this returns.

        Nobody else writes meanwhile. After a lost connection it is run again, perhaps on what it has inserted itself
        (then its commit had arrived): it must find that and return the same. Raises AuditError when the database
        refuses a record, StorageError when it can't be written.
        """
        return self._writer.decide(lambda connection, _was_lost: decision(connection))

    def operate(self, work: Callable[[sa.Connection], T]) -> T:
        """What `work` returns, which reads and changes operational tables only; others write beside it.

        After a lost connection it is run again, perhaps on what it has changed itself. Raises as `decide` does.
        """
        return self._database.commit(lambda connection, _was_lost: work(connection))

    def write(self, *facts: Fact) -> None:
        """Return when the facts are durable. Raises AuditError when they can't be recorded."""
        self._writer.write(*facts)

    async def record(self, *facts: Fact) -> None:
        """`write` for a coroutine."""
        await self._writer.record(*facts)

    def scrub(self) -> None:
        """Write the database's files anew, without what was erased from them. Raises as `Database.scrub` does."""
        self._database.scrub()

    def close(self) -> None:
        """Make durable what waits, and close."""
        self._writer.close()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def now() -> datetime:
    """This instant, UTC."""
    return datetime.now(UTC)


__all__ = ["Landscape", "insert", "now"]
