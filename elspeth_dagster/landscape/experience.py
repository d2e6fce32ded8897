"""What earlier replies reported, for estimates: of this assessment where there are some, else of its model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from elspeth_dagster.landscape.schema import calls, node_states, nodes, payloads, replies, runs
from elspeth_dagster.landscape.words import ReplyOutcome
from elspeth_dagster.stages.estimating import Experience

NEWEST_RUNS = 5
LOOKED_AT = 500
Reported = Sequence[Any]


def of(connection: sa.Connection, assessment: str, model: str) -> Experience:
    """What some replies of the newest runs reported."""
    own = _reported(connection, model, nodes.c.assessment == assessment)
    others = own or _reported(connection, model, sa.true())
    return Experience(
        tokens_per_byte=_ratio(others, "prompt_tokens", "size"),
        completion_tokens=_ratio(own, "completion_tokens", "one"),
        latency_seconds=_ratio(others, "seconds", "one"),
    )


def _reported(connection: sa.Connection, model: str, of_node: sa.ColumnElement[bool]) -> Reported:
    asked_by = sa.select(runs.c.run_id).join(nodes, nodes.c.run_id == runs.c.run_id)
    asked_by = asked_by.where(of_node, nodes.c.op_name == "ask_batches")
    newest = sa.select(runs.c.run_id).where(runs.c.run_id.in_(asked_by))
    newest = newest.order_by(runs.c.started_at.desc()).limit(NEWEST_RUNS)
    some = (
        sa.select(
            replies.c.prompt_tokens,
            replies.c.completion_tokens,
            payloads.c.size,
            (replies.c.latency_us / sa.literal(1e6)).label("seconds"),
            sa.literal(1).label("one"),
        )
        .select_from(node_states)
        .join(nodes, (nodes.c.run_id == node_states.c.run_id) & (nodes.c.node_id == node_states.c.node_id))
        .join(calls, calls.c.state_id == node_states.c.state_id)
        .join(replies, replies.c.call_id == calls.c.call_id)
        .join(payloads, payloads.c.ref == calls.c.request_ref)
        .where(node_states.c.run_id.in_(connection.scalars(newest).all()), of_node)
        .where(calls.c.model == model, replies.c.outcome == ReplyOutcome.SUCCESS)
        .limit(LOOKED_AT)
    )
    return connection.execute(some).all()


def _ratio(reported: Reported, numerator: str, denominator: str) -> float | None:
    """Of the sums, over those that report both."""
    pairs = [(getattr(row, numerator), getattr(row, denominator)) for row in reported]
    known = [(float(above), float(below)) for above, below in pairs if above is not None and below]
    return sum(above for above, _ in known) / sum(below for _, below in known) if known else None
