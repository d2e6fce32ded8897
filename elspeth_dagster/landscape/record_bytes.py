"""A run's records as bytes, in the one order in which they are sealed, exported and checked.

A record's bytes are the canonical JSON (RFC 8785) of its table's name and an object of its columns. Text is a string,
an integer a number, or a string of digits beyond 2^53 - 1; hashes and payload names are as they are written, instants
the microseconds that are stored, NULL is null. Tables come in the order of `SEALED`; within one, records come by their
primary key, texts by their UTF-8 bytes. So the same facts are the same bytes on both databases.

They are read as they are stored, a page at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from json.encoder import encode_basestring
from typing import Any, NamedTuple

import sqlalchemy as sa

from elspeth_dagster.core.merkle import leaf_hash
from elspeth_dagster.landscape import schema
from elspeth_dagster.landscape.columns import Hash, Number, Ref, written_ref
from elspeth_dagster.landscape.streaming import streamed

SEALED: tuple[sa.Table, ...] = (
    schema.runs,
    schema.nodes,
    schema.edges,
    schema.rows,
    schema.row_rejections,
    schema.tokens,
    schema.token_parents,
    schema.batches,
    schema.batch_members,
    schema.node_states,
    schema.node_state_ends,
    schema.calls,
    schema.replies,
    schema.answers,
    schema.token_outcomes,
    schema.artifacts,
    schema.run_ends,
)
"""The tables whose records belong to a run, in the order of its tree."""
# Found by the states of the run: calls have no index of their own for it, ends and replies not even a run_id.
BY_STATE = "JOIN node_states AS s ON s.state_id = t.state_id WHERE s.run_id = :run"
FROM = {
    "node_state_ends": f"node_state_ends AS t {BY_STATE}",
    "calls": f"calls AS t {BY_STATE}",
    "answers": f"answers AS t {BY_STATE}",
    "replies": "replies AS t JOIN calls AS c ON c.call_id = t.call_id "
    "JOIN node_states AS s ON s.state_id = c.state_id WHERE s.run_id = :run",
}
PAGE = 2000
EXACT = 2**53 - 1

Stored = Sequence[Any]


class Record(NamedTuple):
    """A record as it is stored, its columns in the order of their names."""

    table: sa.Table
    values: Stored

    def data(self) -> bytes:
        """Its canonical bytes."""
        return writer(self.table)(self.values)

    def columns(self) -> dict[str, Any]:
        """Its values as they are stored, by the columns' names."""
        return dict(zip(column_names(self.table), self.values, strict=True))

    def key(self) -> dict[str, Any]:
        """What tells it from the others of its table."""
        columns = self.columns()
        return {column.name: columns[column.name] for column in self.table.primary_key.columns}


def pages(connection: sa.Connection, table: sa.Table, run_id: str) -> Iterator[Sequence[Stored]]:
    """The records of a run in a table, in order, so many at a time that they fit into memory."""
    with streamed(connection, sa.text(_select(table.name, connection.dialect.name)), PAGE, run=run_id) as found:
        yield from found.partitions(PAGE)


def records(connection: sa.Connection, table: sa.Table, run_id: str) -> Iterator[Record]:
    """The same, one by one."""
    for page in pages(connection, table, run_id):
        for values in page:
            yield Record(table, values)


def leaves(connection: sa.Connection, table: sa.Table, run_id: str) -> Iterator[bytes]:
    """The leaf hashes of the same, one by one."""
    for page in leaf_pages(connection, table, run_id):
        yield from page


def leaf_pages(connection: sa.Connection, table: sa.Table, run_id: str) -> Iterator[list[bytes]]:
    """The same, many at a time."""
    written = writer(table)
    for page in pages(connection, table, run_id):
        yield [leaf_hash(written(values)) for values in page]


@cache
def column_names(table: sa.Table) -> tuple[str, ...]:
    """The names of a table's columns in the order in which a record's object has them."""
    return tuple(sorted(column.name for column in table.columns))


@cache
def _select(name: str, dialect: str) -> str:
    table = schema.metadata.tables[name]
    selected = ", ".join(f"t.{column}" for column in column_names(table))
    source = FROM.get(name, f"{name} AS t WHERE t.run_id = :run")
    by_bytes = ' COLLATE "C"' if dialect == "postgresql" else ""
    key = ", ".join(f"t.{column.name}{'' if isinstance(column.type, Number) else by_bytes}"
                    for column in table.primary_key.columns)  # fmt: skip
    return f"SELECT {selected} FROM {source} ORDER BY {key}"


@cache
def writer(table: sa.Table) -> Callable[[Stored], bytes]:
    """How a table's records become bytes, given their values as they are stored, in the order of `column_names`."""
    names = column_names(table)
    members = ",".join(f'"{name}":%s' for name in names)
    template = f'["{table.name}",{{{members}}}]'
    kinds = [_written_as(table.columns[name]) for name in names]

    def written(values: Stored) -> bytes:
        return (template % tuple([kind(value) for kind, value in zip(kinds, values, strict=True)])).encode()

    return written


def _written_as(column: sa.Column[Any]) -> Callable[[Any], str]:
    kind: Any = column.type
    if isinstance(kind, Hash | Ref):
        return _name
    while not isinstance(kind, sa.Text | sa.BigInteger | sa.LargeBinary):
        kind = kind.impl
    if isinstance(kind, sa.Text):
        return _text
    return _integer if isinstance(kind, sa.BigInteger) else _bytes


def _text(value: str | None) -> str:
    return "null" if value is None else encode_basestring(value)


def _integer(value: int | None) -> str:
    if value is None:
        return "null"
    return str(value) if -EXACT <= value <= EXACT else f'"{value}"'


def _name(value: bytes | None) -> str:
    return "null" if value is None else f'"{written_ref(value)}"'


def _bytes(value: bytes | None) -> str:
    return "null" if value is None else f'"{value.hex()}"'
