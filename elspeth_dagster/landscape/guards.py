"""The record only grows, and a run that has ended takes no more: triggers on every table.

They refuse UPDATE, DELETE, TRUNCATE and INSERT OR REPLACE. SQLite's REPLACE deletes a row without firing its DELETE
trigger (recursive_triggers is off by default, https://www.sqlite.org/lang_conflict.html), so an insert that meets a
row with one of its keys, or with its rowid where it has one, is refused as well. PostgreSQL's ON CONFLICT DO UPDATE
fires the UPDATE trigger. Its triggers are ENABLE ALWAYS, so that session_replication_role doesn't pass them by.

One thing may be changed: what a recorded erasure names. A payload's body may be emptied where `erased_payloads` has it,
and a scope's key where `erased_scopes` does. A payload that leans on an erased one may be packed anew without it,
which can be done once; that the bytes are the same is for its name to tell.

What belongs to a run is refused once the run's end is on record, and what a state did once the state's end is: a step
that outlived its run, or that another attempt has taken over from, leaves nothing behind. (Its late replies meet those
that say `unknown`.) A review is no such late fact: people read answers after their run, so it is taken at any time. A
row is refused that would belong to a scope of which something was erased meanwhile: what is erased must not be found in
the way of the same text that comes again.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from elspeth_dagster.landscape.schema import metadata

BEYOND_THE_END = {"runs", "run_ends", "seals", "seal_tiles"}
BEYOND_THE_ATTEMPT = {"node_states", "node_state_ends", "reviews"}
RUN_ENDED = "this run has ended"
ATTEMPT_ENDED = "this attempt has ended: another one took over, or its run was ended"
SCOPE_CLOSED = "what was recorded about this row has been erased meanwhile: launch again"

# By table, which changes a recorded erasure allows: these columns stay as they are, and this holds.
# {schema} is where our tables are, on PostgreSQL; a table of ours, so that none in between stands in for it.
STAYS = {
    "payloads": ("ref", "size", "scope_id"),
    "scopes": ("scope_id", "assessment", "kind", "subject", "ordinal"),
}
ALLOWED = {
    "payloads": (
        "(length(NEW.body) = 0 AND NEW.encoding = OLD.encoding AND {same_dictionary} "
        "AND EXISTS (SELECT 1 FROM {schema}erased_payloads e WHERE e.ref = OLD.ref)) OR "
        "(length(NEW.body) > 0 AND NEW.dictionary_ref IS NULL "
        "AND EXISTS (SELECT 1 FROM {schema}erased_payloads e WHERE e.ref = OLD.dictionary_ref))"
    ),
    "scopes": (
        "length(NEW.naming_key) = 0 AND EXISTS (SELECT 1 FROM {schema}erased_scopes e WHERE e.scope_id = OLD.scope_id)"
    ),
}


def install(connection: sa.Connection) -> None:
    """(Re)make every guard of every table. Idempotent."""
    is_sqlite = connection.dialect.name == "sqlite"
    for statement in _sqlite_guards() if is_sqlite else _postgresql_guards(_schema(connection)):
        connection.execute(sa.text(statement))


def _sqlite_guards() -> Iterator[str]:
    for table in metadata.sorted_tables:
        grows = f"{table.name} only grows: its records are never changed or removed"
        yield from _sqlite_trigger(table, "no_update", "BEFORE UPDATE", f"NOT ({_allowed(table, 'IS')})", grows)
        yield from _sqlite_trigger(table, "no_delete", "BEFORE DELETE", "1", grows)
        for number, key in enumerate([*_rowid(table), *_unique_keys(table)]):
            same = " AND ".join(f"{name} = NEW.{name}" for name in key)
            there = f"EXISTS (SELECT 1 FROM {table.name} WHERE {same})"
            known = f"{table.name} only grows: a record with this key is there already"
            yield from _sqlite_trigger(table, f"no_replace_{number}", "BEFORE INSERT", there, known)
        for name, column, ends, refusal in _fences(table):
            ended = f"EXISTS (SELECT 1 FROM {ends} WHERE {column} = NEW.{column})"
            yield from _sqlite_trigger(table, name, "BEFORE INSERT", ended, refusal)


def _allowed(table: sa.Table, same: str, schema: str = "") -> str:
    """Which change of a record is no change of a fact; `same` compares NULLs too."""
    if table.name not in ALLOWED:
        return "0"
    stays = [*(name for [name] in _rowid(table) if not schema), *STAYS[table.name]]
    kept = " AND ".join(f"NEW.{name} {same} OLD.{name}" for name in stays)
    same_dictionary = f"NEW.dictionary_ref {same} OLD.dictionary_ref"
    return f"{kept} AND ({ALLOWED[table.name].format(schema=schema, same_dictionary=same_dictionary)})"


def _sqlite_trigger(table: sa.Table, name: str, event: str, condition: str, refusal: str) -> Iterator[str]:
    trigger = f"{table.name}_{name}"
    yield f"DROP TRIGGER IF EXISTS {trigger}"
    yield (
        f"CREATE TRIGGER {trigger} {event} ON {table.name} WHEN {condition} BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
    )


def _schema(connection: sa.Connection) -> str:
    name = connection.scalar(sa.select(sa.func.current_schema()))
    return connection.dialect.identifier_preparer.quote(str(name))


def _postgresql_guards(schema: str) -> Iterator[str]:
    yield _postgresql_function(
        "landscape_only_grows",
        "RAISE EXCEPTION '% only grows: its records are never changed or removed', TG_TABLE_NAME;",
    )
    for function, column, ends, refusal in (
        ("landscape_no_more", "run_id", "run_ends", RUN_ENDED),
        ("landscape_no_late", "state_id", "node_state_ends", ATTEMPT_ENDED),
        ("landscape_not_closed", "scope_id", "erased_payloads", SCOPE_CLOSED),
    ):
        # One by one, so that no plan reads all ends; in this schema, so that no temporary table stands in for them.
        yield _postgresql_function(
            function,
            f"FOR named IN SELECT DISTINCT {column} AS id FROM fresh LOOP "
            f"IF EXISTS (SELECT 1 FROM {schema}.{ends} WHERE {column} = named.id) THEN "
            f"RAISE EXCEPTION '{refusal}'; END IF; END LOOP; RETURN NULL;",
            declaring="named record",
        )
    for table in metadata.sorted_tables:
        function = "landscape_only_grows"
        if table.name in ALLOWED:
            function = f"landscape_only_erases_{table.name}"
            yield _postgresql_function(function, _unless_allowed(table, schema))
        yield from _postgresql_trigger(table, "no_change", "UPDATE OR DELETE", "ROW", function)
        yield from _postgresql_trigger(table, "no_truncate", "TRUNCATE", "STATEMENT", "landscape_only_grows")
        for name, *_ in _fences(table):
            yield from _postgresql_fence(table, name)


def _unless_allowed(table: sa.Table, schema: str) -> str:
    """OLD and NEW are looked at apart from the verb: a DELETE has no NEW."""
    refused = "RAISE EXCEPTION '% only grows: its records are never changed or removed', TG_TABLE_NAME;"
    allowed = _allowed(table, "IS NOT DISTINCT FROM", f"{schema}.")
    return f"IF TG_OP = 'UPDATE' THEN IF {allowed} THEN RETURN NEW; END IF; END IF; {refused}"


def _postgresql_function(name: str, body: str, declaring: str = "") -> str:
    declared = f"DECLARE {declaring}; " if declaring else ""
    return f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ {declared}BEGIN {body} END $$"


def _postgresql_trigger(table: sa.Table, name: str, event: str, each: str, function: str) -> Iterator[str]:
    yield from _postgresql_trigger_of(table, name, f"BEFORE {event}", f"FOR EACH {each} EXECUTE FUNCTION {function}()")


def _postgresql_fence(table: sa.Table, name: str) -> Iterator[str]:
    """Looked at once for all rows of a statement, which are taken together or not at all."""
    each = f"REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION landscape_{name}()"
    yield from _postgresql_trigger_of(table, name, "AFTER INSERT", each)


def _postgresql_trigger_of(table: sa.Table, name: str, event: str, what: str) -> Iterator[str]:
    trigger = f"{table.name}_{name}"
    yield f"DROP TRIGGER IF EXISTS {trigger} ON {table.name}"
    yield f"CREATE TRIGGER {trigger} {event} ON {table.name} {what}"
    yield f"ALTER TABLE {table.name} ENABLE ALWAYS TRIGGER {trigger}"


def _fences(table: sa.Table) -> Iterator[tuple[str, str, str, str]]:
    """After what a table takes no more: the trigger's name, the column that tells whose end, where ends are."""
    if "run_id" in table.columns and table.name not in BEYOND_THE_END:
        yield "no_more", "run_id", "run_ends", RUN_ENDED
    if "state_id" in table.columns and table.name not in BEYOND_THE_ATTEMPT:
        yield "no_late", "state_id", "node_state_ends", ATTEMPT_ENDED
    if table.name == "rows":
        yield "not_closed", "scope_id", "erased_payloads", SCOPE_CLOSED


def _rowid(table: sa.Table) -> list[tuple[str, ...]]:
    return [("rowid",)] if table.dialect_options["sqlite"]["with_rowid"] else []


def _unique_keys(table: sa.Table) -> list[tuple[str, ...]]:
    keys = [constraint for constraint in table.constraints
            if isinstance(constraint, sa.UniqueConstraint | sa.PrimaryKeyConstraint)]  # fmt: skip
    return sorted(tuple(column.name for column in key.columns) for key in keys)
