"""What was flushed, told: how many rows a step asks about, and the batches with the states that asked them."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from elspeth_dagster.landscape.schema import batch_members, batches, node_states


def rows_of_shard(connection: sa.Connection, run_id: str, node_id: str, shard: str) -> int:
    """How many rows one step asks about."""
    held = sa.select(sa.func.count()).join(batches, batches.c.batch_id == batch_members.c.batch_id)
    here = (batches.c.run_id == run_id, batches.c.node_id == node_id, batches.c.shard == shard)
    return connection.scalar(held.select_from(batch_members).where(*here)) or 0


class Asked(NamedTuple):
    """A batch as it was asked: why it was flushed, how many rows it holds, and the state of the last attempt at it."""

    ordinal: int
    shard: str
    trigger: str
    rows: int
    state_id: str | None


def asked(
    connection: sa.Connection, run_id: str, node_id: str, asking_node: str, limit: int
) -> tuple[int, list[Asked]]:
    """How many batches a node flushed, and the first of them."""
    here = (batches.c.run_id == run_id, batches.c.node_id == node_id)
    held = sa.select(sa.func.count()).where(batch_members.c.batch_id == batches.c.batch_id).scalar_subquery()
    state = sa.select(node_states.c.state_id).where(
        node_states.c.token_id == batches.c.token_id, node_states.c.node_id == asking_node
    )
    last = state.order_by(node_states.c.attempt.desc()).limit(1).scalar_subquery()
    told = sa.select(batches.c.ordinal, batches.c.shard, batches.c.trigger_fired, held, last).where(*here)
    number = connection.scalar(sa.select(sa.func.count()).where(*here)) or 0
    found = connection.execute(told.order_by(batches.c.ordinal).limit(limit))
    return number, [Asked(*row) for row in found]
