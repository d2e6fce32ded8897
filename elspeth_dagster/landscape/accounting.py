"""What is missing from the record of a finished slice, or hangs on the wrong thing: two promises, looked up again.

`unaccounted` holds to "nothing disappears", `unlinked` to "every call names its state, its row and its question". Each
gives numbers by name that are all 0 in a good record. The database's keys and guards refuse most of it; this is for a
record that somebody wrote past them, and for our own mistakes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from elspeth_dagster.landscape.schema import (
    answers,
    artifacts,
    batch_members,
    batches,
    calls,
    node_state_ends,
    node_states,
    nodes,
    replies,
    row_rejections,
    rows,
    token_outcomes,
    tokens,
)
from elspeth_dagster.landscape.words import Outcome, StateStatus


def fates(connection: sa.Connection, run_id: str, assessment: str, partition: str | None = None) -> dict[str, int]:
    """How many rows of an assessment (of one partition of several) had which outcome; `none` are without one."""
    counted = (
        sa.select(token_outcomes.c.outcome, sa.func.count())
        .select_from(rows)
        .join(tokens, tokens.c.row_id == rows.c.row_id)
        .outerjoin(token_outcomes, token_outcomes.c.token_id == tokens.c.token_id)
        .where(rows.c.run_id == run_id, rows.c.node_id == f"{assessment}.admit_rows")
        .group_by(token_outcomes.c.outcome)
    )
    if partition is not None:
        counted = counted.where(rows.c.partition_key == partition)
    return {str(outcome or "none"): number for outcome, number in connection.execute(counted)}


def unaccounted(connection: sa.Connection, run_id: str, assessment: str) -> dict[str, int]:
    """How many of what is missing."""
    found = fates(connection, run_id, assessment)
    assessed, partial, failed = (found.get(str(one), 0) for one in (Outcome.ASSESSED, Outcome.PARTIAL, Outcome.FAILED))
    return {
        "records_missing": _records_missing(connection, run_id, f"{assessment}.admit_rows"),
        "rows_without_outcome": found.get("none", 0),
        "batches_without_outcome": _batches_without_outcome(connection, run_id, f"{assessment}.aggregate_rows"),
        "states_open": _states_open(connection, run_id, assessment),
        "calls_without_reply": _calls_without_reply(connection, run_id, assessment),
        "results_missing": _missing_in(connection, run_id, f"{assessment}/results", assessed + partial),
        "failures_missing": _missing_in(connection, run_id, f"{assessment}/failures", failed + partial),
    }


def _records_missing(connection: sa.Connection, run_id: str, node_id: str) -> int:
    """How far what was read, as the op's last state tells, is from what is on record."""
    told = (
        sa.select(node_state_ends.c.detail)
        .join(node_states, node_states.c.state_id == node_state_ends.c.state_id)
        .where(node_states.c.run_id == run_id, node_states.c.node_id == node_id)
        .where(node_state_ends.c.status == StateStatus.COMPLETED)
        .order_by(node_states.c.attempt.desc())
    )
    detail = json.loads(connection.scalar(told) or "{}")
    read: int = detail.get("rows", 0) + detail.get("rejected", 0)
    there = sum(
        connection.scalar(sa.select(sa.func.count()).where(table.c.run_id == run_id, table.c.node_id == node_id)) or 0
        for table in (rows, row_rejections)
    )
    return abs(read - there)


def _batches_without_outcome(connection: sa.Connection, run_id: str, node_id: str) -> int:
    left = (
        sa.select(sa.func.count())
        .select_from(batches)
        .outerjoin(token_outcomes, token_outcomes.c.token_id == batches.c.token_id)
        .where(batches.c.run_id == run_id, batches.c.node_id == node_id, token_outcomes.c.token_id.is_(None))
    )
    return connection.scalar(left) or 0


def _states_open(connection: sa.Connection, run_id: str, assessment: str) -> int:
    left = (
        sa.select(sa.func.count())
        .select_from(node_states)
        .join(nodes, (nodes.c.run_id == node_states.c.run_id) & (nodes.c.node_id == node_states.c.node_id))
        .outerjoin(node_state_ends, node_state_ends.c.state_id == node_states.c.state_id)
        .where(node_states.c.run_id == run_id, nodes.c.assessment == assessment, node_state_ends.c.state_id.is_(None))
    )
    return connection.scalar(left) or 0


def _calls_without_reply(connection: sa.Connection, run_id: str, assessment: str) -> int:
    left = (
        sa.select(sa.func.count())
        .select_from(node_states)
        .join(calls, calls.c.state_id == node_states.c.state_id)
        .outerjoin(replies, replies.c.call_id == calls.c.call_id)
        .where(node_states.c.run_id == run_id, node_states.c.node_id == f"{assessment}.ask_batches")
        .where(replies.c.call_id.is_(None))
    )
    return connection.scalar(left) or 0


def _missing_in(connection: sa.Connection, run_id: str, asset_key: str, expected: int) -> int:
    """How far the rows of the last table of each partition are from what they must be."""
    written = (
        sa.select(artifacts.c.partition_key, artifacts.c.row_count)
        .join(node_states, node_states.c.state_id == artifacts.c.state_id)
        .where(node_states.c.run_id == run_id, artifacts.c.asset_key == asset_key)
        .order_by(node_states.c.attempt, artifacts.c.written_at)
    )
    there: dict[str | None, int] = {row.partition_key: row.row_count for row in connection.execute(written)}
    return abs(expected - sum(there.values()))


def unlinked(connection: sa.Connection, run_id: str, assessment: str, questions: Iterable[str]) -> dict[str, int]:
    """How many calls and answers hang on what they don't belong to."""
    here = (node_states.c.run_id == run_id, node_states.c.node_id == f"{assessment}.ask_batches")
    known = list(questions)
    return {
        "calls_about_no_row_of_their_batch": connection.scalar(_about_other_rows(calls).where(*here)) or 0,
        "answers_about_no_row_of_their_batch": connection.scalar(_about_other_rows(answers).where(*here)) or 0,
        "calls_for_no_question": connection.scalar(_for_no_question(known).where(*here)) or 0,
        "answers_from_another_question": connection.scalar(_from_elsewhere().where(*here)) or 0,
    }


def _about_other_rows(table: sa.Table) -> sa.Select[Any]:
    """Facts whose row is no member of the batch that their state asks."""
    is_member = (batch_members.c.batch_id == batches.c.batch_id) & (batch_members.c.token_id == table.c.token_id)
    return (
        sa.select(sa.func.count())
        .select_from(node_states)
        .join(table, table.c.state_id == node_states.c.state_id)
        .outerjoin(batches, batches.c.token_id == node_states.c.token_id)
        .outerjoin(batch_members, is_member)
        .where(batch_members.c.batch_id.is_(None))
    )


def _for_no_question(known: list[str]) -> sa.Select[Any]:
    made = sa.select(sa.func.count()).select_from(node_states)
    return made.join(calls, calls.c.state_id == node_states.c.state_id).where(calls.c.query_key.not_in(known))


def _from_elsewhere() -> sa.Select[Any]:
    """Answers that come from a call of this run for another question, or about a row with another key.

    A reply that was taken from another run may be about any row: reuse looks for the same question to the letter.
    """
    own_token, own_row, its_token, its_row = (tokens.alias(), rows.alias(), tokens.alias(), rows.alias())
    return (
        sa.select(sa.func.count())
        .select_from(node_states)
        .join(answers, answers.c.state_id == node_states.c.state_id)
        .join(calls, calls.c.call_id == answers.c.call_id)
        .join(own_token, own_token.c.token_id == answers.c.token_id)
        .join(own_row, own_row.c.row_id == own_token.c.row_id)
        .outerjoin(its_token, its_token.c.token_id == calls.c.token_id)
        .outerjoin(its_row, its_row.c.row_id == its_token.c.row_id)
        .where(calls.c.run_id == answers.c.run_id)
        .where((calls.c.query_key != answers.c.query_key) | its_row.c.row_key.is_distinct_from(own_row.c.row_key))
    )
