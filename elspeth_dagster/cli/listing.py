"""What the list of calls shows, one by one. Derived from the record each time.

A cost is the sum over the calls whose price is known, None where there is none; calls that were answered and have no
known price are counted apart, and so are calls whose reply is not known, which may have been paid. What these can have
cost at most is the sum of their bounds; those without a known bound are counted apart again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from elspeth_dagster.landscape.costs import ERRED, UNBOUNDED, UNKNOWN, bound, how_many, whole
from elspeth_dagster.landscape.endpoints import Heads, endpoints_of
from elspeth_dagster.landscape.finding import find_rows, not_on_record
from elspeth_dagster.landscape.schema import calls, node_states, replies, rows, tokens
from elspeth_dagster.landscape.words import Cause, ReplyOutcome

AT_ONCE = 1000


@dataclass(frozen=True)
class CallLine:
    """A call and what became of it; no outcome while no reply is on record. `bound_nanousd`: the most it can cost."""

    call_id: str
    run_id: str
    state_id: str
    row_key: str
    question: str
    batch_attempt: int
    query_attempt: int
    call_index: int
    cause: Cause
    provider: str
    model: str
    idempotency_key: str | None
    bound_nanousd: int | None
    sent_at: datetime
    outcome: ReplyOutcome | None
    error_class: str | None
    http_status: int | None
    finish_reason: str | None
    latency_us: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_nanousd: int | None
    endpoint: str | None

    @property
    def is_unknown(self) -> bool:
        """Whether no reply is known: it may have been paid."""
        return self.outcome in (None, ReplyOutcome.UNKNOWN)


class Uncertain(NamedTuple):
    """Calls without a known reply: what they can have cost at most, and how many of them have no known bound."""

    calls: int
    bound_nanousd: int | None
    unbounded_calls: int


def calls_of_run(
    connection: sa.Connection, run_id: str, *, row_key: str | None, question: str | None, unknown: bool, errors: bool
) -> Iterator[CallLine]:
    """The calls of a run, batch by batch in the order of their index, as they come from the database.

    Raises NotOnRecordError for a row that the run doesn't have.
    """
    made = _calls().where(*_of_run(connection, run_id, row_key, question))
    if unknown or errors:
        made = made.where(sa.or_(*[kind for kind, asked in ((UNKNOWN, unknown), (ERRED, errors)) if asked]))
    found = connection.execute(made.execution_options(yield_per=AT_ONCE))
    named: Heads = {}
    return (CallLine(*(*row[:-1], _endpoint(connection, row[-1], named))) for row in found)


def _endpoint(connection: sa.Connection, head_ref: str, named: Heads) -> str | None:
    """The endpoint that a head names; each head is read once."""
    if head_ref not in named:
        named |= endpoints_of(connection, [head_ref])
    return named[head_ref]


def uncertain_of_run(
    connection: sa.Connection, run_id: str, *, row_key: str | None = None, question: str | None = None
) -> Uncertain:
    """What the calls of a run without a known reply can have cost; those of a row or question, where one is given."""
    counted = (
        sa.select(sa.func.count(), bound(), how_many(UNBOUNDED))
        .select_from(node_states)
        .join(calls, calls.c.state_id == node_states.c.state_id)
        .outerjoin(replies, replies.c.call_id == calls.c.call_id)
        .where(UNKNOWN, *_of_run(connection, run_id, row_key, question))
    )
    number, most, unbounded = connection.execute(counted).one()
    return Uncertain(number, whole(most), whole(unbounded) or 0)


def _of_run(
    connection: sa.Connection, run_id: str, row_key: str | None, question: str | None
) -> Iterator[sa.ColumnElement[bool]]:
    yield node_states.c.run_id == run_id
    if row_key is not None:
        yield calls.c.token_id.in_(_tokens(connection, run_id, row_key))
    if question is not None:
        yield calls.c.query_key == question


def _calls() -> sa.Select[Any]:
    call = [calls.c[name] for name in ("call_id", "run_id", "state_id")]
    key = sa.func.coalesce(calls.c.idempotency_key, calls.c.call_id).label("idempotency_key")
    tried = [calls.c[name] for name in ("query_attempt", "call_index", "cause", "provider", "model")]
    came = ("outcome", "error_class", "http_status", "finish_reason", "latency_us", "prompt_tokens")
    cost = ("completion_tokens", "cost_nanousd")
    return (
        sa.select(*call, rows.c.row_key, calls.c.query_key, node_states.c.attempt, *tried)
        .add_columns(key, calls.c.bound_nanousd, calls.c.sent_at)
        .add_columns(*(replies.c[name] for name in (*came, *cost)), calls.c.head_ref)
        .join(node_states, node_states.c.state_id == calls.c.state_id)
        .join(tokens, tokens.c.token_id == calls.c.token_id)
        .join(rows, rows.c.row_id == tokens.c.row_id)
        .outerjoin(replies, replies.c.call_id == calls.c.call_id)
        .order_by(calls.c.state_id, calls.c.call_index)
    )


def _tokens(connection: sa.Connection, run_id: str, row_key: str) -> list[str]:
    if not (found := find_rows(connection, run_id, row_key)):
        raise not_on_record(connection, run_id, row_key)
    return [token_id for _, _, token_id in found]
