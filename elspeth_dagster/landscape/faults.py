"""Whose fault it is when the database fails a transaction: told by codes and types of errors, never by their words.

    LOST      the connection went, or the server is stopping or starting; whether a commit arrived is not known
    BUSY      others hold what is needed; the transaction is undone
    FULL      there is no room on the database's disk
    BROKEN    the database can't be written as it is: read-only, not permitted, an I/O error, damaged
    REFUSED   the database is well, and does not take this record

The first two pass by themselves, so they are waited for. The next two need somebody to do something.
"""

from __future__ import annotations

import sqlite3
from enum import Enum, auto

import sqlalchemy as sa

from elspeth_dagster.core.errors import AuditError, StorageError


class Fault(Enum):
    LOST = auto()
    BUSY = auto()
    FULL = auto()
    BROKEN = auto()
    REFUSED = auto()

    @property
    def passes(self) -> bool:
        """Whether it is worth waiting for."""
        return self in (Fault.LOST, Fault.BUSY)


OF_SQLITE = {
    sqlite3.SQLITE_BUSY: Fault.BUSY,
    sqlite3.SQLITE_LOCKED: Fault.BUSY,
    sqlite3.SQLITE_PROTOCOL: Fault.BUSY,
    sqlite3.SQLITE_FULL: Fault.FULL,
    sqlite3.SQLITE_PERM: Fault.BROKEN,
    sqlite3.SQLITE_READONLY: Fault.BROKEN,
    sqlite3.SQLITE_IOERR: Fault.BROKEN,
    sqlite3.SQLITE_CORRUPT: Fault.BROKEN,
    sqlite3.SQLITE_CANTOPEN: Fault.BROKEN,
    sqlite3.SQLITE_AUTH: Fault.BROKEN,
    sqlite3.SQLITE_NOTADB: Fault.BROKEN,
    sqlite3.SQLITE_NOMEM: Fault.BROKEN,
}
# SQLSTATEs, or the classes they begin with: https://www.postgresql.org/docs/current/errcodes-appendix.html
OF_POSTGRESQL = {
    "08": Fault.LOST,  # connection exception
    "25P03": Fault.LOST,  # idle_in_transaction_session_timeout
    "25P04": Fault.LOST,  # transaction_timeout
    "40003": Fault.LOST,  # statement_completion_unknown
    "57P": Fault.LOST,  # admin_shutdown, crash_shutdown, cannot_connect_now, …
    "40001": Fault.BUSY,  # serialization_failure
    "40P01": Fault.BUSY,  # deadlock_detected
    "53300": Fault.BUSY,  # too_many_connections
    "55P03": Fault.BUSY,  # lock_not_available
    "57014": Fault.BUSY,  # query_canceled
    "53100": Fault.FULL,  # disk_full
    "25006": Fault.BROKEN,  # read_only_sql_transaction
    "42501": Fault.BROKEN,  # insufficient_privilege
    "53": Fault.BROKEN,  # insufficient resources
    "58": Fault.BROKEN,  # system error, such as io_error
    "XX001": Fault.BROKEN,  # data_corrupted
    "XX002": Fault.BROKEN,  # index_corrupted
}


def fault_of(error: sa.exc.SQLAlchemyError) -> Fault:
    """Whose fault an error is."""
    cause = error.orig if isinstance(error, sa.exc.StatementError) else None
    if isinstance(error, sa.exc.TimeoutError):
        return Fault.BUSY  # all connections of this process are in use
    if isinstance(cause, sqlite3.Error):
        return OF_SQLITE.get(getattr(cause, "sqlite_errorcode", 0) & 0xFF, Fault.REFUSED)  # without the extension
    return _of_postgresql(cause, gone=getattr(error, "connection_invalidated", False))


def _of_postgresql(error: BaseException | None, *, gone: bool) -> Fault:
    import psycopg  # which is slow, and where all goes well, or on SQLite, not needed

    if not isinstance(error, psycopg.Error):
        return Fault.REFUSED
    state = error.sqlstate
    if state is None:  # it doesn't come from the server
        return Fault.LOST if gone or isinstance(error, psycopg.OperationalError) else Fault.REFUSED
    known = (OF_POSTGRESQL[state[:length]] for length in (5, 3, 2) if state[:length] in OF_POSTGRESQL)
    return next(known, Fault.LOST if gone else Fault.REFUSED)


def why(error: Exception) -> str:
    """A database error in the database's own words, without the statement, its parameters and the values that
    PostgreSQL quotes in its details: these may hold a row's text."""
    cause = error.orig if isinstance(error, sa.exc.StatementError) and error.orig else error
    in_short = getattr(getattr(cause, "diag", None), "message_primary", None)
    told = in_short or (str(cause) if isinstance(error, sa.exc.DBAPIError) else f"{type(cause).__name__}: {cause}")
    return " ".join(told.split())


def refusal(error: sa.exc.SQLAlchemyError) -> AuditError:
    """What becomes of a transaction that failed and is not tried again."""
    fault = fault_of(error)
    if fault is Fault.REFUSED:
        return AuditError(f"the landscape refused a record: {why(error)}")
    return StorageError(f"{SAID[fault]}: {why(error)}. Nothing was sent after that. {TO_DO[fault]}")


def given_up(error: sa.exc.SQLAlchemyError, seconds: float) -> AuditError:
    """What becomes of it when its fault has not passed within so many seconds."""
    fault = fault_of(error)
    what = "away" if fault is Fault.LOST else "busy"
    return StorageError(
        f"the landscape's database has been {what} for {seconds:.0f} seconds: {why(error)}. "
        f"Nothing was sent after that. {TO_DO[fault]}"
    )


SAID = {
    Fault.LOST: "the connection to the landscape's database was lost",
    Fault.BUSY: "the landscape's database is busy",
    Fault.FULL: "the disk of the landscape is full",
    Fault.BROKEN: "the landscape can't be written",
}
TO_DO = {
    Fault.LOST: "See that the database runs and can be reached, then launch again.",
    Fault.BUSY: "See who holds it, then launch again.",
    Fault.FULL: "Make room for it, then launch again.",
    Fault.BROKEN: "See to its disk, its permissions and the database's own log, then launch again.",
}
