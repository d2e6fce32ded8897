"""How the landscape's database is opened: the only way, and never without foreign keys and durable commits.

SQLite gets WAL, synchronous=FULL, foreign_keys=ON and a busy timeout on every connection, and every connection is
asked whether they hold. PostgreSQL is asked whether its commits are durable, its triggers fire and its text is UTF-8.
A new database gets its tables at first use; one of another schema version is refused until `elspeth-dagster upgrade`
has run.

Transactions are the same on both. One that reads sees a single state and can't write. One that decides is alone: no
other transaction writes between what it reads and what it inserts (SQLite has one writer at any time; on PostgreSQL
those who write share a lock that those who decide hold alone).

Who only looks opens it so that no write can happen: the SQLite file is opened for reading alone, on PostgreSQL every
transaction is read-only.

A database that is away or busy is waited for, not for ever: `commit` tries again until its patience is over. Nothing
waits without end: not for an answer of a server that is gone, not for a lock.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event

from elspeth_dagster.core.errors import LandscapeError, SettingsError
from elspeth_dagster.landscape import migrations
from elspeth_dagster.landscape.faults import Fault, fault_of, given_up, refusal, why
from elspeth_dagster.landscape.schema import metadata

T = TypeVar("T")
PATIENCE = 60.0  # seconds for which a database that is away or busy is waited for
STARTING = 10.0  # the same when it is opened: a server that is just starting
WRITES = "writes"  # whether a connection to SQLite is set so that it can
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
CONNECTIONS_KEPT, MOST_CONNECTIONS = 4, 8  # of a process, to PostgreSQL
SQLITE_SETTINGS = {
    "foreign_keys": 1,
    "synchronous": 2,
    "journal_mode": "wal",
    "wal_autocheckpoint": 4000,
    "secure_delete": 1,
}
POSTGRESQL_SETTINGS = {
    "fsync": "it could lose commits it has acknowledged",
    "full_page_writes": "it could lose commits it has acknowledged",
    "synchronous_commit": "it could lose commits it has acknowledged",
    "session_replication_role": "its foreign keys would not hold",
    "server_encoding": "it can't keep every text",
}
SOUND = {"on", "remote_write", "remote_apply", "origin", "UTF8"}
# Who is silent is gone: within a minute for both sides. libpq's names, then the server's.
POSTGRESQL_CONNECT = {
    "connect_timeout": 10,
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 45_000,
}
POSTGRESQL_SESSION = {"tcp_keepalives_idle": "20", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3"}


class Database:
    """An open landscape database. Cheap to open; one per process."""

    def __init__(self, engine: sa.Engine, patience: float = PATIENCE) -> None:
        self.engine = engine
        self._patience = patience
        self._failing_since: float | None = None

    @classmethod
    def open(
        cls,
        url: str,
        *,
        create: bool = True,
        upgrade: bool = False,
        read_only: bool = False,
        patience: float = PATIENCE,
    ) -> Database:
        """Open the database at a SQLAlchemy url; make its tables if it has none and `create` is given.

        With `read_only` nothing is made, and the database refuses whatever would write. Raises SettingsError for a url
        of another kind, SchemaVersionError where `upgrade` is needed (and not given), LandscapeError where it can't be
        reached, holds other tables or would lose acknowledged commits.
        """
        create = create and not read_only
        engine = _engine(url, create=create, read_only=read_only, patience=patience)
        try:
            _once_started(engine, lambda: migrations.bring_up(engine, create=create, upgrade=upgrade), patience)
            _check_that_tables_are_logged(engine)
        except BaseException as error:
            engine.dispose()
            if isinstance(error, sa.exc.SQLAlchemyError):
                raise LandscapeError(f"{migrations.named(engine)} can't be opened: {why(error)}") from error
            raise
        return cls(engine, patience)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that sees one consistent state; a database that is away is waited for.

        Raises LandscapeError when the database fails it.
        """
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True} if self._is_postgresql else {}
        try:
            with self._connected().execution_options(**options) as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            raise LandscapeError(f"the landscape can't be read: {why(error)}") from None

    def _connected(self) -> sa.Connection:
        """A connection, tried for with patience. (The pool asks each one whether it still lives.)"""
        until = time.monotonic() + self._patience
        while True:
            try:
                return self.engine.connect()
            except sa.exc.SQLAlchemyError as error:
                if not fault_of(error).passes or time.monotonic() > until:
                    raise
            time.sleep(FIRST_PAUSE)

    @contextmanager
    def write(self, *, alone: bool = False) -> Iterator[sa.Connection]:
        """A transaction, durable when the block is left, undone when it raises; `alone`: no other one writes meanwhile.

        Raises AuditError when the database refuses a record. Not to be nested: the inner one would wait for the outer.
        """
        try:
            with self._transaction(alone=alone) as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            raise refusal(error) from None

    def commit(self, work: Callable[[sa.Connection, bool], T], *, alone: bool = False) -> T:
        """What `work` returns, run in such a transaction, once that is durable.

        It is run again while the database is away or busy; its second argument tells whether the connection was lost
        before, so that what it did may be on record. Then it is alone: a commit that was under way is over by then.
        Raises AuditError when the database refuses a record, StorageError when it is full, can't be written, or has
        failed every try for as long as there is patience.
        """
        started, was_lost, pause = time.monotonic(), False, FIRST_PAUSE
        while True:
            try:
                with self._transaction(alone=alone or was_lost) as connection:
                    done = work(connection, was_lost)
                self._failing_since = None
                return done
            except sa.exc.SQLAlchemyError as error:
                self._have_patience(error, started)
                was_lost |= fault_of(error) is Fault.LOST
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _have_patience(self, error: sa.exc.SQLAlchemyError, started: float) -> None:
        """Raise what becomes of a failed try, unless another one is worth it.

        Patience is one for all who write: who comes when it is over already gets a single try.
        """
        if not fault_of(error).passes:
            raise refusal(error) from None
        self._failing_since = self._failing_since or started
        seconds = time.monotonic() - self._failing_since
        if seconds >= self._patience:
            raise given_up(error, seconds) from None

    @contextmanager
    def _transaction(self, *, alone: bool) -> Iterator[sa.Connection]:
        with self.engine.connect().execution_options(landscape_write=True) as connection, connection.begin():
            if self._is_postgresql:
                connection.execute(_ALONE if alone else _BESIDE_OTHERS)
            yield connection

    def scrub(self) -> None:
        """Write the files anew, so that what was erased is in no free page, log or dead row of them.

        Nothing else can use the database meanwhile; on disk it needs room for a second copy. Raises LandscapeError when
        others keep it from that, or this role may not.
        """
        scrub = _scrub_postgresql if self._is_postgresql else _scrub_sqlite
        connection = self.engine.raw_connection()
        connection.info.pop(WRITES, None)
        try:
            scrub(connection.driver_connection)
        except Exception as error:
            if isinstance(error, LandscapeError):
                raise
            raise LandscapeError(f"{NOT_SCRUBBED}: {why(error)}. {SCRUB_LATER}") from error
        finally:
            connection.close()

    @property
    def _is_postgresql(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


NOT_SCRUBBED = "what was erased may still be in the database's files"
SCRUB_LATER = "Stop what uses the database, then run `elspeth-dagster erase --clean`."


def _scrub_sqlite(connection: Any) -> None:
    connection.execute("PRAGMA query_only = 0")
    connection.execute("VACUUM")
    is_busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if is_busy:
        raise LandscapeError(f"{NOT_SCRUBBED}: somebody else is reading it. {SCRUB_LATER}")


def _scrub_postgresql(connection: Any) -> None:
    """VACUUM skips, with a mere warning, what its role doesn't own."""
    owned = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = '{}'::regclass"
    connection.autocommit = True
    for table in ("payloads", "scopes"):
        if not connection.execute(owned.format(table)).fetchone()[0]:
            raise LandscapeError(
                f"{NOT_SCRUBBED}: this role doesn't own {table}. Its owner has to run `erase --clean`."
            )
        connection.execute(f"VACUUM (FULL) {table}")
    connection.autocommit = False


_ALONE = sa.select(sa.func.pg_advisory_xact_lock(migrations.WRITING))
_BESIDE_OTHERS = sa.select(sa.func.pg_advisory_xact_lock_shared(migrations.WRITING))


def _once_started(engine: sa.Engine, open_: Callable[[], None], patience: float) -> None:
    """Open, waiting for a server that is just starting: it refuses connections, but hasn't asked who we are."""
    seconds = min(patience, STARTING)
    until = time.monotonic() + seconds
    while True:
        try:
            return open_()
        except sa.exc.OperationalError as error:
            if not _may_be_starting(error):
                raise
            if time.monotonic() > until:
                what = f"no connection for {seconds:.0f} seconds: {why(error)}"
                raise LandscapeError(f"{migrations.named(engine)} can't be opened: {what}") from error
        time.sleep(0.2)


def _check_that_tables_are_logged(engine: sa.Engine) -> None:
    """PostgreSQL empties an UNLOGGED table after a crash, whatever it has acknowledged."""
    if engine.dialect.name != "postgresql":
        return
    unlogged = sa.text(
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace "
        "AND c.relkind = 'r' AND c.relpersistence <> 'p' AND c.relname = ANY(:names) LIMIT 1"
    )
    with engine.connect() as connection:
        found = connection.scalar(unlogged, {"names": list(metadata.tables)})
    if found is not None:
        raise LandscapeError(f"PostgreSQL keeps {found} UNLOGGED: it would be empty after a crash. Set it LOGGED")


def _may_be_starting(error: sa.exc.OperationalError) -> bool:
    connection = getattr(error.orig, "pgconn", None)
    knows_us = connection is not None and (connection.used_password or connection.needs_password)
    return fault_of(error) is Fault.LOST and not knows_us


def _engine(url: str, *, create: bool, read_only: bool = False, patience: float = PATIENCE) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise SettingsError(
            "the landscape's url is not a SQLAlchemy url, like sqlite:////data/landscape.sqlite"
        ) from error
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed, create=create, read_only=read_only, patience=patience)
    if parsed.get_backend_name() in ("postgresql", "postgres"):
        return _postgresql_engine(parsed, patience, read_only=read_only)
    raise SettingsError(f"the landscape is SQLite or PostgreSQL, not {parsed.get_backend_name()}")


def _sqlite_engine(url: sa.URL, *, create: bool, read_only: bool, patience: float) -> sa.Engine:
    if url.host or url.query or not Path(url.database or "").is_absolute():
        raise SettingsError(
            "a SQLite landscape is a file, given by its full path and without options: sqlite:////data/landscape.sqlite"
        )
    _see_to_the_file(Path(url.database or ""), create=create)
    if read_only:
        return _sqlite_engine_to_read(url, patience)
    engine = sa.create_engine(url.set(drivername="sqlite"), connect_args={"timeout": patience}, hide_parameters=True)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _sqlite_engine_to_read(url: sa.URL, patience: float) -> sa.Engine:
    """Connections that are opened anew each time, so that a file that was put in another's place is seen."""
    address = f"{Path(url.database or '').as_uri()}?mode=ro"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(address, uri=True, timeout=patience, isolation_level=None, check_same_thread=False)

    engine = sa.create_engine(
        url.set(drivername="sqlite"), creator=connect, poolclass=sa.NullPool, hide_parameters=True
    )
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
    until = time.monotonic() + PATIENCE
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
    if connection.info.get(WRITES) is not writes:
        connection.exec_driver_sql(f"PRAGMA query_only = {int(not writes)}")
        connection.info[WRITES] = writes
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _postgresql_engine(url: sa.URL, patience: float, *, read_only: bool = False) -> sa.Engine:
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=CONNECTIONS_KEPT,
        max_overflow=MOST_CONNECTIONS - CONNECTIONS_KEPT,
        client_encoding="utf8",
        connect_args={name: value for name, value in POSTGRESQL_CONNECT.items() if name not in url.query},
        hide_parameters=True,
    )
    session = {"lock_timeout": f"{max(patience, 0.001) * 1000:.0f}", **POSTGRESQL_SESSION}
    if read_only:
        session["default_transaction_read_only"] = "on"

    def set_up(connection: Any, _record: Any) -> None:
        _set_up_postgresql(connection, session)

    event.listen(engine, "connect", set_up)
    return engine


def _set_up_postgresql(connection: Any, session: Mapping[str, str]) -> None:
    """In one round trip: set what holds for the session, ask for what must hold."""
    asked = [f"current_setting('{name}')" for name in POSTGRESQL_SETTINGS]
    told = [f"set_config('{name}', '{value}', false)" for name, value in session.items()]
    connection.autocommit = True
    found = connection.execute(f"SELECT {', '.join([*asked, *told])}").fetchone()
    connection.autocommit = False
    for (name, otherwise), value in zip(POSTGRESQL_SETTINGS.items(), found, strict=False):
        if value not in SOUND:
            raise LandscapeError(f"PostgreSQL has {name} = {value}: {otherwise}")
