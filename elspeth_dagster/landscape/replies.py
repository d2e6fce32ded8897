"""Replies on record: those to a lineage's rows, found by the rows' keys; those of any run, by the rows' scope."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from elspeth_dagster.landscape.batches import Member
from elspeth_dagster.landscape.records import Run
from elspeth_dagster.landscape.schema import (
    answers,
    batch_members,
    batches,
    calls,
    node_states,
    replies,
    rows,
    run_ends,
    runs,
    tokens,
)
from elspeth_dagster.landscape.words import ReplyOutcome, RunStatus
from elspeth_dagster.stages.calling import is_open

NEWEST = 5


class RecordedCall(NamedTuple):
    """A call and its reply; no outcome where none is on record.

    `is_settled`: a run of its lineage has completed since, with whatever the reply came to.
    """

    call_id: str
    run_id: str
    row_key: str
    query_key: str
    state_id: str
    request_ref: str
    question_hash: str | None
    idempotency_key: str | None
    sent_at: datetime
    outcome: ReplyOutcome | None
    error_class: str | None
    detail: str | None
    http_status: int | None
    body_ref: str | None
    is_settled: bool

    @property
    def is_unknown(self) -> bool:
        """Whether it was sent, for all we know, and may have been paid without a reply on record."""
        return self.outcome in (None, ReplyOutcome.UNKNOWN)

    @property
    def is_open(self) -> bool:
        """Whether the provider may have done the work although no whole response came."""
        return is_open(self.http_status, self.error_class)


def in_lineage(
    connection: sa.Connection, root_run_id: str, node_id: str, row_keys: Sequence[str]
) -> list[RecordedCall]:
    """The calls about these rows at a node, by any run of a lineage, in the order of sending.

    A row is the same row when its key is.
    """
    known: list[RecordedCall] = []
    for state_id, token_ids in _states_of(connection, root_run_id, node_id, row_keys).items():
        made = _calls().where(calls.c.state_id == state_id, calls.c.token_id.in_(token_ids))
        known += _recorded(connection.execute(made.order_by(calls.c.sent_at)))
    return known


def _states_of(
    connection: sa.Connection, root_run_id: str, node_id: str, row_keys: Sequence[str]
) -> dict[str, list[str]]:
    """The states of a lineage's batches at a node that hold these rows, and which tokens these have there.

    In the order of runs and attempts, whatever the clocks of their hosts said.
    """
    of_lineage = rows.c.run_id.in_(sa.select(runs.c.run_id).where(runs.c.root_run_id == root_run_id))
    held = _held().where(of_lineage, rows.c.row_key.in_(row_keys), node_states.c.node_id == node_id)
    in_order = held.join(runs, runs.c.run_id == rows.c.run_id).order_by(runs.c.started_at, node_states.c.attempt)
    return _by_state(connection.execute(in_order))


def _held() -> sa.Select[Any]:
    """Which states held which tokens of rows in their batches."""
    return (
        sa.select(node_states.c.state_id, tokens.c.token_id)
        .select_from(rows)
        .join(tokens, tokens.c.row_id == rows.c.row_id)
        .join(batch_members, batch_members.c.token_id == tokens.c.token_id)
        .join(batches, batches.c.batch_id == batch_members.c.batch_id)
        .join(node_states, node_states.c.token_id == batches.c.token_id)
    )


def _by_state(held: Iterable[Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for state_id, token_id in held:
        found.setdefault(state_id, []).append(token_id)
    return found


def anywhere(
    connection: sa.Connection, provider: str, member: Member, query_key: str, hashes: tuple[str, str], *, but: str
) -> list[RecordedCall]:
    """Calls of other runs than `but` that put this question about the row to the provider, and were answered.

    Those made for the question of this key come first, the newest of them first.
    """
    scope_id = member.scope and member.scope.scope_id
    states = _by_state(connection.execute(_held().where(rows.c.scope_id == scope_id, rows.c.run_id != but)))
    same = sa.case((calls.c.query_key == query_key, 0), else_=1)
    put = _calls().where(
        calls.c.state_id.in_(states),
        calls.c.token_id.in_([token_id for tokens_ in states.values() for token_id in tokens_]),
        calls.c.question_hash.in_(hashes),
        calls.c.provider == provider,
        replies.c.outcome == ReplyOutcome.SUCCESS,
    )
    return _recorded(connection.execute(put.order_by(same, calls.c.sent_at.desc()).limit(NEWEST)))


def of_answer(
    connection: sa.Connection, run_id: str, node_id: str, member: Member, query_key: str, hashes: tuple[str, str]
) -> list[RecordedCall]:
    """The call that a run's answer to this question comes from, whoever made it, if it put the question so."""
    of_run = (
        sa.select(answers.c.call_id)
        .join(tokens, tokens.c.token_id == answers.c.token_id)
        .join(rows, rows.c.row_id == tokens.c.row_id)
        .join(node_states, node_states.c.state_id == answers.c.state_id)
        .where(rows.c.run_id == run_id, rows.c.row_key == member.row_key, answers.c.query_key == query_key)
        .where(node_states.c.node_id == node_id)
    )
    put = _calls().where(calls.c.call_id.in_(of_run), calls.c.question_hash.in_(hashes))
    return _recorded(connection.execute(put.order_by(calls.c.sent_at)))


def was_answered(connection: sa.Connection, run_id: str, call_id: str) -> bool:
    """Whether a run took this call's reply for an answer, accepted or refused, and went on."""
    of_row = answers.c.token_id == calls.c.token_id
    taken = sa.exists().where(answers.c.run_id == run_id, answers.c.call_id == call_id, of_row)
    return connection.scalar(sa.select(taken).select_from(calls).where(calls.c.call_id == call_id)) or False


def provider_of(connection: sa.Connection, run: Run, node_id: str) -> str | None:
    """Which provider a run asked at a node, or else its lineage, last; None if nothing was asked."""
    asked = (
        sa.select(calls.c.provider)
        .join(node_states, node_states.c.state_id == calls.c.state_id)
        .join(runs, runs.c.run_id == node_states.c.run_id)
        .where(runs.c.root_run_id == run.root_run_id, node_states.c.node_id == node_id)
        .order_by(sa.case((runs.c.run_id == run.run_id, 0), else_=1), runs.c.started_at.desc())
    )
    return connection.scalar(asked.limit(1))


def _calls() -> sa.Select[Any]:
    asked = ("query_key", "state_id", "request_ref", "question_hash", "idempotency_key", "sent_at")
    call = [calls.c[name] for name in asked]
    reply = [replies.c[name] for name in ("outcome", "error_class", "detail", "http_status", "body_ref")]
    later = runs.alias("later")
    settled = (
        sa.exists()
        .where(later.c.root_run_id == runs.c.root_run_id, run_ends.c.run_id == later.c.run_id)
        .where(run_ends.c.status == RunStatus.COMPLETED, later.c.started_at >= runs.c.started_at)
        .correlate(runs)
    )
    return (
        sa.select(calls.c.call_id, calls.c.run_id, rows.c.row_key, *call, *reply, settled)
        .join(node_states, node_states.c.state_id == calls.c.state_id)
        .join(runs, runs.c.run_id == calls.c.run_id)
        .join(tokens, tokens.c.token_id == calls.c.token_id)
        .join(rows, rows.c.row_id == tokens.c.row_id)
        .outerjoin(replies, replies.c.call_id == calls.c.call_id)
    )


def _recorded(found: Iterable[Any]) -> list[RecordedCall]:
    return [RecordedCall._make([*row[:-1], bool(row[-1])]) for row in found]
