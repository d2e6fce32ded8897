"""PostgreSQL roles: who writes the record can't change it, who reads it can't write, and a whole run needs no more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import psycopg
import pytest
import sqlalchemy as sa

from elspeth_dagster.core.errors import AuditError, LandscapeError, SettingsError
from elspeth_dagster.landscape import operating, schema
from elspeth_dagster.landscape.erasing import Wanted, erase
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.roles import OF_THE_OWNER, statements
from elspeth_dagster_tests.conftest import PostgresServer
from elspeth_dagster_tests.landscape.test_only_growing import changes
from elspeth_dagster_tests.landscape.told import a_text, tell


class Roles(NamedTuple):
    """The urls of one landscape for who owns, writes and reads it."""

    owner: str
    writer: str
    reader: str


@pytest.fixture(scope="module")
def roles(postgres: PostgresServer, postgres_template: str) -> Iterator[Roles]:
    """A landscape with a run, set up by the SQL that is printed (twice, as after an upgrade)."""
    name = postgres.create(postgres_template)
    url = postgres.url(name)
    with psycopg.connect(url, autocommit=True) as admin:
        for _ in range(2):
            for statement in statements("public", "trial"):
                admin.execute(statement.encode())
        for kind in Roles._fields:
            admin.execute(f"CREATE ROLE a_{kind} LOGIN IN ROLE trial_{kind}".encode())
    found = Roles(*(as_user(url, f"a_{kind}") for kind in Roles._fields))
    with Landscape.open(found.writer) as landscape:
        tell(landscape, "r1", {"A": a_text("A1")}, rejected={7: b"no row"})
        tell(landscape, "r2", {"B": a_text("B1")}, ends=False)
    yield found
    postgres.drop(name)
    for role in [*(f"a_{kind}" for kind in Roles._fields), *(f"trial_{kind}" for kind in Roles._fields)]:
        postgres.run(f"DROP ROLE {role}")


def as_user(url: str, user: str) -> str:
    return sa.make_url(url).set(username=user, password=None).render_as_string(hide_password=False)


def refusals(url: str, attempts: list[str]) -> dict[str, str]:
    """What the database says to each statement; all are undone."""
    said = {}
    with psycopg.connect(url) as connection:
        for attempt in attempts:
            try:
                connection.execute(attempt.encode())
                said[attempt] = ""
            except psycopg.Error as error:
                said[attempt] = str(error.diag.message_primary)
            connection.rollback()
    return said


def evidence() -> list[str]:
    return [table.name for table in schema.metadata.sorted_tables]


def test_the_writer_changes_nothing_of_the_record_and_takes_no_guard_off(roles: Roles) -> None:
    attempts = [statement for _, statement in changes("postgresql")]
    attempts += [f"ALTER TABLE {name} DISABLE TRIGGER ALL" for name in evidence()]
    attempts += [f"DROP TRIGGER {name}_no_change ON {name}" for name in evidence()]
    attempts += [f"ALTER TABLE {name} SET UNLOGGED" for name in evidence()]
    attempts += [f"DROP TABLE {name} CASCADE" for name in evidence()]
    attempts += [
        "SET session_replication_role = replica",
        "CREATE OR REPLACE FUNCTION landscape_only_grows() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "DROP FUNCTION landscape_only_grows() CASCADE",
        "CREATE TABLE another (name text)",
        "UPDATE landscape_version SET version_num = '1'",
        "SET ROLE trial_owner",
    ]
    said = refusals(roles.writer, attempts)
    assert {text for text in said.values() if "must be owner" not in text and "permission denied" not in text} == set()


def test_the_writer_records_no_erasure_and_no_hold(roles: Roles) -> None:
    said = refusals(roles.writer, [f"INSERT INTO {name} SELECT * FROM {name}" for name in OF_THE_OWNER])
    assert all("permission denied" in text for text in said.values())
    with Landscape.open(roles.writer) as landscape, pytest.raises(AuditError, match="permission denied for table eras"):
        erase(landscape, Wanted(row_key="A"), "request 42", "A. Clerk")


def test_the_writer_shares_limits_and_budgets(roles: Roles) -> None:
    tables = [table.name for table in operating.metadata.sorted_tables]
    said = refusals(roles.writer, [f"DELETE FROM {name}" for name in tables])
    some = {name: next(iter(operating.metadata.tables[name].columns)).name for name in tables}
    said |= refusals(roles.writer, [f"UPDATE {name} SET {column} = {column}" for name, column in some.items()])
    assert set(said.values()) == {""}


def test_the_reader_reads_all_and_writes_nothing(roles: Roles) -> None:
    everything = [*evidence(), *operating.metadata.tables]
    assert set(refusals(roles.reader, [f"SELECT * FROM {name}" for name in everything]).values()) == {""}
    writes = [f"INSERT INTO {name} SELECT * FROM {name}" for name in everything]
    writes += [f"UPDATE {name} SET {next(iter(sa_table(name).columns)).name} = NULL" for name in everything]
    said = refusals(roles.reader, writes + [f"DELETE FROM {name}" for name in everything])
    assert all("permission denied" in text for text in said.values()), said


def sa_table(name: str) -> sa.Table:
    return {**schema.metadata.tables, **operating.metadata.tables}[name]


def test_the_owner_erases_and_the_guards_bind_him_too(roles: Roles) -> None:
    with Landscape.open(roles.owner) as landscape:
        assert erase(landscape, Wanted(row_key="A"), "request 42", "A. Clerk").payloads == 5
        with landscape.read() as connection:
            full = {name for name in evidence() if connection.scalar(sa.text(f"SELECT 1 FROM {name} LIMIT 1"))}
    said = refusals(roles.owner, [statement for name, statement in changes("postgresql") if name in full])
    assert full > {"payloads", "scopes", "rows", "erasures", "erased_payloads", "erased_scopes"}
    assert all("only grows" in text for text in said.values())


def test_who_does_not_own_the_tables_can_not_write_their_files_anew(roles: Roles) -> None:
    with (
        Landscape.open(roles.writer) as landscape,
        pytest.raises(LandscapeError, match=r"may still be in the database's files: this role doesn't own payloads"),
    ):
        landscape.scrub()


@pytest.mark.parametrize("name", ["", "a b", "A", 'x"; DROP TABLE runs; --', "x" * 42, "1a"])
def test_names_that_would_need_quotes_are_refused(name: str) -> None:
    for given in ((name, "elspeth"), ("public", name)):
        with pytest.raises(SettingsError, match="is no name of at most 41 small letters"):
            list(statements(*given))
