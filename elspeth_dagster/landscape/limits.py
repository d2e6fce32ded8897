"""Limits per minute, shared by all processes, runs and hosts that use this landscape.

    limit_buckets   a row per provider, account, model and unit: what is left, and when that was reckoned

Who wants to send draws, for several requests in one small transaction: the buckets are filled for the time that has
passed, what earlier requests needed more or less than was estimated is settled, and the requests are served in order.
A process that dies has taken what it drew, and holds nothing.

The time that has passed is by one clock for all: the host's monotonic clock on SQLite, which only processes of one
host can use, the server's on PostgreSQL. If it was set back, or the host was started anew, no time has passed; if it
was set forward, a bucket is full. The hosts' own time of day never matters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from elspeth_dagster.core.errors import AuditError, LandscapeError
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.operating import limit_buckets
from elspeth_dagster.stages.limiting import Bucket, Promised, promise

MICRO = 1_000_000


class Account(NamedTuple):
    """Whose limits: an account of a provider, as the record names it, and one of its models."""

    provider: str
    account: str
    model: str


class Limit(NamedTuple):
    """So many of a unit in any minute."""

    unit: Literal["requests", "tokens"]
    per_minute: int


def monotonic_us() -> int:
    """Microseconds of the host's monotonic clock."""
    return time.monotonic_ns() // 1000


class Limits:
    """An account's limits. Thread-safe: each drawing is a transaction of its own."""

    def __init__(
        self, landscape: Landscape, account: Account, limits: Sequence[Limit], clock: Callable[[], int] = monotonic_us
    ) -> None:
        self._landscape = landscape
        self._account = account
        self._limits = sorted(limits)
        self._clock = clock

    @property
    def units(self) -> list[str]:
        """What is limited, in the order in which needs are told."""
        return [limit.unit for limit in self._limits]

    def draw(self, wanted: Sequence[Sequence[int]], back: Sequence[int]) -> Promised:
        """Take, in order, what each request needs of each unit; first `back` is given back (or taken, if negative).

        Raises LandscapeError when the database fails it.
        """
        try:
            return self._landscape.operate(lambda connection: self._draw(connection, wanted, back))
        except AuditError as error:
            raise LandscapeError(f"the limits per minute can't be shared: {error}") from error

    def _draw(self, connection: sa.Connection, wanted: Sequence[Sequence[int]], back: Sequence[int]) -> Promised:
        stored = self._stored(connection)
        now = self._now(connection)  # after the rows are ours: whoever had them may have taken long
        buckets = [self._bucket(limit, stored.get(limit.unit), now) for limit in self._limits]
        for bucket, amount in zip(buckets, back, strict=True):
            bucket.give_back(amount)
        promised = promise(buckets, wanted)
        self._store(connection, buckets, now)
        return promised

    def _stored(self, connection: sa.Connection) -> dict[str, tuple[int, int]]:
        """Level and time by unit, in rows that nobody else changes before we are through."""
        found = self._locked(connection)
        if len(found) < len(self._limits):
            self._insert(connection)
            found = self._locked(connection)
        return found

    def _locked(self, connection: sa.Connection) -> dict[str, tuple[int, int]]:
        columns = limit_buckets.c
        query = (
            sa.select(columns.unit, columns.level_millionths, columns.filled_at_us)
            .where(*self._is_ours(), columns.unit.in_(self.units))
            .order_by(columns.unit)
            .with_for_update()
        )
        return {unit: (level, at) for unit, level, at in connection.execute(query)}

    def _insert(self, connection: sa.Connection) -> None:
        dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
        now = self._now(connection)
        full = [
            {
                **self._account._asdict(),
                "unit": limit.unit,
                "level_millionths": _millionths(Bucket(limit.per_minute)),
                "filled_at_us": now,
            }
            for limit in self._limits
        ]
        connection.execute(dialect.insert(limit_buckets).on_conflict_do_nothing(), full)

    @staticmethod
    def _bucket(limit: Limit, stored: tuple[int, int] | None, now: int) -> Bucket:
        assert stored is not None  # it is there, or has been inserted
        level, filled_at = stored
        bucket = Bucket(limit.per_minute, level / MICRO)
        bucket.fill((now - filled_at) / MICRO)
        return bucket

    def _store(self, connection: sa.Connection, buckets: Sequence[Bucket], now: int) -> None:
        for limit, bucket in zip(self._limits, buckets, strict=True):
            connection.execute(
                limit_buckets.update()
                .where(*self._is_ours(), limit_buckets.c.unit == limit.unit)
                .values(level_millionths=_millionths(bucket), filled_at_us=now)
            )

    def _is_ours(self) -> list[sa.ColumnElement[bool]]:
        return [limit_buckets.c[name] == value for name, value in self._account._asdict().items()]

    def _now(self, connection: sa.Connection) -> int:
        if connection.dialect.name == "sqlite":
            return self._clock()
        seconds = sa.func.extract("epoch", sa.func.clock_timestamp())
        return int(connection.scalar(sa.select(sa.cast(seconds * MICRO, sa.BigInteger))) or 0)


def _millionths(bucket: Bucket) -> int:
    return int(bucket.level * MICRO)
