"""What was flushed, told: how many rows a step asks about, and the batches with the states that asked them.

No batch holds rows of two partitions, so what was asked about a partition is what its batches' states did.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import NamedTuple

import sqlalchemy as sa

from elspeth_dagster.landscape.schema import (
    batch_members,
    batches,
    node_state_ends,
    node_states,
    rows,
    tokens,
)
from elspeth_dagster.landscape.words import StateStatus


def rows_of_shard(connection: sa.Connection, run_id: str, node_id: str, shard: str) -> int:
    """How many rows one step asks about."""
    held = sa.select(sa.func.count()).join(batches, batches.c.batch_id == batch_members.c.batch_id)
    here = (batches.c.run_id == run_id, batches.c.node_id == node_id, batches.c.shard == shard)
    return connection.scalar(held.select_from(batch_members).where(*here)) or 0


def flushed_from(run_id: str, node_id: str, partition: str) -> sa.Select[tuple[str]]:
    """The tokens of the batches that a node of a run flushed from the rows of a partition."""
    first = (batch_members.c.batch_id == batches.c.batch_id) & (batch_members.c.ordinal == 0)
    return (
        sa.select(batches.c.token_id)
        .join(batch_members, first)
        .join(tokens, tokens.c.token_id == batch_members.c.token_id)
        .join(rows, rows.c.row_id == tokens.c.row_id)
        .where(batches.c.run_id == run_id, batches.c.node_id == node_id, rows.c.partition_key == partition)
    )


def about(run_id: str, node_id: str, partition: str | None) -> sa.ColumnElement[bool]:
    """That a state asked such a batch; of no partition, that it is any state."""
    if partition is None:
        return sa.true()
    return node_states.c.token_id.in_(flushed_from(run_id, node_id, partition))


def counted(connection: sa.Connection, run_id: str, node_id: str, where: sa.ColumnElement[bool]) -> Counter[str]:
    """The sum of what the last attempts at batches counted, as their states' ends tell."""
    told = (
        sa.select(node_states.c.token_id, node_state_ends.c.detail)
        .join(node_state_ends, node_state_ends.c.state_id == node_states.c.state_id)
        .where(node_states.c.run_id == run_id, node_states.c.node_id == node_id, where)
        .where(node_state_ends.c.status == StateStatus.COMPLETED)
        .order_by(node_states.c.attempt)
    )
    last = {token_id: json.loads(detail or "{}") for token_id, detail in connection.execute(told)}
    total: Counter[str] = Counter()
    for counts in last.values():
        total.update({name: number for name, number in counts.items() if isinstance(number, int)})
    return total


class Asked(NamedTuple):
    """A batch as it was asked: why it was flushed, how many rows it holds, and the state of the last attempt at it."""

    ordinal: int
    shard: str
    trigger: str
    rows: int
    state_id: str | None


def asked(
    connection: sa.Connection,
    run_id: str,
    node_id: str,
    asking_node: str,
    limit: int,
    partition: str | None = None,
) -> tuple[int, list[Asked]]:
    """How many batches a node flushed (from the rows of a partition), and the first of them."""
    here = [batches.c.run_id == run_id, batches.c.node_id == node_id]
    if partition is not None:
        here.append(batches.c.token_id.in_(flushed_from(run_id, node_id, partition)))
    held = sa.select(sa.func.count()).where(batch_members.c.batch_id == batches.c.batch_id).scalar_subquery()
    state = sa.select(node_states.c.state_id).where(
        node_states.c.token_id == batches.c.token_id, node_states.c.node_id == asking_node
    )
    last = state.order_by(node_states.c.attempt.desc()).limit(1).scalar_subquery()
    told = sa.select(batches.c.ordinal, batches.c.shard, batches.c.trigger_fired, held, last).where(*here)
    number = connection.scalar(sa.select(sa.func.count()).where(*here)) or 0
    found = connection.execute(told.order_by(batches.c.ordinal).limit(limit))
    return number, [Asked(*row) for row in found]
