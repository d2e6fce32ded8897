"""How facts become rows: parents first. And how they do once more, when nobody knows whether they have.

If the connection goes while a commit is under way, the commit may have arrived, may still arrive, or never will. So
the second time nobody else writes meanwhile, which waits for it to be over; what is on record already is left as it
is, and what is absent is inserted, on conflict not. Then each fact is read again and compared. A fact with other values
than ours, or none, is an AuditError: never a second row, never a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from elspeth_dagster.core.errors import AuditError
from elspeth_dagster.landscape.records import TABLES, Fact, Payload
from elspeth_dagster.landscape.schema import metadata, node_state_ends, payloads, run_ends

AT_ONCE = 500
# Parents first; ends last, since after the end of a state or a run nothing more of it is taken.
ENDS = (node_state_ends, run_ends)
ORDER = {table: (table in ENDS, position) for position, table in enumerate(metadata.sorted_tables)}

Inserts = Mapping[sa.Table, sa.Insert]
Stored = tuple[Any, ...]


def insert(connection: sa.Connection, facts: Iterable[Fact]) -> None:
    """Insert facts of any kinds, in whatever order they come. A payload that is there already is left as it is."""
    _insert(connection, facts, _INSERTS)


def insert_again(connection: sa.Connection, facts: Iterable[Fact]) -> None:
    """Insert facts that may be on record already, and see that all of them are.

    Raises AuditError when one is there with other values, or can't be inserted.
    """
    facts = list(facts)
    compared = [fact for fact in facts if not isinstance(fact, Payload)]  # whose name says what it holds
    there = _on_record(connection, compared)
    absent = (fact for fact in facts if _key(fact) not in there)
    _insert(connection, absent, _INSERTS_IF_ABSENT[connection.dialect.name])
    there = _on_record(connection, compared)
    for fact in compared:
        if there.get(_key(fact)) != _stored(fact):
            what = "holds another record with this key" if _key(fact) in there else "does not take this record"
            raise AuditError(f"the connection was lost during a commit, and {TABLES[type(fact)].name} {what}")


def _insert(connection: sa.Connection, facts: Iterable[Fact], inserts: Inserts) -> None:
    by_table = _by_table(facts)
    for table in sorted(by_table, key=ORDER.__getitem__):
        if table is payloads:
            _insert_payloads(connection, by_table[table])
        else:
            connection.execute(inserts[table], [fact._asdict() for fact in by_table[table]])


def _by_table(facts: Iterable[Fact]) -> dict[sa.Table, list[Fact]]:
    by_table: dict[sa.Table, list[Fact]] = {}
    for fact in facts:
        by_table.setdefault(TABLES[type(fact)], []).append(fact)
    return by_table


def _insert_payloads(connection: sa.Connection, facts: Iterable[Fact]) -> None:
    """Each payload once, in one order in every process so that two of them can't wait for each other."""
    distinct = {fact.ref: fact._asdict() for fact in facts if isinstance(fact, Payload)}
    connection.execute(_PAYLOAD_INSERTS[connection.dialect.name], [distinct[ref] for ref in sorted(distinct)])


def _payload_insert_if_absent() -> sa.Insert:
    values = sa.select(*(sa.bindparam(column.name, type_=column.type) for column in payloads.columns))
    absent = ~sa.exists().where(payloads.c.ref == sa.bindparam("ref", type_=payloads.c.ref.type))
    return payloads.insert().from_select([column.name for column in payloads.columns], values.where(absent))


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
    table = TABLES[type(fact)]
    return (table.name, *(_as_stored(column, getattr(fact, column.name)) for column in table.primary_key.columns))


def _stored(fact: Fact) -> Stored:
    return tuple(map(_as_stored, TABLES[type(fact)].columns, fact))


def _as_stored(column: sa.Column[Any], value: Any) -> Any:
    """A value as the database gets it, so that what is compared is what is kept."""
    kind = column.type
    return kind.process_bind_param(value, _ANY) if isinstance(kind, sa.types.TypeDecorator) else value


_ANY = sqlite.dialect()  # our types keep the same on both

_INSERTS: Inserts = {table: table.insert() for table in metadata.sorted_tables}
_INSERTS_IF_ABSENT: Mapping[str, Inserts] = {
    "sqlite": {table: sqlite.insert(table).on_conflict_do_nothing() for table in metadata.sorted_tables},
    "postgresql": {table: postgresql.insert(table).on_conflict_do_nothing() for table in metadata.sorted_tables},
}
_PAYLOAD_INSERTS = {
    "sqlite": _payload_insert_if_absent(),
    "postgresql": postgresql.insert(payloads).on_conflict_do_nothing(),
}
