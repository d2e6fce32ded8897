"""Rule 2: no fact without its parent, of its own run, whatever way the database was opened."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa

from elspeth_dagster.core.errors import AuditError, LandscapeError, SettingsError
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import TABLES, Answer, Call, Fact, Reply
from elspeth_dagster.landscape.schema import calls, metadata, payloads
from elspeth_dagster.landscape.writing import Writer, insert
from elspeth_dagster.resources.landscape import LandscapeResource
from elspeth_dagster_tests.landscape.sample import (
    RECORDS,
    a_run,
    a_running_run,
    all_of,
    an_open_run,
    count,
    only,
    parents_of,
    raw,
    raw_insert,
)

NOBODY = "sha256:" + "00" * 32


def with_reference(fact: Fact, key: sa.ForeignKeyConstraint, other: Fact | None) -> Fact:
    """A fact that refers to what another run's fact refers to; with no other, to nobody. Its run stays its own."""
    names = [name for name in key.column_keys if name != "run_id" or len(key.column_keys) == 1]
    missing = {
        name: 999 if name in ("scope_id", "log_size") else NOBODY if name.endswith("ref") else "nobody"
        for name in names
    }
    return fact._replace(**(missing if other is None else {name: getattr(other, name) for name in names}))


def refusal(connection: sa.Connection, fact: Fact) -> str:
    """The database's words when it refuses a fact; nothing when it takes it."""
    table = TABLES[type(fact)]
    savepoint = connection.begin_nested()
    try:
        raw_insert(connection, table, raw(fact, connection.dialect))
    except sa.exc.DBAPIError as error:
        return str(error.orig).lower()
    finally:
        savepoint.rollback()
    return ""


@pytest.fixture
def two_runs(database: Database) -> Database:
    """A database with two runs that go on."""
    with database.write() as connection:
        insert(connection, a_running_run("r1"))
        insert(connection, a_running_run("r2"))
    return database


def mine_and_theirs(table: sa.Table) -> tuple[Fact, Fact]:
    """A fact of a table, and the same of another run; of payloads one that belongs to a scope."""
    which = 0 if table is payloads else -1
    return all_of(RECORDS[table], a_run("mine"))[which], all_of(RECORDS[table], a_run("theirs"))[which]


def is_of_a_run(key: sa.ForeignKeyConstraint) -> bool:
    """Whether it refers to a parent together with the run."""
    return "run_id" in key.column_keys and len(key.column_keys) > 1


def test_every_reference_to_nobody_is_refused(unchanged_database: Database) -> None:
    for table in metadata.sorted_tables:
        fact, _ = mine_and_theirs(table)
        with unchanged_database.write() as connection:
            insert(connection, parents_of(table, a_run("mine")))
            assert refusal(connection, fact) == "", f"{table.name} is refused anyway, so this would test nothing"
            for key in table.foreign_key_constraints:
                assert "foreign key" in refusal(connection, with_reference(fact, key, None)), key.name
            connection.rollback()


def test_every_reference_into_another_run_is_refused(unchanged_database: Database) -> None:
    tested = []
    for table in metadata.sorted_tables:
        fact, theirs = mine_and_theirs(table)
        with unchanged_database.write() as connection:
            insert(connection, parents_of(table, a_run("mine")))
            insert(connection, parents_of(table, a_run("theirs")))
            for key in [key for key in table.foreign_key_constraints if is_of_a_run(key)]:
                tested.append(key)
                assert "foreign key" in refusal(connection, with_reference(fact, key, theirs)), key.name
            connection.rollback()
    assert len(tested) == 20


def test_with_the_keys_off_each_of_these_references_would_be_taken(unchanged_database: Database) -> None:
    engine = with_keys_off(unchanged_database)
    for table in metadata.sorted_tables:
        fact, theirs = mine_and_theirs(table)
        with engine.begin() as connection:
            for key in table.foreign_key_constraints:
                assert refusal(connection, with_reference(fact, key, None)) == "", key.name
                if is_of_a_run(key):
                    assert refusal(connection, with_reference(fact, key, theirs)) == "", key.name
            connection.rollback()
    engine.dispose()


def with_keys_off(database: Database) -> sa.Engine:
    """What the landscape's own way to open a database never gives."""
    if database.engine.dialect.name == "sqlite":
        return sa.create_engine(database.engine.url)
    return sa.create_engine(database.engine.url, connect_args={"options": "-c session_replication_role=replica"})


def test_only_an_answer_may_refer_to_another_run_and_only_to_its_call(two_runs: Database) -> None:
    facts = [fact for fact in an_open_run("r3") if not isinstance(fact, Answer)]
    reused = only(Answer, a_run("r3"))._replace(call_id="r1-call")
    with two_runs.write() as connection:
        insert(connection, [*facts, reused])


Way = Callable[[str, Fact], object]


def by_a_transaction(url: str, fact: Fact) -> None:
    database = Database.open(url)
    with closing(database), database.write() as connection:
        insert(connection, [fact])


def by_a_decision(url: str, fact: Fact) -> None:
    with Landscape.open(url) as landscape:
        landscape.decide(lambda connection: insert(connection, [fact]))


def by_the_writer(url: str, fact: Fact) -> None:
    database = Database.open(url)
    with closing(database), closing(Writer(database)) as writer:
        writer.write(fact)


def by_a_coroutine(url: str, fact: Fact) -> None:
    with Landscape.open(url) as landscape:
        asyncio.run(landscape.record(fact))


def by_the_file_as_it_is(url: str, fact: Fact) -> None:
    database = Database.open(url, create=False)
    with closing(database), database.write() as connection:
        insert(connection, [fact])


def on_another_thread(url: str, fact: Fact) -> None:
    raised: list[BaseException] = []

    def write(landscape: Landscape) -> None:
        try:
            landscape.write(fact)
        except AuditError as error:
            raised.append(error)

    with Landscape.open(url) as landscape:
        thread = threading.Thread(target=write, args=[landscape])
        thread.start()
        thread.join()
    if raised:
        raise raised[0]


def on_a_new_connection_of_the_pool(url: str, fact: Fact) -> None:
    with Landscape.open(url) as landscape:
        with landscape.read():
            pass
        landscape._database.engine.dispose()
        landscape.write(fact)


def on_the_fifth_connection_of_the_pool(url: str, fact: Fact) -> None:
    database = Database.open(url)
    with closing(database), ExitStack() as others:
        for _ in range(4):
            others.enter_context(database.read())
        with database.write() as connection:
            insert(connection, [fact])


def after_the_server_hung_up(url: str, fact: Fact) -> None:
    with Landscape.open(url) as landscape:
        with landscape.read() as connection:
            is_postgresql = connection.dialect.name == "postgresql"
        if is_postgresql:
            with psycopg.connect(url, autocommit=True) as other:
                mine = "pid <> pg_backend_pid() AND datname = current_database()"
                other.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}".encode())
        landscape.write(fact)


def in_a_dagster_op(url: str, fact: Fact) -> None:
    @dg.op
    def send(landscape: dg.ResourceParam[Landscape]) -> None:
        landscape.write(fact)

    @dg.job
    def sending() -> None:
        send()

    sending.execute_in_process(resources={"landscape": LandscapeResource(url=url)})


WAYS: list[Way] = [
    by_a_transaction,
    by_a_decision,
    by_the_writer,
    by_a_coroutine,
    by_the_file_as_it_is,
    on_another_thread,
    on_a_new_connection_of_the_pool,
    on_the_fifth_connection_of_the_pool,
    after_the_server_hung_up,
    in_a_dagster_op,
]


def test_a_call_of_an_unknown_state_is_refused_by_every_way_to_the_database(
    two_runs: Database, database_url: str
) -> None:
    orphan = only(Call, a_run("r1"))._replace(call_id="orphan", state_id="r1-state_row0", call_index=1)
    for way in WAYS:
        with pytest.raises(AuditError, match=r"(?i)foreign key"):
            way(database_url, orphan)
        way(database_url, orphan._replace(call_id=way.__name__, state_id="r1-state", query_key=way.__name__,
                                          call_index=WAYS.index(way) + 1))  # fmt: skip
    with two_runs.read() as connection:
        assert count(connection, calls) == len(WAYS) + 2


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_the_keys_stay_on_when_a_transaction_asks_to_switch_them_off(two_runs: Database) -> None:
    with two_runs.write() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        orphan = only(Reply, a_run("r1"))._replace(call_id="nobody")
        assert "foreign key" in refusal(connection, orphan)


@pytest.mark.parametrize("option", ["foreign_keys=0", "uri=true&foreign_keys=off", "isolation_level=DEFERRED"])
def test_no_option_of_a_sqlite_url_is_taken(sqlite_url: str, option: str) -> None:
    with pytest.raises(SettingsError, match="without options"):
        Database.open(f"{sqlite_url}?{option}")


def test_a_postgresql_url_can_not_switch_the_keys_off(postgresql_url: str) -> None:
    with pytest.raises(LandscapeError, match=r"session_replication_role = replica: its foreign keys would not hold"):
        Database.open(f"{postgresql_url}&options=-csession_replication_role%3Dreplica")
