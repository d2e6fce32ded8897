"""Rows of a slice: admitted once, read back in source order, a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from elspeth_dagster.core.canonical import Json, canonical_json
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.landscape import payloads
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Erasure, Fact, Payload, Row, RowRejection, Scope, Token
from elspeth_dagster.landscape.schema import node_states, row_rejections, rows, token_outcomes, tokens
from elspeth_dagster.landscape.words import Outcome, TokenKind

PAGE = 500


class AdmittedRow(NamedTuple):
    """A row with its token and its values; none where they were erased."""

    token_id: str
    row: Row
    values: dict[str, Json]
    erased: Erasure | None = None


def admission(
    run_id: str,
    node_id: str,
    *,
    row_index: int,
    row_key: str,
    partition_key: str | None,
    line: int | None,
    values: Mapping[str, Json],
    raw: bytes | None,
    scope: Scope | None = None,
) -> list[Fact]:
    """The facts that make a record a row with a token."""
    understood = Payload.of(canonical_json(values), scope)
    came = None if raw is None else Payload.of(raw, scope)
    row = Row(
        row_id=new_id(),
        run_id=run_id,
        node_id=node_id,
        row_index=row_index,
        row_key=row_key,
        partition_key=partition_key,
        line=line,
        values_ref=understood.ref,
        raw_ref=came and came.ref,
        scope_id=scope and scope.scope_id,
    )
    facts: list[Fact] = [understood, row, Token(new_id(), run_id, TokenKind.ROW, row.row_id)]
    return facts if came is None else [came, *facts]


def rejection(
    run_id: str,
    node_id: str,
    *,
    row_index: int,
    partition_key: str | None,
    line: int | None,
    column: str | None,
    reason: str,
    message: str,
    raw: bytes,
    scope: Scope | None = None,
) -> list[Fact]:
    """The facts that keep a record which could not become a row."""
    came = Payload.of(raw, scope)
    return [
        came,
        RowRejection(run_id, node_id, row_index, partition_key, line, column, reason, message, came.ref),
    ]


def recorded_indexes(connection: sa.Connection, run_id: str, node_id: str) -> set[int]:
    """The positions of the records that are rows or rejections already."""
    both = sa.union_all(
        sa.select(rows.c.row_index).where(*_of_node(rows, run_id, node_id)),
        sa.select(row_rejections.c.row_index).where(*_of_node(row_rejections, run_id, node_id)),
    )
    return set(connection.scalars(both))


def recorded_until(connection: sa.Connection, run_id: str, node_id: str) -> int:
    """The position of the first record that isn't on record yet: a slice's records are put there in their order."""
    last = [
        connection.scalar(sa.select(sa.func.max(table.c.row_index)).where(*_of_node(table, run_id, node_id)))
        for table in (rows, row_rejections)
    ]
    return max(-1 if index is None else index for index in last) + 1


def _of_node(table: sa.Table, run_id: str, node_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return table.c.run_id == run_id, table.c.node_id == node_id


def counts(connection: sa.Connection, run_id: str, node_id: str) -> tuple[int, int]:
    """How many rows and how many rejections a node admitted."""
    here = [sa.select(sa.func.count()).where(*_of_node(table, run_id, node_id)) for table in (rows, row_rejections)]
    return connection.scalar(here[0]) or 0, connection.scalar(here[1]) or 0


class Part(NamedTuple):
    """What of a slice belongs to one partition, and where its records are: all of them, if `span` is None."""

    partition: str | None
    span: range | None = None
    rows: int = 0
    rejected: int = 0


def parts(connection: sa.Connection, run_id: str, node_id: str, partitions: Sequence[str]) -> list[Part]:
    """The parts of a slice, in the order of its partitions; the only part of one that has at most one."""
    if len(partitions) < 2:
        return [Part(partitions[0] if partitions else None, None, *counts(connection, run_id, node_id))]
    found = [_spans(connection, table, run_id, node_id) for table in (rows, row_rejections)]
    return [_part(partition, *(of_table.get(partition, Span()) for of_table in found)) for partition in partitions]


class Span(NamedTuple):
    """How many records of a kind a partition has, the first and the one after the last; of none, nowhere."""

    number: int = 0
    start: int | None = None
    stop: int | None = None


def _spans(connection: sa.Connection, table: sa.Table, run_id: str, node_id: str) -> dict[str, Span]:
    index = table.c.row_index
    told = sa.select(table.c.partition_key, sa.func.count(), sa.func.min(index), sa.func.max(index) + 1)
    of_node = told.where(*_of_node(table, run_id, node_id)).group_by(table.c.partition_key)
    return {partition: Span(*span) for partition, *span in connection.execute(of_node)}


def _part(partition: str, admitted: Span, rejected: Span) -> Part:
    starts = [span.start for span in (admitted, rejected) if span.start is not None]
    stops = [span.stop for span in (admitted, rejected) if span.stop is not None]
    span = range(min(starts, default=0), max(stops, default=0))
    return Part(partition, span, admitted.number, rejected.number)


def slice_token(connection: sa.Connection, run_id: str, node_id: str) -> str | None:
    """The token of the slice that a node of this run handles; None before its first attempt."""
    return connection.scalar(
        sa.select(node_states.c.token_id)
        .where(node_states.c.run_id == run_id, node_states.c.node_id == node_id)
        .limit(1)
    )


def decided(connection: sa.Connection, token_ids: Sequence[str]) -> set[str]:
    """Those of some tokens that have their outcome."""
    pages = (token_ids[start : start + PAGE] for start in range(0, len(token_ids), PAGE))
    of_page = sa.select(token_outcomes.c.token_id)
    return {token for page in pages for token in connection.scalars(of_page.where(token_outcomes.c.token_id.in_(page)))}


def without_result(connection: sa.Connection, run_id: str, node_id: str) -> Iterator[str]:
    """The keys of the rows whose run did not see them through, in source order."""
    open_ones = (
        sa.select(rows.c.row_key)
        .join(tokens, tokens.c.row_id == rows.c.row_id)
        .outerjoin(token_outcomes, token_outcomes.c.token_id == tokens.c.token_id)
        .where(rows.c.run_id == run_id, rows.c.node_id == node_id)
        .where(token_outcomes.c.outcome.is_(None) | (token_outcomes.c.outcome == Outcome.INTERRUPTED))
        .order_by(rows.c.row_index)
    )
    return iter(connection.execution_options(yield_per=PAGE).scalars(open_ones))


def in_source_order(
    landscape: Landscape,
    run_id: str,
    node_id: str,
    rows_a_page: int = PAGE,
    span: range | None = None,
    *,
    also_erased: bool = False,
) -> Iterator[list[AdmittedRow]]:
    """Pages of a slice's rows, of all or of those whose positions are in a span.

    Raises ErasedError for a row whose values were erased, unless these are wanted too.
    """
    read = payloads.read_or_erased if also_erased else payloads.read_many
    last = -1
    while page := _page(landscape, (run_id, node_id), last, rows_a_page, span, read):
        yield page
        last = page[-1].row.row_index


def _within(table: sa.Table, after: int, span: range | None) -> tuple[sa.ColumnElement[bool], ...]:
    if span is None:
        return (table.c.row_index > after,)
    return table.c.row_index > max(after, span.start - 1), table.c.row_index < span.stop


def _page(
    landscape: Landscape,
    node: tuple[str, str],
    after: int,
    limit: int,
    span: range | None,
    read: Callable[[sa.Connection, Iterable[str]], Mapping[str, bytes | Erasure]],
) -> list[AdmittedRow]:
    following = (
        sa.select(tokens.c.token_id, *rows.c)
        .join(tokens, tokens.c.row_id == rows.c.row_id)
        .where(*_of_node(rows, *node), *_within(rows, after, span))
        .order_by(rows.c.row_index)
        .limit(limit)
    )
    with landscape.read() as connection:
        found = [(token_id, Row(*row)) for token_id, *row in connection.execute(following)]
        values = read(connection, [row.values_ref for _, row in found])
    return [AdmittedRow(token_id, row, *payloads.values_in(values[row.values_ref])) for token_id, row in found]


def rejections(
    landscape: Landscape, run_id: str, node_id: str, span: range | None = None
) -> Iterator[list[tuple[RowRejection, bytes]]]:
    """Pages of a slice's rejections, of all or of those in a span, each with the record as it came."""
    last = -1
    while page := _rejection_page(landscape, (run_id, node_id), last, span):
        yield page
        last = page[-1][0].row_index


def _rejection_page(
    landscape: Landscape, node: tuple[str, str], after: int, span: range | None
) -> list[tuple[RowRejection, bytes]]:
    here = (*_of_node(row_rejections, *node), *_within(row_rejections, after, span))
    following = row_rejections.select().where(*here)
    with landscape.read() as connection:
        found = [RowRejection(*row) for row in connection.execute(following.order_by("row_index").limit(PAGE))]
        raw = payloads.read_many(connection, [rejection.raw_ref for rejection in found])
    return [(rejection, raw[rejection.raw_ref]) for rejection in found]
