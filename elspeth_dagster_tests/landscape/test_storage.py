"""A database that is busy, full, stopped or starting: waited for within bounds, then a clear stop; nothing is lost."""

from __future__ import annotations

import asyncio
import random
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from elspeth_dagster.core.errors import AuditError, LandscapeError, StorageError
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.faults import OF_POSTGRESQL
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.migrations import WRITING
from elspeth_dagster.landscape.records import Payload
from elspeth_dagster.landscape.schema import payloads
from elspeth_dagster_tests.conftest import PostgresServer
from elspeth_dagster_tests.landscape.sample import a_token, an_open_run, count, recorded
from elspeth_dagster_tests.landscape.test_cut_commits import terminate
from elspeth_dagster_tests.landscape.test_writing import tokens_seen_from_outside

HOLD_THE_FILE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


def file_of(url: str) -> str:
    path = sa.make_url(url).database
    assert path
    return path


@contextmanager
def held(url: str) -> Iterator[Callable[[], object]]:
    """Another process, or session, lets nobody write, until the block or whoever calls ends it."""
    if url.startswith("sqlite"):
        command = [sys.executable, "-c", HOLD_THE_FILE, file_of(url)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdin and holder.stdout and holder.stdout.readline() == "held\n"
            yield holder.stdin.close
    else:
        with psycopg.connect(url, autocommit=True) as session:
            session.execute("SELECT pg_advisory_lock(%s)", [WRITING])
            yield session.close


def noise(number: int, size: int = 50_000) -> Payload:
    """A payload that takes its size on the disk."""
    return Payload.of(random.Random(number).randbytes(size))


def test_a_database_that_is_held_for_longer_than_there_is_patience_is_a_clear_stop(database_url: str) -> None:
    with Landscape(Database.open(database_url, patience=1)) as landscape:
        with held(database_url):
            started = time.monotonic()
            for write in (lambda: landscape.write(noise(1)), lambda: landscape.decide(lambda _: None)):
                with pytest.raises(StorageError, match=r"has been busy for \d+ seconds: .* See who holds it"):
                    write()
            assert 2 <= time.monotonic() - started < 8
        landscape.write(noise(2))
        with landscape.read() as connection:
            assert [payload.ref for payload in recorded(connection, Payload)] == [noise(2).ref]


def test_many_who_wait_for_a_database_that_is_held_are_told_together(database_url: str) -> None:
    """Not one after the other, each after a wait of its own."""

    async def write_all() -> list[BaseException | None]:
        writes = (landscape.record(noise(number, 10)) for number in range(20))
        return await asyncio.gather(*writes, return_exceptions=True)

    with Landscape(Database.open(database_url, patience=1)) as landscape, held(database_url):
        started = time.monotonic()
        assert [type(error) for error in asyncio.run(write_all())] == [StorageError] * 20
        assert time.monotonic() - started < 8


def test_a_database_that_is_held_for_less_is_waited_for(database_url: str) -> None:
    with Landscape(Database.open(database_url, patience=30)) as landscape, held(database_url) as let_go:
        timer = threading.Timer(1.5, let_go)
        timer.start()
        landscape.write(noise(1))
        timer.join()
        with landscape.read() as connection:
            assert count(connection, payloads) == 1


def write_until_it_fails(landscape: Landscape) -> tuple[list[str], AuditError]:
    """What was acknowledged before the first error, and the error."""
    acknowledged: list[str] = []
    while len(acknowledged) < 2000:
        payload = noise(len(acknowledged))
        try:
            landscape.write(payload)
        except AuditError as error:
            return acknowledged, error
        acknowledged.append(payload.ref)
    raise AssertionError("it never failed")


def check_whole(url: str, acknowledged: list[str]) -> None:
    """Nothing acknowledged is missing, the file is sound, and another process can go on."""
    with closing(sqlite3.connect(file_of(url))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with Landscape.open(url) as landscape:
        landscape.write(noise(9_999))
        with landscape.read() as connection:
            assert {*acknowledged, noise(9_999).ref} <= set(connection.scalars(sa.select(payloads.c.ref)))


def test_a_full_sqlite_database_is_a_clear_stop_at_once(sqlite_url: str) -> None:
    database = Database.open(sqlite_url)

    @event.listens_for(database.engine, "connect")
    def limit(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 400")

    database.engine.dispose()
    with Landscape(database) as landscape:
        acknowledged, error = write_until_it_fails(landscape)
        started = time.monotonic()
        with pytest.raises(StorageError):
            landscape.write(noise(9_998))
        assert time.monotonic() - started < 5
    assert isinstance(error, StorageError)
    assert str(error).startswith("the disk of the landscape is full: ")
    assert "Make room for it" in str(error)
    check_whole(sqlite_url, acknowledged)


FILL_THE_DISK = """
import resource, sys
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster_tests.landscape.test_storage import write_until_it_fails
with Landscape.open(sys.argv[1]) as landscape:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    acknowledged, error = write_until_it_fails(landscape)
    print(*acknowledged, sep="\\n")
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("limit", [800_000, 1_000_001, 1_234_567])
def test_a_disk_that_takes_no_more_in_the_middle_of_a_commit_is_a_clear_stop(sqlite_url: str, limit: int) -> None:
    command = [sys.executable, "-c", FILL_THE_DISK, sqlite_url, str(limit)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    assert len(told) > 3
    assert told[-1].startswith("StorageError the landscape can't be written: ")
    check_whole(sqlite_url, told[:-1])


def test_a_sqlite_file_that_may_not_be_written_is_a_clear_stop(sqlite_url: str) -> None:
    database = Database.open(sqlite_url)

    @event.listens_for(database.engine, "begin")
    def keep_from_writing(connection: sa.Connection) -> None:
        connection.exec_driver_sql("PRAGMA query_only = 1")

    with Landscape(database) as landscape, pytest.raises(StorageError, match=r"can't be written: .*readonly"):
        landscape.write(noise(1))


SAY_IT = (
    "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{}'; END $$"
)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("53100", "the disk of the landscape is full: "),
        ("58030", "the landscape can't be written: "),
        ("25006", "the landscape can't be written: "),
        ("40P01", r"the landscape's database has been busy for \d+ seconds: "),
        ("57P03", r"the landscape's database has been away for \d+ seconds: "),
        ("P0001", "the landscape refused a record: "),
    ],
)
def test_an_error_of_postgresql_is_told_by_its_code(postgresql_url: str, state: str, said: str) -> None:
    with psycopg.connect(postgresql_url) as owner:
        owner.execute(SAY_IT.format(state).encode())
        owner.execute("CREATE TRIGGER fail BEFORE INSERT ON payloads FOR EACH ROW EXECUTE FUNCTION fail()")
    with Landscape(Database.open(postgresql_url, patience=1)) as landscape, pytest.raises(AuditError) as refused:
        landscape.write(noise(1))
    assert re.match(said, str(refused.value))


def test_every_code_that_is_told_apart_is_one_of_postgresql() -> None:
    known = {state for state in vars(psycopg.errors).values() if isinstance(state, type)}
    states = {error.sqlstate for error in known if issubclass(error, psycopg.Error) and error.sqlstate}
    for code in OF_POSTGRESQL:
        assert any(state.startswith(code) for state in states), code


def test_postgresql_that_crashes_and_comes_back_loses_nothing_acknowledged(own_postgres: PostgresServer) -> None:
    url, over = own_postgres.url("postgres"), threading.Event()

    def write(thread: int) -> list[str]:
        written: list[str] = []
        while not over.is_set():
            landscape.write(a_token(f"{thread}-{len(written)}"))
            written.append(f"{thread}-{len(written)}")
        return written

    with Landscape.open(url) as landscape, ThreadPoolExecutor() as threads:
        landscape.write(*an_open_run("r1"))
        work = [threads.submit(write, thread) for thread in range(3)]
        for _ in range(3):
            time.sleep(0.3)
            own_postgres.crash()
            own_postgres.start()
        over.set()
        acknowledged = [token for one in work for token in one.result(timeout=90)]
    assert tokens_seen_from_outside(url) == {*acknowledged, "r1-slice", "r1-row", "r1-batch"}


def test_postgresql_that_stays_stopped_is_a_clear_stop_and_one_that_starts_is_waited_for(
    own_postgres: PostgresServer,
) -> None:
    url = own_postgres.url("postgres")
    with Landscape(Database.open(url, patience=2)) as landscape:
        landscape.write(*an_open_run("r1"))
        own_postgres.crash()
        with pytest.raises(StorageError, match=r"has been away for \d seconds"):
            landscape.write(a_token("never"))
        with pytest.raises(LandscapeError, match=r"can't be read: .*No such file|can't be read: .*refused"):
            tokens(landscape)
        with pytest.raises(LandscapeError, match="can't be opened: no connection for 2 seconds"):
            Database.open(url, patience=2)
        starting = threading.Timer(1, own_postgres.start)
        starting.start()
        Database.open(url).close()
        starting.join()
        landscape.write(a_token("later"))
        assert tokens(landscape) == {"r1-slice", "r1-row", "r1-batch", "later"}


def tokens(landscape: Landscape) -> set[str]:
    with landscape.read() as connection:
        return set(connection.execute(sa.text("SELECT token_id FROM tokens")).scalars())


def test_a_connection_that_is_cut_while_reading_is_a_landscape_error_and_the_next_one_reads(
    postgresql_url: str,
) -> None:
    with Landscape.open(postgresql_url) as landscape:
        refused = pytest.raises(LandscapeError, match="can't be read: terminating connection")
        with refused, landscape.read() as connection:
            count(connection, payloads)
            terminate(postgresql_url)
            count(connection, payloads)
        assert tokens(landscape) == set()


def test_nothing_waits_for_ever_for_postgresql(postgresql_url: str) -> None:
    with closing(Database.open(postgresql_url)) as database, database.read() as connection:
        session = {
            name: connection.exec_driver_sql(f"SHOW {name}").scalar()
            for name in ("lock_timeout", "tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
        }
        assert session["lock_timeout"] == "1min"
        told = connection.connection.dbapi_connection.info.get_parameters()
    names = ("connect_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout")
    assert [told[name] for name in names] == ["10", "20", "10", "3", "45000"]


def test_what_the_url_says_about_connections_counts(postgresql_url: str) -> None:
    sign = "&" if "?" in postgresql_url else "?"
    with closing(Database.open(f"{postgresql_url}{sign}connect_timeout=3")) as database, database.read() as connection:
        assert connection.connection.dbapi_connection.info.get_parameters()["connect_timeout"] == "3"
