"""How long the provider took: the latency below which a share of a run's good replies came."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from elspeth_dagster.landscape.schema import calls, node_states, replies
from elspeth_dagster.landscape.words import ReplyOutcome


def percentiles(
    connection: sa.Connection,
    run_id: str,
    node_id: str,
    shares: Sequence[float],
    where: sa.ColumnElement[bool] | None = None,
) -> list[int] | None:
    """For each share the least latency, in microseconds, that so many replies did not exceed; None without replies.

    That is the nearest-rank method; every reply of the node, or of those of its
    states that `where` lets through, counts; errors don't.
    """
    timed = (
        sa.select(replies.c.latency_us)
        .join(calls, calls.c.call_id == replies.c.call_id)
        .join(node_states, node_states.c.state_id == calls.c.state_id)
        .where(node_states.c.run_id == run_id, node_states.c.node_id == node_id, sa.true() if where is None else where)
        .where(replies.c.outcome == ReplyOutcome.SUCCESS, replies.c.latency_us.is_not(None))
    )
    number = connection.scalar(sa.select(sa.func.count()).select_from(timed.subquery())) or 0
    if not number:
        return None
    in_order = timed.order_by(replies.c.latency_us).limit(1)
    ranks = (max(0, -int(-share * number // 1) - 1) for share in shares)
    return [connection.execute(in_order.offset(rank)).scalar_one() for rank in ranks]
