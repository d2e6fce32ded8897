"""How the landscape's database is opened: the only way, and never without foreign keys and durable commits.

SQLite gets WAL, synchronous=FULL, foreign_keys=ON and a busy timeout on every connection, and every connection is
asked whether they hold. PostgreSQL is asked whether its commits are durable. A new database gets its tables at first
use; one of another schema version is refused until `elspeth-dagster upgrade` has run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from elspeth_dagster.core.errors import LandscapeError, SchemaVersionError, SettingsError
from elspeth_dagster.landscape import migrations

BUSY_SECONDS = 60
SQLITE_SETTINGS = {"foreign_keys": 1, "synchronous": 2, "journal_mode": "wal"}
POSTGRESQL_SETTINGS = ("fsync", "full_page_writes", "synchronous_commit")


class Database:
    """An open landscape database. Cheap to open; one per process."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    @classmethod
    def open(cls, url: str, *, create: bool = True, upgrade: bool = False) -> Database:
        """Open the database at a SQLAlchemy url; make its tables if it has none and `create` is given.

        Raises SettingsError for a url of another kind, SchemaVersionError where `upgrade` is needed (and not given),
        LandscapeError where it can't be reached or would lose acknowledged commits.
        """
        engine = _engine(url)
        try:
            migrations.bring_up(engine, create=create, upgrade=upgrade)
        except sa.exc.DBAPIError as error:
            engine.dispose()
            raise LandscapeError(f"the landscape at {engine.url!r} can't be opened: {error.orig}") from error
        except SchemaVersionError:
            engine.dispose()
            raise
        return cls(engine)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that sees one consistent state."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction, durable when the block is left; undone when it raises."""
        with self.engine.connect().execution_options(landscape_write=True) as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def _engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise SettingsError(
            "the landscape's url is not a SQLAlchemy url, like sqlite:////data/landscape.sqlite"
        ) from error
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed)
    if parsed.get_backend_name() == "postgresql":
        return _postgresql_engine(parsed)
    raise SettingsError(f"the landscape is SQLite or PostgreSQL, not {parsed.get_backend_name()}")


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    if not url.database or url.database == ":memory:" or url.query:
        raise SettingsError("a SQLite landscape is a file, given without options: sqlite:////data/landscape.sqlite")
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url.set(drivername="sqlite"), connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # sqlite3 would begin transactions late and by itself
    for name, value in SQLITE_SETTINGS.items():
        connection.execute(f"PRAGMA {name} = {value}")
        if (found := connection.execute(f"PRAGMA {name}").fetchone()[0]) != value:
            raise LandscapeError(f"SQLite keeps {name} at {found}, the landscape needs {value}")


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("landscape_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_size=4)
    event.listen(engine, "connect", _check_postgresql)
    return engine


def _check_postgresql(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
        for name in POSTGRESQL_SETTINGS:
            found = cursor.execute(f"SHOW {name}").fetchone()[0]
            if found in ("off", "local"):
                raise LandscapeError(f"PostgreSQL has {name} = {found}: it could lose commits it has acknowledged")
    connection.commit()
