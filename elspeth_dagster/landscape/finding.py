"""Runs and rows by the names that people give: a run's id or its beginning, a row's key or `#index`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import sqlalchemy as sa

from elspeth_dagster.core.errors import NotOnRecordError
from elspeth_dagster.landscape import runs, schema
from elspeth_dagster.landscape.records import (
    Node,
    Row,
    Run,
)

LATEST = "latest"
RECORD_INDEX = re.compile(r"#([0-9]{1,15})")
NEAR_KEYS = 5
NEAR = 0.5
NEAR_AMONG = 20_000


def find_run(connection: sa.Connection, name: str, assessment: str | None = None) -> Run:
    """The run with this id or this beginning of an id, or the `latest` (of an assessment). Raises NotOnRecordError."""
    if name != LATEST:
        exact = connection.execute(schema.runs.select().where(schema.runs.c.run_id == name)).first()
        return Run(*exact) if exact else runs.get(connection, name)
    newest = schema.runs.select().order_by(schema.runs.c.started_at.desc(), schema.runs.c.run_id.desc()).limit(1)
    if assessment is not None:
        of_it = (schema.nodes.c.run_id == schema.runs.c.run_id) & (schema.nodes.c.assessment == assessment)
        newest = newest.where(sa.exists().where(of_it))
    if (row := connection.execute(newest).first()) is None:
        raise NotOnRecordError(f"no run{f' of {assessment}' if assessment else ''} is on record")
    return Run(*row)


def find_rows(
    connection: sa.Connection, run_id: str, row_key: str, assessment: str | None = None
) -> list[tuple[Node, Row, str]]:
    """The rows of a run with this key (or this `#index`), each with the node that admitted it and its token.

    Raises NotOnRecordError when the run has no such assessment.
    """
    nodes = nodes_of(connection, run_id, assessment)
    found = _rows(connection, run_id, schema.rows.c.row_key == row_key)
    if not found and (index := RECORD_INDEX.fullmatch(row_key)):
        return rows_in_place(connection, run_id, nodes, int(index.group(1)))
    return [(nodes[row.node_id], row, token_id) for row, token_id in found if row.node_id in nodes]


def rows_in_place(
    connection: sa.Connection, run_id: str, nodes: Mapping[str, Node], index: int
) -> list[tuple[Node, Row, str]]:
    in_place = schema.rows.c.node_id.in_(list(nodes)) & (schema.rows.c.row_index == index)
    return [(nodes[row.node_id], row, token_id) for row, token_id in _rows(connection, run_id, in_place)]


def nodes_of(connection: sa.Connection, run_id: str, assessment: str | None) -> dict[str, Node]:
    there = schema.nodes.select().where(schema.nodes.c.run_id == run_id).order_by(schema.nodes.c.node_id)
    nodes = [Node(*row) for row in connection.execute(there)]
    if assessment not in (None, *(known := {node.assessment for node in nodes})):
        raise NotOnRecordError(f"run {run_id} has no assessment {assessment!r}; it has {', '.join(sorted(known))}")
    return {node.node_id: node for node in nodes if assessment in (None, node.assessment)}


def _rows(connection: sa.Connection, run_id: str, which: sa.ColumnElement[bool]) -> list[tuple[Row, str]]:
    found = (
        sa.select(*schema.rows.c, schema.tokens.c.token_id)
        .join(schema.tokens, schema.tokens.c.row_id == schema.rows.c.row_id)
        .where(schema.rows.c.run_id == run_id, which)
    )
    # Sorted here: ORDER BY node_id would have SQLite read the whole run by the index that begins with it.
    pairs = [(*joined_records(row, Row), row.token_id) for row in connection.execute(found)]
    return sorted(pairs, key=lambda pair: pair[0].node_id)


def joined_records(row: Any, *kinds: Any) -> Any:
    """A joined row cut into one record per kind; None for the part that an outer join did not find."""
    records, start = [], 0
    for kind in kinds:
        part = row[start : start + len(kind._fields)]
        records.append(None if part[0] is None else kind(*part))
        start += len(part)
    return records


def not_on_record(
    connection: sa.Connection, run_id: str, row_key: str, assessment: str | None = None
) -> NotOnRecordError:
    """That no row has this key, and which keys come near."""
    there = sa.select(schema.rows.c.row_key).where(schema.rows.c.run_id == run_id)
    if assessment is not None:
        there = there.where(schema.rows.c.node_id.in_(list(nodes_of(connection, run_id, assessment))))
    near = near_to(row_key, connection.scalars(there.distinct().limit(NEAR_AMONG)))
    return NotOnRecordError(f"run {run_id} has no row {row_key!r} on record; {near}")


def near_to(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, list(known), n=NEAR_KEYS, cutoff=NEAR)
    return f"near it: {', '.join(map(repr, near))}" if near else "none comes near it"
