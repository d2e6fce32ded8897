"""The schema's versions: what is made is what the code declares, guards and all; no other is worked with."""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from elspeth_dagster.core.errors import LandscapeError, SchemaVersionError
from elspeth_dagster.landscape import guards, installation_log, migrations, operating, schema
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.inserting import ORDER
from elspeth_dagster.landscape.records import TABLES, Answer, Artifact, Fact, Payload, Reply, Row, Scope
from elspeth_dagster.landscape.schema import metadata
from elspeth_dagster.landscape.writing import insert
from elspeth_dagster_tests.conftest import PostgresServer
from elspeth_dagster_tests.landscape.processes import open_all
from elspeth_dagster_tests.landscape.sample import a_run, all_of, count, raw, raw_insert, recorded
from elspeth_dagster_tests.landscape.test_only_growing import drop_triggers

CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'landscape_version'
"""
COLUMNS = """
SELECT table_name, column_name, ordinal_position, data_type, is_nullable, column_default
FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'landscape_version'
"""
INDEXES = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'landscape_version'"
ALL = (metadata, operating.metadata)
COMMENTS = "SELECT relname, obj_description(oid) FROM pg_class WHERE relnamespace = 'public'::regnamespace"


def differences(database: Database) -> list[Any]:
    """How the database's tables differ from those that the code declares, as alembic sees it."""
    ours = {"include_name": lambda name, kind, _: not (kind == "table" and name == migrations.VERSION_TABLE)}
    with database.read() as connection:
        return list(compare_metadata(MigrationContext.configure(connection, opts=ours), ALL))


def catalogue(connection: sa.Connection) -> set[tuple[object, ...]]:
    """Tables, columns, constraints and indexes, as the database spells them."""
    if connection.dialect.name == "postgresql":
        return {tuple(row) for query in (COLUMNS, CONSTRAINTS, INDEXES, COMMENTS)
                for row in connection.exec_driver_sql(query) if row[0] != "pk_landscape_version"
                and not str(row[0]).startswith("landscape_version")}  # fmt: skip
    made = "SELECT sql FROM sqlite_master WHERE type <> 'trigger' AND tbl_name <> 'landscape_version'"
    return {tuple(clauses(sql)) for (sql,) in connection.exec_driver_sql(made) if sql}


def clauses(sql: str) -> list[str]:
    """What a CREATE statement consists of; the order of constraints says nothing, nor whether a column was added."""
    flat = re.sub(r", (?=[a-z_]+ (?:TEXT|INTEGER|BLOB))|(?<!,) (?=CONSTRAINT ck_)", ",\n", sql)
    return sorted(re.sub(r"\s+", " ", clause).strip(" ,") for clause in re.split(r",\s*\n|\(\s*\n|\n\)", flat))


def guards_in(database: Database) -> set[tuple[str, str]]:
    """Each table with the triggers on it that fire always."""
    with database.read() as connection:
        if connection.dialect.name == "postgresql":
            found = "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE tgenabled = 'A'"
        else:
            found = "SELECT tbl_name, name FROM sqlite_master WHERE type = 'trigger'"
        return {(table, name) for table, name in connection.exec_driver_sql(found)}


KEPT_BY_KEY = ("answers", "replies", "scopes", "erased_payloads", "erased_scopes", "log_entries", "checkpoints")


def guards_needed(dialect: str) -> set[tuple[str, str]]:
    """Each table with the triggers that it needs."""
    needed = set()
    for table in metadata.sorted_tables:
        keys = sum(isinstance(key, sa.UniqueConstraint | sa.PrimaryKeyConstraint) for key in table.constraints)
        kinds = ["no_change", "no_truncate"] if dialect == "postgresql" else ["no_update", "no_delete"]
        keys += table.name not in KEPT_BY_KEY  # whose rows have no rowid beside their key
        kinds += [f"no_replace_{number}" for number in range(keys)] if dialect == "sqlite" else []
        taken_later = ("runs", "run_ends", "seals", "seal_tiles")
        kinds += ["no_more"] if "run_id" in table.columns and table.name not in taken_later else []
        kinds += (
            ["no_late"] if "state_id" in table.columns and not table.name.startswith(("node_state", "reviews")) else []
        )
        kinds += ["not_closed"] if table.name == "rows" else []
        needed |= {(table.name, f"{table.name}_{kind}") for kind in kinds}
    return needed


def test_a_new_database_has_the_tables_that_the_code_declares(empty_url: str) -> None:
    with closing(Database.open(empty_url)) as database:
        assert differences(database) == []


def test_a_new_database_has_every_constraint_that_the_code_declares(empty_url: str) -> None:
    with closing(Database.open(empty_url)) as database:
        with database.read() as connection:
            migrated = catalogue(connection)
        with database.write() as connection:
            drop_all(connection)
            for tables in ALL:
                tables.create_all(connection)
            declared = catalogue(connection)
            connection.rollback()
    assert migrated == declared


def drop_all(connection: sa.Connection) -> None:
    """Make room for the same tables."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
    for table in [*operating.metadata.sorted_tables, *reversed(metadata.sorted_tables)]:
        connection.exec_driver_sql(f"DROP TABLE {table.name}")


def test_a_schema_that_was_changed_by_hand_would_differ(database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("DROP INDEX ix_rows_scope_id")
        connection.exec_driver_sql("ALTER TABLE runs ADD COLUMN mood text")
    assert {difference[0] for difference in differences(database)} == {"add_index", "remove_column"}


def test_a_constraint_that_was_dropped_by_hand_would_be_missed(database: Database) -> None:
    with database.write() as connection:
        before = catalogue(connection)
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("ALTER TABLE calls DROP CONSTRAINT ck_calls_cause_is_known")
        else:
            made = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'replies'").scalar_one()
            connection.exec_driver_sql("DROP TABLE replies")
            connection.exec_driver_sql(re.sub(r"CONSTRAINT ck_replies_whole CHECK \(.*\), ", "", made))
        assert catalogue(connection) != before
        connection.rollback()


def test_every_table_of_a_new_database_has_its_guards(empty_url: str, dialect: str) -> None:
    with closing(Database.open(empty_url)) as database:
        assert guards_in(database) == guards_needed(dialect)


def test_guards_can_be_made_again(database: Database, dialect: str) -> None:
    drop_triggers(database, "calls")
    assert guards_in(database) != guards_needed(dialect)
    for _ in range(2):
        with database.write() as connection:
            guards.install(connection)
        assert guards_in(database) == guards_needed(dialect)


def set_version(url: str, version: str) -> None:
    """Pretend that another package made this database."""
    with closing(Database.open(url)) as database, database.write() as connection:
        connection.execute(sa.text("UPDATE landscape_version SET version_num = :version"), {"version": version})


def test_a_newer_schema_is_refused_whatever_is_allowed(database_url: str) -> None:
    set_version(database_url, "9999")
    for allowed in ({}, {"create": True, "upgrade": True}):
        with pytest.raises(SchemaVersionError, match=r"has schema 9999, newer than .*: install the newer package"):
            Database.open(database_url, **allowed)


NEWEST = migrations.newest()
NEXT_VERSION = f"""
from alembic import op
revision, down_revision, branch_labels, depends_on = "9998", "{NEWEST}", None, None
def upgrade() -> None:
    op.create_index("ix_later", "runs", ["host"])
"""


def make_package_newer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this package has one schema version more."""
    (folder / "versions").mkdir(parents=True)
    ours = Path(migrations.__file__).parent
    for path in [ours / "env.py", ours / "script.py.mako", *(ours / "versions").glob("*.py")]:
        (folder / path.relative_to(ours)).write_text(path.read_text())
    (folder / "versions" / "9998_later.py").write_text(NEXT_VERSION)
    monkeypatch.setattr(migrations, "__file__", str(folder / "__init__.py"))


def test_an_older_schema_is_refused_until_it_is_upgraded_and_keeps_its_facts_and_guards(
    database_url: str, dialect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Database.open(database_url)) as database, database.write() as connection:
        insert(connection, a_run("r1")[:4])
    make_package_newer(tmp_path / "package", monkeypatch)
    with pytest.raises(
        SchemaVersionError, match=f"has schema {NEWEST}, this package needs 9998: run `elspeth-dagster upgr"
    ):
        Database.open(database_url)
    with closing(Database.open(database_url, upgrade=True)) as database, database.read() as connection:
        assert migrations.version_of(connection) == "9998"
        assert count(connection, schema.runs) == 1
        assert "ix_later" in {index["name"] for index in sa.inspect(connection).get_indexes("runs")}
        assert guards_in(database) == guards_needed(dialect)
        logged = [json.loads(entry.entry) for entry in installation_log.entries(connection)]
        assert [entry["kind"] for entry in logged] == ["begin", "migration"]
        assert (logged[1]["from"], logged[1]["to"]) == (NEWEST, "9998")
    Database.open(database_url).close()


def test_what_tables_hold_is_kept_when_they_are_made_anew(
    empty_url: str, dialect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Path(migrations.__file__).parent
    without = shutil.copytree(ours, tmp_path / "before", ignore=shutil.ignore_patterns("000[5-9]_*", "001?_*"))
    with monkeypatch.context() as older:
        older.setattr(migrations, "__file__", str(without / "__init__.py"))
        guard_as_before_erasures(older)
        with closing(Database.open(empty_url)) as database, database.write() as connection:
            insert_before_scopes(connection, a_run("r1"))
    with closing(Database.open(empty_url, upgrade=True)) as database:
        with database.read() as connection:
            answers = [Answer(*row) for row in connection.execute(schema.answers.select())]
            replies = [Reply(*row) for row in connection.execute(schema.replies.select())]
            artifacts = [Artifact(*row) for row in connection.execute(schema.artifacts.select())]
        assert (answers, replies) == (all_of(Answer, a_run("r1")), all_of(Reply, a_run("r1")))
        assert artifacts == all_of(Artifact, a_run("r1"))
        assert differences(database) == []
        assert guards_in(database) == guards_needed(dialect)


LATER = (
    *("scopes", "reviews", "seals", "seal_tiles", "log_entries", "checkpoints", "anchor_receipts"),
    *("erasures", "erased_payloads", "erased_scopes", "legal_holds", "legal_hold_releases"),
)
BEFORE_SCOPES = SimpleNamespace(sorted_tables=[table for table in metadata.sorted_tables if table.name not in LATER])


def guard_as_before_erasures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guards that a landscape had when there were neither scopes nor erasures."""
    fences = guards._fences
    monkeypatch.setattr(guards, "metadata", BEFORE_SCOPES)
    monkeypatch.setattr(guards, "ALLOWED", {})
    monkeypatch.setattr(guards, "_fences", lambda table: [each for each in fences(table) if each[2] not in LATER])


def insert_before_scopes(connection: sa.Connection, facts: list[Fact]) -> None:
    """Facts as they were recorded when there were no scopes."""
    for fact in sorted(facts, key=lambda fact: ORDER[TABLES[type(fact)]]):
        values = raw(fact, connection.dialect)
        is_later = TABLES[type(fact)].name in LATER or (isinstance(fact, Payload) and fact.scope_id)
        if not is_later:
            known = {name: value for name, value in values.items() if name not in ("scope_id", "dictionary_ref")}
            raw_insert(connection, TABLES[type(fact)], known)


def test_rows_that_had_no_scope_get_one_each_and_their_runs_one_together(
    empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Path(migrations.__file__).parent
    without = shutil.copytree(ours, tmp_path / "before", ignore=shutil.ignore_patterns("000[7-9]_*", "001?_*"))
    with monkeypatch.context() as older:
        older.setattr(migrations, "__file__", str(without / "__init__.py"))
        guard_as_before_erasures(older)
        with closing(Database.open(empty_url)) as database, database.write() as connection:
            for run_id, key in (("r1", "A"), ("r2", "A"), ("r3", "B")):
                facts = [fact._replace(row_key=key) if isinstance(fact, Row) else fact for fact in a_run(run_id)]
                insert_before_scopes(connection, facts)
    with closing(Database.open(empty_url, upgrade=True)) as database, database.read() as connection:
        scopes = {scope.scope_id: scope for scope in recorded(connection, Scope)}
        subjects = {row.run_id: scopes[row.scope_id or 0] for row in recorded(connection, Row)}
    assert {run_id: scope.subject for run_id, scope in subjects.items()} == {"r1": "A", "r2": "A", "r3": "B"}
    assert subjects["r1"] == subjects["r2"] and len({scope.naming_key for scope in scopes.values()}) == 2 == len(scopes)


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_package_newer(tmp_path / "package", monkeypatch)
    version = tmp_path / "package" / "versions" / "9998_later.py"
    version.write_text(f'{NEXT_VERSION}    op.execute("CREATE TABLE runs (x integer)")\n')
    with pytest.raises(LandscapeError, match="already exists"):
        Database.open(database_url, upgrade=True)
    monkeypatch.undo()
    with closing(Database.open(database_url)) as database:
        assert differences(database) == []


def test_an_empty_database_can_be_made_by_an_upgrade(empty_url: str) -> None:
    Database.open(empty_url, upgrade=True).close()
    Database.open(empty_url, create=False).close()


def test_opening_a_database_that_is_up_to_date_changes_nothing_in_it(database_url: str) -> None:
    with closing(Database.open(database_url)) as database:
        drop_triggers(database, "calls")
        before = guards_in(database)
        Database.open(database_url, create=True, upgrade=True).close()
        assert guards_in(database) == before


def test_processes_that_make_the_same_new_database_at_once_all_succeed(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    names = [postgres.create() for _ in range(2)]
    urls = [*(f"sqlite:///{tmp_path}/{number}.sqlite" for number in range(6)), *map(postgres.url, names)]
    context = get_context("spawn")
    at_once = context.Barrier(2)
    makers = [context.Process(target=open_all, args=(urls, at_once), name=name) for name in ("one", "other")]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(timeout=100)
    assert [maker.exitcode for maker in makers] == [0, 0]
    for url in urls:
        with closing(Database.open(url, create=False)) as database, database.read() as connection:
            assert count(connection, schema.runs) == 2
            assert guards_in(database) == guards_needed(connection.dialect.name)
    for name in names:
        postgres.drop(name)


def test_threads_that_make_databases_at_once_each_make_their_own(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/{number}.sqlite" for number in range(4)] * 2
    with ThreadPoolExecutor(max_workers=8) as threads:
        for database in threads.map(Database.open, urls):
            assert differences(database) == []
            database.close()
