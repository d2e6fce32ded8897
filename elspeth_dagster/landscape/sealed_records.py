"""Records of a sealed run, each with its place in the run's tree and the proof that it is there.

They are read as they are sealed, by `record_bytes`, and found again among the leaf hashes that the seal has left: a
record that isn't among them was changed since, or added. Proofs are made of these leaf hashes alone, so that they lead
to the root that was signed, whatever has become of the records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa

from elspeth_dagster.core.canonical import PREFIX
from elspeth_dagster.core.errors import LandscapeError
from elspeth_dagster.core.merkle import HASH_BYTES, Tree, leaf_hash
from elspeth_dagster.landscape.columns import Number, written_ref
from elspeth_dagster.landscape.record_bytes import SEALED, Record, column_names
from elspeth_dagster.landscape.records import Seal
from elspeth_dagster.landscape.schema import metadata, seal_tiles

PAGE = 500


class Proven(NamedTuple):
    """A record, the place of its leaf, and the hashes that lead from there to the root."""

    record: Record
    place: int
    proof: list[bytes]


def select(connection: sa.Connection, table: sa.Table, *which: sa.ColumnElement[bool]) -> Iterator[Record]:
    """Records of a table as they are stored, by their key, texts by their bytes."""
    stored = sa.select(*(_as_stored(table.columns[name]) for name in column_names(table))).where(*which)
    in_order = stored.order_by(*(_by_bytes(connection, column) for column in table.primary_key.columns))
    streaming = connection.execution_options(stream_results=True, max_row_buffer=PAGE)
    with streaming.execute(in_order) as found:
        for page in found.partitions(PAGE):
            yield from (Record(table, tuple(row)) for row in page)


def _as_stored(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    kind: Any = column.type
    while not isinstance(kind, sa.Text | sa.BigInteger | sa.LargeBinary):
        kind = kind.impl
    return sa.type_coerce(column, kind).label(column.name)


def _by_bytes(connection: sa.Connection, column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    is_text = not isinstance(column.type, Number)
    return sa.collate(column, "C") if is_text and connection.dialect.name == "postgresql" else column


def payload_columns(table: sa.Table) -> list[str]:
    """The columns of a table that name payloads."""
    payloads = metadata.tables["payloads"]
    return [column.name for column in table.columns if any(key.column.table is payloads for key in column.foreign_keys)]


def payload_names(record: Record) -> list[str]:
    """The payloads that a record names."""
    columns = record.columns()
    return [str(written_ref(columns[name])) for name in payload_columns(record.table) if columns[name] is not None]


def prove(connection: sa.Connection, seal: Seal, records: Iterable[Record]) -> Iterator[Proven]:
    """The records, in the order of the tree, with their proofs.

    Raises LandscapeError for one that is not what was sealed, and where the seal's hashes don't lead to its root.
    """
    tree = Tree(_leaves(connection, seal.run_id, SEALED))
    if (tree.size, PREFIX + tree.root().hex()) != (seal.tree_size, seal.root):
        raise LandscapeError(f"the hashes kept with the seal of run {seal.run_id} don't lead to its root")
    for record, index in _located(connection, seal.run_id, records):
        yield Proven(record, index, tree.inclusion(index))


def _located(connection: sa.Connection, run_id: str, records: Iterable[Record]) -> Iterator[tuple[Record, int]]:
    leaves = enumerate(_leaves(connection, run_id, SEALED))
    for record in records:
        leaf = leaf_hash(record.data())
        index = next((index for index, sealed in leaves if sealed == leaf), None)
        if index is None:
            named = ", ".join(f"{name} {value}" for name, value in record.key().items())
            raise LandscapeError(
                f"{record.table.name} ({named}) is not what was sealed: it was changed or added since. "
                f"`elspeth-dagster verify {run_id}` tells what else was"
            )
        yield record, index


def _leaves(connection: sa.Connection, run_id: str, tables: Iterable[sa.Table]) -> Iterator[bytes]:
    kept = sa.select(seal_tiles.c.hashes).where(seal_tiles.c.run_id == run_id).order_by(seal_tiles.c.tile)
    for table in tables:
        for hashes in connection.scalars(kept.where(seal_tiles.c.table_name == table.name)):
            yield from (hashes[start : start + HASH_BYTES] for start in range(0, len(hashes), HASH_BYTES))
