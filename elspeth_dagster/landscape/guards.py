"""The record only grows: triggers that refuse UPDATE, DELETE, TRUNCATE and INSERT OR REPLACE, on every table.

SQLite's INSERT OR REPLACE deletes a row without firing its DELETE trigger (recursive_triggers is off by default,
https://www.sqlite.org/lang_conflict.html), so an insert that meets a row with one of its keys is refused as well.
PostgreSQL's ON CONFLICT DO UPDATE fires the UPDATE trigger. Its triggers are ENABLE ALWAYS, so that
session_replication_role doesn't pass them by.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from elspeth_dagster.landscape.schema import metadata


def install(connection: sa.Connection) -> None:
    """(Re)make every guard of every table. Idempotent."""
    make = _sqlite_guards if connection.dialect.name == "sqlite" else _postgresql_guards
    for statement in make():
        connection.execute(sa.text(statement))


def _sqlite_guards() -> Iterator[str]:
    for table in metadata.sorted_tables:
        for verb in ("UPDATE", "DELETE"):
            yield from _sqlite_trigger(table, f"no_{verb.lower()}", f"BEFORE {verb}", "1")
        for number, key in enumerate(_unique_keys(table)):
            same = " AND ".join(f"{name} = NEW.{name}" for name in key)
            yield from _sqlite_trigger(
                table,
                f"no_replace_{number}",
                "BEFORE INSERT",
                f"EXISTS (SELECT 1 FROM {table.name} WHERE {same})",
            )


def _sqlite_trigger(table: sa.Table, name: str, event: str, condition: str) -> Iterator[str]:
    trigger = f"{table.name}_{name}"
    yield f"DROP TRIGGER IF EXISTS {trigger}"
    yield (
        f"CREATE TRIGGER {trigger} {event} ON {table.name} WHEN {condition} "
        f"BEGIN SELECT RAISE(ABORT, '{_refusal(table)}'); END"
    )


def _postgresql_guards() -> Iterator[str]:
    yield (
        "CREATE OR REPLACE FUNCTION landscape_only_grows() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN RAISE EXCEPTION '% only grows: its records are never changed or removed', TG_TABLE_NAME; END $$"
    )
    for table in metadata.sorted_tables:
        for name, event in (("no_change", "UPDATE OR DELETE"), ("no_truncate", "TRUNCATE")):
            trigger = f"{table.name}_{name}"
            each = "STATEMENT" if event == "TRUNCATE" else "ROW"
            yield f"DROP TRIGGER IF EXISTS {trigger} ON {table.name}"
            yield (
                f"CREATE TRIGGER {trigger} BEFORE {event} ON {table.name} "
                f"FOR EACH {each} EXECUTE FUNCTION landscape_only_grows()"
            )
            yield f"ALTER TABLE {table.name} ENABLE ALWAYS TRIGGER {trigger}"


def _unique_keys(table: sa.Table) -> list[tuple[str, ...]]:
    keys = [constraint for constraint in table.constraints
            if isinstance(constraint, sa.UniqueConstraint | sa.PrimaryKeyConstraint)]  # fmt: skip
    return sorted(tuple(column.name for column in key.columns) for key in keys)


def _refusal(table: sa.Table) -> str:
    return f"{table.name} only grows: its records are never changed or removed"
