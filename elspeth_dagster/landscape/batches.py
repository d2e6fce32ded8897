"""Batches: what one flush holds, in order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa

from elspeth_dagster.core.canonical import Json, sha256
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.landscape import payloads
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import (
    Batch,
    BatchMember,
    Dictionary,
    Fact,
    Payload,
    Scope,
    Token,
    TokenParent,
)
from elspeth_dagster.landscape.schema import batch_members, batches, rows, scopes, tokens
from elspeth_dagster.landscape.words import Encoding, TokenKind, Trigger

PAGE = 500


class Member(NamedTuple):
    """A row of a batch: its place, its token, its key and its values.

    What is asked about it belongs to its scope, and leans on its text; both are None for a row of a landscape that had
    no scopes yet.
    """

    ordinal: int
    token_id: str
    row_key: str
    values: dict[str, Json]
    scope: Scope | None = None
    text: Dictionary | None = None

    def name(self, data: bytes) -> str:
        """The name of some bytes that are about this row."""
        return sha256(data) if self.scope is None else self.scope.name(data)

    def request(self, body: bytes, ref: str) -> Payload:
        """The payload of a request about this row, whose name is known: it repeats much of the row's text."""
        scope_id = None if self.scope is None else self.scope.scope_id
        return Payload(ref, len(body), Encoding.IDENTITY, body, scope_id).leaning_on(self.text)


def flush(
    run_id: str, node_id: str, *, ordinal: int, trigger: Trigger, shard: str, members: tuple[str, ...]
) -> tuple[Batch, list[Fact]]:
    """A new batch, and the facts that put it with its token and its members on record."""
    batch = Batch(new_id(), run_id, node_id, ordinal, new_id(), trigger, shard)
    parents = [TokenParent(batch.token_id, place, run_id, token) for place, token in enumerate(members)]
    held = [BatchMember(batch.batch_id, place, run_id, token) for place, token in enumerate(members)]
    return batch, [Token(batch.token_id, run_id, TokenKind.BATCH, None), *parents, batch, *held]


def of_node(landscape: Landscape, run_id: str, node_id: str) -> Iterator[list[Batch]]:
    """Pages of a node's batches, in the order in which they were flushed."""
    last = -1
    here = batches.select().where(batches.c.run_id == run_id, batches.c.node_id == node_id)
    in_order = here.order_by(batches.c.ordinal).limit(PAGE)
    while True:
        with landscape.read() as connection:
            page = [Batch(*row) for row in connection.execute(in_order.where(batches.c.ordinal > last))]
        if not page:
            return
        yield page
        last = page[-1].ordinal


def of_shard(connection: sa.Connection, run_id: str, node_id: str, shard: str) -> list[Batch]:
    """The batches that one step asks, in order."""
    here = batches.select().where(batches.c.run_id == run_id, batches.c.node_id == node_id, batches.c.shard == shard)
    return [Batch(*row) for row in connection.execute(here.order_by(batches.c.ordinal))]


def members(connection: sa.Connection, batch_id: str) -> list[Member]:
    """The rows of a batch, in order."""
    held = (
        sa.select(batch_members.c.ordinal, batch_members.c.token_id, rows.c.row_key, rows.c.values_ref, *scopes.c)
        .join(tokens, tokens.c.token_id == batch_members.c.token_id)
        .join(rows, rows.c.row_id == tokens.c.row_id)
        .outerjoin(scopes, scopes.c.scope_id == rows.c.scope_id)
        .where(batch_members.c.batch_id == batch_id)
        .order_by(batch_members.c.ordinal)
    )
    found = connection.execute(held).all()
    texts = payloads.read_many(connection, [row.values_ref for row in found])
    return [_member(row, Dictionary(row.values_ref, texts[row.values_ref])) for row in found]


def _member(row: Any, text: Dictionary) -> Member:
    scope = None if row.scope_id is None else Scope(*row[4:])
    return Member(row.ordinal, row.token_id, row.row_key, json.loads(text.data), scope, scope and text)
