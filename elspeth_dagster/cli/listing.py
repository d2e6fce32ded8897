"""What the lists show: runs with their counts, and calls one by one. Derived from the record each time.

A cost is the sum over the calls whose price is known, None where there is none; calls that were answered and have no
known price are counted apart, and so are calls whose reply is not known, which may have been paid. What these can have
cost at most is the sum of their bounds; those without a known bound are counted apart again.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

import sqlalchemy as sa

from elspeth_dagster.landscape.costs import ERRED, UNBOUNDED, UNKNOWN, UNPRICED, bound, how_many, whole
from elspeth_dagster.landscape.explaining import find_rows, not_on_record
from elspeth_dagster.landscape.records import Run, RunEnd
from elspeth_dagster.landscape.schema import (
    calls,
    node_states,
    replies,
    row_rejections,
    rows,
    run_ends,
    runs,
    token_outcomes,
    tokens,
)
from elspeth_dagster.landscape.words import Cause, Mode, Outcome, ReplyOutcome, RunStatus, TokenKind

AT_ONCE = 1000


@dataclass(frozen=True)
class RunLine:
    """A run with its counts; no status and end while it goes on. Costs in nano-US-dollars."""

    run_id: str
    assessments: list[str]
    partitions: list[str]
    mode: Mode
    status: RunStatus | None
    started_at: datetime
    ended_at: datetime | None
    rows: int
    rejected: int
    assessed: int
    partial: int
    failed: int
    interrupted: int
    calls: int
    cost_nanousd: int | None
    unpriced_calls: int


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

    @property
    def is_unknown(self) -> bool:
        """Whether no reply is known: it may have been paid."""
        return self.outcome in (None, ReplyOutcome.UNKNOWN)


class Uncertain(NamedTuple):
    """Calls without a known reply: what they can have cost at most, and how many of them have no known bound."""

    calls: int
    bound_nanousd: int | None
    unbounded_calls: int


def newest_runs(connection: sa.Connection, *, assessment: str | None, limit: int) -> list[RunLine]:
    """The newest runs (of an assessment), newest first."""
    begun = sa.select(*runs.c, *run_ends.c).outerjoin(run_ends, run_ends.c.run_id == runs.c.run_id)
    newest_first = connection.execute(begun.order_by(runs.c.started_at.desc(), runs.c.run_id.desc()))
    width = len(Run._fields)
    pairs = ((Run(*row[:width]), RunEnd(*row[width:]) if row[width] else None) for row in newest_first)
    wanted = (pair for pair in pairs if assessment is None or assessment in json.loads(pair[0].assessments))
    chosen = list(islice(wanted, limit))
    counted = _counts(connection, [run.run_id for run, _ in chosen])
    return [_run_line(run, end, counted[run.run_id]) for run, end in chosen]


def _run_line(run: Run, end: RunEnd | None, counted: dict[str, int | None]) -> RunLine:
    return RunLine(
        run_id=run.run_id,
        assessments=json.loads(run.assessments),
        partitions=json.loads(run.partition_keys),
        mode=run.mode,
        status=end and end.status,
        started_at=run.started_at,
        ended_at=end and end.ended_at,
        **counted,  # type: ignore[arg-type]
    )


def _counts(connection: sa.Connection, run_ids: Sequence[str]) -> dict[str, dict[str, int | None]]:
    """The numbers of a RunLine, by run."""
    fates = ("assessed", "partial", "failed", "interrupted")
    none: dict[str, int | None] = dict.fromkeys(("rows", "rejected", *fates, "calls", "unpriced_calls"), 0)
    counted: dict[str, dict[str, int | None]] = defaultdict(lambda: {**none, "cost_nanousd": None})
    for name, table in (("rows", rows), ("rejected", row_rejections)):
        for run_id, number in connection.execute(_per_run(table, run_ids)):
            counted[run_id][name] = number
    for run_id, outcome, number in connection.execute(_fates_per_run(run_ids)):
        counted[run_id][Outcome(outcome).value] = number
    for run_id, number, unpriced, cost in connection.execute(_spent_per_run(run_ids)):
        counted[run_id].update(calls=number, unpriced_calls=int(unpriced), cost_nanousd=whole(cost))
    return counted


def _per_run(table: sa.Table, run_ids: Sequence[str]) -> sa.Select[Any]:
    return sa.select(table.c.run_id, sa.func.count()).where(table.c.run_id.in_(run_ids)).group_by(table.c.run_id)


def _fates_per_run(run_ids: Sequence[str]) -> sa.Select[Any]:
    return (
        sa.select(tokens.c.run_id, token_outcomes.c.outcome, sa.func.count())
        .join(token_outcomes, token_outcomes.c.token_id == tokens.c.token_id)
        .where(tokens.c.run_id.in_(run_ids), tokens.c.kind == TokenKind.ROW)
        .group_by(tokens.c.run_id, token_outcomes.c.outcome)
    )


def _spent_per_run(run_ids: Sequence[str]) -> sa.Select[Any]:
    return (
        sa.select(node_states.c.run_id, sa.func.count(), how_many(UNPRICED), sa.func.sum(replies.c.cost_nanousd))
        .join(calls, calls.c.state_id == node_states.c.state_id)
        .outerjoin(replies, replies.c.call_id == calls.c.call_id)
        .where(node_states.c.run_id.in_(run_ids))
        .group_by(node_states.c.run_id)
    )


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
    return (CallLine(*row) for row in found)


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
        .add_columns(*(replies.c[name] for name in (*came, *cost)))
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
