"""Rule 1: the record only grows. Nothing changes or removes a fact, whoever is connected, by whatever statement."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest
import sqlalchemy as sa

from elspeth_dagster.landscape import states
from elspeth_dagster.landscape.columns import Hash, Number
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.records import NodeState
from elspeth_dagster.landscape.schema import metadata
from elspeth_dagster.landscape.writing import insert
from elspeth_dagster_tests.landscape.sample import a_run, a_running_run, only

Execute = Callable[[str], object]
Statements = Iterator[tuple[str, str]]


@pytest.fixture
def recorded(database: Database) -> Database:
    """A database with a row in every table: a run that goes on with a state at work, a state and a run that ended."""
    at_work = a_running_run("r1")
    earlier = only(NodeState, at_work)._replace(state_id="r1-earlier", attempt=2)
    with database.write() as connection:
        insert(connection, [*at_work, earlier, states.end(earlier, {})])
        insert(connection, a_run("r2")[:4])
        insert(connection, a_run("r2")[-1:])
    return database


def changes(dialect: str) -> Statements:
    """Each table with each statement that would change or remove one of its rows."""
    for table in metadata.sorted_tables:
        name, columns = table.name, [f'"{column.name}"' for column in table.columns]
        some, every, key = columns[-1], ", ".join(columns), ", ".join(column.name for column in table.primary_key)
        yield name, f"UPDATE {name} SET {some} = {some}"
        yield name, f"DELETE FROM {name}"
        upsert = f"INSERT INTO {name} SELECT * FROM {name} WHERE true ON CONFLICT"
        yield name, f"{upsert} ({key}) DO UPDATE SET {some} = excluded.{some}"
        if dialect == "postgresql":
            yield name, f"TRUNCATE {name} CASCADE"
            same = " AND ".join(f"a.{column.name} = b.{column.name}" for column in table.primary_key)
            yield name, f"MERGE INTO {name} a USING {name} b ON {same} WHEN MATCHED THEN UPDATE SET {some} = b.{some}"
            yield name, f"MERGE INTO {name} a USING {name} b ON {same} WHEN MATCHED THEN DELETE"
        else:
            yield name, f"REPLACE INTO {name} SELECT * FROM {name}"
            yield name, f"INSERT OR REPLACE INTO {name} SELECT * FROM {name}"
            if table.dialect_options["sqlite"]["with_rowid"]:
                yield name, f"INSERT OR REPLACE INTO {name} (rowid, {every}) {another_row(table)}"
            yield name, f"UPDATE OR REPLACE {name} SET {some} = {some}"
            yield name, f"UPDATE OR IGNORE {name} SET {some} = {some}"


def another_row(table: sa.Table) -> str:
    """A row with new keys at a rowid that is taken."""
    return f"SELECT rowid, {', '.join(another(column) for column in table.columns)} FROM {table.name} LIMIT 1"


def another(column: sa.Column[object]) -> str:
    """Another value for what a key is made of, unless a CHECK or a type has a say in it."""
    name = f'"{column.name}"'
    in_a_key = any(column.name in key.columns for key in column.table.constraints
                   if isinstance(key, sa.UniqueConstraint | sa.PrimaryKeyConstraint))  # fmt: skip
    if not in_a_key or column.name in ("kind", "row_id") or str(column) == "payloads.ref":
        return name
    if isinstance(column.type, Hash):
        return "zeroblob(32)"
    return f"{name} + 7" if isinstance(column.type, Number) else f"{name} || 'x'"


def unhindered(execute: Execute, dialect: str) -> list[str]:
    """The statements that no guard refuses."""
    passed = []
    for _, statement in changes(dialect):
        try:
            execute("SAVEPOINT before")
            execute(statement)
            passed.append(statement)
        except (sqlite3.Error, psycopg.Error, sa.exc.DBAPIError) as error:
            if "only grows" not in str(error):
                passed.append(f"{statement} -- {error}")
        execute("ROLLBACK TO before")
    return passed


@contextmanager
def bare_connection(database: Database) -> Iterator[Execute]:
    """Whoever is connected without our settings: keys off on SQLite, as a replica on PostgreSQL."""
    url = database.engine.url
    if database.engine.dialect.name == "sqlite":
        with closing(sqlite3.connect(str(url.database), isolation_level=None)) as connection:
            connection.execute("BEGIN")
            yield connection.execute
    else:
        plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(plain) as postgresql:
            postgresql.execute("SET session_replication_role = replica")
            yield lambda statement: postgresql.execute(statement.encode())
            postgresql.rollback()


def test_no_statement_changes_or_removes_a_row_of_any_table(recorded: Database, dialect: str) -> None:
    with recorded.write() as connection:
        passed = unhindered(connection.exec_driver_sql, dialect)
    assert passed == []


def test_a_connection_without_our_settings_is_refused_as_well(recorded: Database, dialect: str) -> None:
    with bare_connection(recorded) as execute:
        assert unhindered(execute, dialect) == []


def test_without_the_guards_every_one_of_these_statements_would_pass(recorded: Database, dialect: str) -> None:
    drop_triggers(recorded, "")
    with bare_connection(recorded) as execute:
        assert sorted(unhindered(execute, dialect)) == sorted(statement for _, statement in changes(dialect))


GUARDS = [
    ("sqlite", "no_update"),
    ("sqlite", "no_delete"),
    ("sqlite", "no_replace"),
    ("postgresql", "no_change"),
    ("postgresql", "no_truncate"),
]


@pytest.mark.parametrize(("dialect", "guard"), GUARDS, indirect=["dialect"])
def test_without_one_kind_of_guard_something_would_pass_on_every_table(
    recorded: Database, dialect: str, guard: str
) -> None:
    drop_triggers(recorded, guard)
    with bare_connection(recorded) as execute:
        passed = set(unhindered(execute, dialect))
    assert {name for name, statement in changes(dialect) if statement in passed} == set(metadata.tables)


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_replica_would_pass_by_a_guard_that_is_not_always_enabled(recorded: Database) -> None:
    with recorded.write() as connection:
        connection.exec_driver_sql("ALTER TABLE run_ends DISABLE TRIGGER run_ends_no_change")
        connection.exec_driver_sql("ALTER TABLE run_ends ENABLE TRIGGER run_ends_no_change")
    with bare_connection(recorded) as execute:
        execute("DELETE FROM run_ends")


def drop_triggers(database: Database, kind: str) -> None:
    """Take away all guards whose name holds `kind`."""
    with database.write() as connection:
        if database.engine.dialect.name == "sqlite":
            found = connection.exec_driver_sql("SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'").all()
            drops = [f"DROP TRIGGER {name}" for name, _ in found if kind in name]
        else:
            names = "SELECT tgname, tgrelid::regclass FROM pg_trigger WHERE NOT tgisinternal"
            found = connection.exec_driver_sql(names).all()
            drops = [f"DROP TRIGGER {name} ON {table}" for name, table in found if kind in name]
        for drop in drops:
            connection.exec_driver_sql(drop)
    assert drops
