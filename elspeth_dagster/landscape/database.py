"""How the landscape's database is opened: the only way, and never without foreign keys and durable commits.

SQLite gets WAL, synchronous=FULL, foreign_keys=ON and a busy timeout on every connection, and every connection is
asked whether they hold. PostgreSQL is asked whether its commits are durable, its triggers fire and its text is UTF-8.
A new database gets its tables at first use; one of another schema version is refused until `elspeth-dagster upgrade`
has run.

Transactions are the same on both. One that reads sees a single state and can't write. One that decides is alone: no
other transaction writes between what it reads and what it inserts (SQLite has one writer at any time; on PostgreSQL
those who write share a lock that those who decide hold alone).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from elspeth_dagster.core.errors import AuditError, LandscapeError, SettingsError
from elspeth_dagster.landscape import migrations

BUSY_SECONDS = 60
SQLITE_SETTINGS = {"foreign_keys": 1, "synchronous": 2, "journal_mode": "wal"}
POSTGRESQL_SETTINGS = {
    "fsync": "it could lose commits it has acknowledged",
    "full_page_writes": "it could lose commits it has acknowledged",
    "synchronous_commit": "it could lose commits it has acknowledged",
    "session_replication_role": "its foreign keys would not hold",
    "server_encoding": "it can't keep every text",
}
SOUND = {"on", "remote_write", "remote_apply", "origin", "UTF8"}


class Database:
    """An open landscape database. Cheap to open; one per process."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    @classmethod
    def open(cls, url: str, *, create: bool = True, upgrade: bool = False) -> Database:
        """Open the database at a SQLAlchemy url; make its tables if it has none and `create` is given.

        Raises SettingsError for a url of another kind, SchemaVersionError where `upgrade` is needed (and not given),
        LandscapeError where it can't be reached, holds other tables or would lose acknowledged commits.
        """
        engine = _engine(url, create=create)
        try:
            migrations.bring_up(engine, create=create, upgrade=upgrade)
        except BaseException as error:
            engine.dispose()
            if isinstance(error, sa.exc.SQLAlchemyError):
                raise LandscapeError(f"{migrations.named(engine)} can't be opened: {why(error)}") from error
            raise
        return cls(engine)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that sees one consistent state. Raises LandscapeError when the database fails it."""
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True} if self._is_postgresql else {}
        try:
            with self.engine.connect().execution_options(**options) as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            raise LandscapeError(f"the landscape can't be read: {why(error)}") from None

    @contextmanager
    def write(self, *, alone: bool = False) -> Iterator[sa.Connection]:
        """A transaction, durable when the block is left, undone when it raises; `alone`: no other one writes meanwhile.

        Raises AuditError when the database refuses a record. Not to be nested: the inner one would wait for the outer.
        """
        try:
            with self.engine.connect().execution_options(landscape_write=True) as connection, connection.begin():
                if self._is_postgresql:
                    connection.execute(_ALONE if alone else _BESIDE_OTHERS)
                yield connection
        except sa.exc.SQLAlchemyError as error:
            raise AuditError(f"the landscape refused a record: {why(error)}") from None

    @property
    def _is_postgresql(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


_ALONE = sa.select(sa.func.pg_advisory_xact_lock(migrations.WRITING))
_BESIDE_OTHERS = sa.select(sa.func.pg_advisory_xact_lock_shared(migrations.WRITING))


def why(error: Exception) -> str:
    """A database error in the database's own words, without the statement, its parameters and the values that
    PostgreSQL quotes in its details: these may hold a row's text."""
    cause = error.orig if isinstance(error, sa.exc.StatementError) and error.orig else error
    in_short = getattr(getattr(cause, "diag", None), "message_primary", None)
    return in_short or (str(cause) if isinstance(error, sa.exc.DBAPIError) else f"{type(cause).__name__}: {cause}")


def _engine(url: str, *, create: bool) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise SettingsError(
            "the landscape's url is not a SQLAlchemy url, like sqlite:////data/landscape.sqlite"
        ) from error
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed, create=create)
    if parsed.get_backend_name() in ("postgresql", "postgres"):
        return _postgresql_engine(parsed)
    raise SettingsError(f"the landscape is SQLite or PostgreSQL, not {parsed.get_backend_name()}")


def _sqlite_engine(url: sa.URL, *, create: bool) -> sa.Engine:
    if url.host or url.query or not Path(url.database or "").is_absolute():
        raise SettingsError(
            "a SQLite landscape is a file, given by its full path and without options: sqlite:////data/landscape.sqlite"
        )
    _see_to_the_file(Path(url.database or ""), create=create)
    engine = sa.create_engine(
        url.set(drivername="sqlite"), connect_args={"timeout": BUSY_SECONDS}, hide_parameters=True
    )
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _see_to_the_file(path: Path, *, create: bool) -> None:
    if not create and not path.exists():
        raise LandscapeError(f"there is no landscape at {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LandscapeError(f"the folder of the landscape at {path} can't be made: {error.strerror}") from error


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # sqlite3 would begin transactions late and by itself
    for name, value in SQLITE_SETTINGS.items():
        _set(connection, name, value)
        if (found := connection.execute(f"PRAGMA {name}").fetchone()[0]) != value:
            raise LandscapeError(f"SQLite keeps {name} at {found}, the landscape needs {value}")


def _set(connection: Any, name: str, value: object) -> None:
    """Going over to WAL doesn't wait for others who open the same new file, so it is tried until they are done."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute(f"PRAGMA {name} = {value}")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("landscape_write", False)
    connection.exec_driver_sql(f"PRAGMA query_only = {int(not writes)}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=4,
        client_encoding="utf8",
        hide_parameters=True,
    )
    event.listen(engine, "connect", _check_postgresql)
    return engine


def _check_postgresql(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        for name, otherwise in POSTGRESQL_SETTINGS.items():
            found = cursor.execute(f"SHOW {name}").fetchone()[0]
            if found not in SOUND:
                raise LandscapeError(f"PostgreSQL has {name} = {found}: {otherwise}")
    connection.commit()
