"""How facts become rows: parents first. And how they do once more, when nobody knows whether they have.

If the connection goes while a commit is under way, the commit may have arrived, may still arrive, or never will. So
the second time nobody else writes meanwhile, which waits for it to be over; what is on record already is left as it
is, and what is absent is inserted, on conflict not. Then each fact is read again and compared. A fact with other values
than ours, or none, is an AuditError: never a second row, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import sqlalchemy as sa

from elspeth_dagster.core.errors import AuditError
from elspeth_dagster.landscape.columns import Kept
from elspeth_dagster.landscape.records import TABLES, Fact, Payload
from elspeth_dagster.landscape.schema import metadata, node_state_ends, payloads, run_ends

AT_ONCE = 500
# Parents first; ends last, since after the end of a state or a run nothing more of it is taken.
ENDS = (node_state_ends, run_ends)
ORDER = {table: (table in ENDS, position) for position, table in enumerate(metadata.sorted_tables)}

Stored = tuple[Any, ...]


def insert(connection: sa.Connection, facts: Iterable[Fact]) -> None:
    """Insert facts of any kinds, in whatever order they come. A payload that is there already is left as it is.

    Raises AuditError for a value that no database may have, and what SQLAlchemy raises.
    """
    _insert(connection, facts, if_absent=False)


def insert_again(connection: sa.Connection, facts: Iterable[Fact]) -> None:
    """Insert facts that may be on record already, and see that all of them are.

    Raises AuditError when one is there with other values, or can't be inserted.
    """
    facts = list(facts)
    compared = [fact for fact in facts if not isinstance(fact, Payload)]  # whose name says what it holds
    there = _on_record(connection, compared)
    absent = (fact for fact in facts if _key(fact) not in there)
    _insert(connection, absent, if_absent=True)
    there = _on_record(connection, compared)
    for fact in compared:
        if there.get(_key(fact)) != _stored(fact):
            what = "holds another record with this key" if _key(fact) in there else "does not take this record"
            raise AuditError(f"the connection was lost during a commit, and {TABLES[type(fact)].name} {what}")


def _insert(connection: sa.Connection, facts: Iterable[Fact], *, if_absent: bool) -> None:
    by_table = _by_table(facts)
    for table in sorted(by_table, key=ORDER.__getitem__):
        of_table = by_table[table]
        try:
            stored = [_stored(fact) for fact in (_distinct(of_table) if table is payloads else of_table)]
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql(_sqlite_insert(table, if_absent), stored)
            elif stored:
                columns = tuple(map(list, zip(*stored, strict=True)))
                connection.exec_driver_sql(_postgresql_insert(table, if_absent), columns)
        except (ValueError, TypeError, OverflowError) as error:
            raise AuditError(f"{table.name} can't hold a record: {error}") from None


def _by_table(facts: Iterable[Fact]) -> dict[sa.Table, list[Fact]]:
    by_kind: dict[type[Fact], list[Fact]] = {}
    for fact in facts:
        by_kind.setdefault(type(fact), []).append(fact)
    return {TABLES[kind]: of_kind for kind, of_kind in by_kind.items()}


def _distinct(facts: Iterable[Fact]) -> list[Fact]:
    """Each payload once, packed, in one order in every process so that two of them can't wait for each other.

    What another one leans on is on record before it.
    """
    distinct = {fact.ref: fact for fact in facts if isinstance(fact, Payload)}
    return [distinct[ref].packed() for ref in sorted(distinct)]


@cache
def _sqlite_insert(table: sa.Table, if_absent: bool) -> str:
    """The INSERT of a row. The guards refuse a key that is there before a conflict is looked at."""
    names = [column.name for column in table.columns]
    into, values = f"INSERT INTO {table.name} ({', '.join(names)})", ", ".join("?" * len(names))
    if table is payloads:
        return f"{into} SELECT {values} WHERE NOT EXISTS (SELECT 1 FROM {table.name} WHERE ref = ?1)"
    return f"{into} VALUES ({values}){' ON CONFLICT DO NOTHING' if if_absent else ''}"


@cache
def _postgresql_insert(table: sa.Table, if_absent: bool) -> str:
    """The INSERT of many rows, a parameter for each column: one statement to plan, and one round trip."""
    names = ", ".join(column.name for column in table.columns)
    columns = ", ".join(f"%b::{_POSTGRESQL_TYPES[_store_as(column)]}[]" for column in table.columns)
    on_conflict = " ON CONFLICT DO NOTHING" if if_absent or table is payloads else ""
    return f"INSERT INTO {table.name} ({names}) SELECT * FROM unnest({columns}){on_conflict}"


_POSTGRESQL_TYPES: dict[type[sa.types.TypeEngine[Any]], str] = {
    sa.Text: "text",
    sa.BigInteger: "bigint",
    sa.LargeBinary: "bytea",
}


def _store_as(column: sa.Column[Any]) -> type[sa.types.TypeEngine[Any]]:
    """The plain type below ours."""
    kind: Any = type(column.type)
    while kind not in _POSTGRESQL_TYPES:
        kind = kind.impl
    found: type[sa.types.TypeEngine[Any]] = kind
    return found


def _on_record(connection: sa.Connection, facts: Iterable[Fact]) -> dict[Stored, Stored]:
    """Those of the facts whose keys are on record: what is there, by its key."""
    there: dict[Stored, Stored] = {}
    for table, of_table in _by_table(facts).items():
        make: Any = type(of_table[0])
        for some in _with_keys_of(table, of_table):
            there |= {_key(found): _stored(found) for found in (make(*row) for row in connection.execute(some))}
    return there


def _with_keys_of(table: sa.Table, facts: list[Fact]) -> Iterator[sa.Select[Any]]:
    columns = table.primary_key.columns
    keys = [tuple(getattr(fact, column.name) for column in columns) for fact in facts]
    for start in range(0, len(keys), AT_ONCE):
        yield table.select().where(sa.tuple_(*columns).in_(keys[start : start + AT_ONCE]))


def _key(fact: Fact) -> Stored:
    table, stored = TABLES[type(fact)], _stored(fact)
    names = [column.name for column in table.columns]
    return (table.name, *(stored[names.index(column.name)] for column in table.primary_key.columns))


def _stored(fact: Fact) -> Stored:
    """A fact's values as the database gets them, so that what is compared is what is kept."""
    stores = _STORES[type(fact)]
    return tuple(
        [value if store is None or value is None else store(value) for store, value in zip(stores, fact, strict=True)]
    )


def _store(column: sa.Column[Any]) -> Callable[[Any], Any] | None:
    """How a column's values are stored; None: as they are."""
    return column.type.stored if isinstance(column.type, Kept) else None


_STORES = {kind: [_store(column) for column in table.columns] for kind, table in TABLES.items()}
