"""Surveying one run: how far it is, its steps, its batches, what was rejected, and why questions have no answer.

Lists are read a part at a time, behind the last one of the part before it. Everything is derived from the record.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from elspeth_dagster.landscape import payloads
from elspeth_dagster.landscape.costs import whole
from elspeth_dagster.landscape.explaining import attempts_at
from elspeth_dagster.landscape.explaining_questions import planned_questions
from elspeth_dagster.landscape.explanation import Attempt
from elspeth_dagster.landscape.records import Batch, Node
from elspeth_dagster.landscape.schema import (
    answers,
    batch_members,
    batches,
    node_state_ends,
    node_states,
    nodes,
    row_rejections,
    rows,
    token_outcomes,
    tokens,
)
from elspeth_dagster.landscape.words import AnswerStatus, Outcome, StateStatus

EXAMPLES = 3
ADMITTING = "admit_rows"


class Progress(NamedTuple):
    """Questions that have an answer or a refusal, of those that the rows admitted so far make."""

    settled: int
    planned: int


class StepLine(NamedTuple):
    """What one op of the run did in one try: its node states, by how they ended; no end while one is open."""

    node_id: str
    step_key: str
    retry_number: int
    states: int
    failed: int
    interrupted: int
    open: int
    started_at: datetime
    ended_at: datetime | None
    error: str | None


class BatchLine(NamedTuple):
    """A batch, how many rows it holds, and the attempts at it."""

    batch: Batch
    rows: int
    attempts: tuple[Attempt, ...]


class MemberLine(NamedTuple):
    """A row of a batch; no outcome while it is under way."""

    ordinal: int
    row_index: int
    row_key: str
    outcome: Outcome | None


class RejectionLine(NamedTuple):
    """A record that could not become a row."""

    node_id: str
    assessment: str
    row_index: int
    partition_key: str | None
    line: int | None
    column_name: str | None
    reason: str
    message: str


class Example(NamedTuple):
    """A row that has no answer for a reason, with the first words of the detail."""

    row_index: int
    row_key: str
    detail: str | None


class Refusals(NamedTuple):
    """How many rows have no answer to a question for a reason, and the first of them."""

    assessment: str
    question: str
    reason: str
    rows: int
    examples: tuple[Example, ...]


class Place(NamedTuple):
    """Where in a run: the node and the number there, behind which a list goes on."""

    node_id: str
    number: int


# How far it is -------------------------------------------------------------------------------------------------------


def assessments_of(connection: sa.Connection, run_id: str) -> list[Node]:
    """The nodes of a run that admit rows, one of each assessment."""
    admitting = nodes.select().where(nodes.c.run_id == run_id, nodes.c.op_name == ADMITTING)
    return [Node(*row) for row in connection.execute(admitting.order_by(nodes.c.assessment))]


def nodes_of(connection: sa.Connection, run_id: str) -> list[Node]:
    """All nodes of a run."""
    return [Node(*row) for row in connection.execute(nodes.select().where(nodes.c.run_id == run_id))]


def progress(connection: sa.Connection, run_id: str) -> Progress:
    """How far a run is with its questions."""
    settled = (
        sa.select(answers.c.token_id, answers.c.query_key)
        .join(node_states, node_states.c.state_id == answers.c.state_id)
        .where(node_states.c.run_id == run_id)
        .distinct()
    )
    number = connection.scalar(sa.select(sa.func.count()).select_from(settled.subquery())) or 0
    planned = sum(_planned(connection, node) for node in assessments_of(connection, run_id))
    return Progress(number, max(number, planned))


def _planned(connection: sa.Connection, node: Node) -> int:
    of_node = (rows.c.run_id == node.run_id) & (rows.c.node_id == node.node_id)
    admitted = connection.scalar(sa.select(sa.func.count()).select_from(rows).where(of_node)) or 0
    return admitted * len(planned_questions(payloads.read_json(connection, node.config_ref)))


# Steps ---------------------------------------------------------------------------------------------------------------


def steps(connection: sa.Connection, run_id: str) -> list[StepLine]:
    """What the ops of a run did, in the order in which they began."""
    ended = node_state_ends.c
    is_open = ended.state_id.is_(None)
    done = (
        sa.select(
            node_states.c.node_id,
            node_states.c.step_key,
            node_states.c.retry_number,
            sa.func.count().label("states"),
            _number_of(ended.status == StateStatus.FAILED).label("failed"),
            _number_of(ended.status == StateStatus.INTERRUPTED).label("interrupted"),
            _number_of(is_open).label("open"),
            sa.func.min(node_states.c.started_at).label("started_at"),
            sa.func.max(ended.ended_at).label("ended_at"),
            sa.func.min(ended.error).label("error"),
        )
        .outerjoin(node_state_ends, ended.state_id == node_states.c.state_id)
        .where(node_states.c.run_id == run_id)
        .group_by(node_states.c.node_id, node_states.c.step_key, node_states.c.retry_number)
        .order_by(sa.literal_column("started_at"), node_states.c.step_key)
    )
    return [_step(StepLine(*row)) for row in connection.execute(done)]


def _number_of(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.sum(sa.case((condition, 1), else_=0))


def _step(line: StepLine) -> StepLine:
    failed, interrupted, open_ = (whole(number) or 0 for number in (line.failed, line.interrupted, line.open))
    ended_at = None if open_ else line.ended_at
    return line._replace(failed=failed, interrupted=interrupted, open=open_, ended_at=ended_at)


# Batches -------------------------------------------------------------------------------------------------------------


def batch_lines(connection: sa.Connection, run_id: str, *, limit: int, after: Place | None = None) -> list[BatchLine]:
    """At most `limit` batches of a run, in their order, behind a place."""
    size = sa.select(sa.func.count()).where(batch_members.c.batch_id == batches.c.batch_id).scalar_subquery()
    some = sa.select(*batches.c, size).where(batches.c.run_id == run_id, *_behind(batches.c.ordinal, after))
    found = connection.execute(some.order_by(batches.c.node_id, batches.c.ordinal).limit(limit)).all()
    return _with_attempts(connection, [(Batch(*row[:-1]), row[-1]) for row in found])


def _behind(number: sa.Column[int], after: Place | None) -> Iterable[sa.ColumnElement[bool]]:
    if after is not None:
        here = sa.tuple_(number.table.c.node_id, number)
        yield here > sa.tuple_(sa.literal(after.node_id), sa.literal(after.number, sa.BigInteger))


def _with_attempts(connection: sa.Connection, found: list[tuple[Batch, int]]) -> list[BatchLine]:
    made: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts_at(connection, [batch.token_id for batch, _ in found]):
        made[attempt.state.token_id].append(attempt)
    return [BatchLine(batch, size, tuple(made[batch.token_id])) for batch, size in found]


def batch_line(connection: sa.Connection, run_id: str, batch_id: str) -> BatchLine | None:
    """A batch of a run, if it has it."""
    size = sa.select(sa.func.count()).where(batch_members.c.batch_id == batches.c.batch_id).scalar_subquery()
    one = sa.select(*batches.c, size).where(batches.c.run_id == run_id, batches.c.batch_id == batch_id)
    lines = _with_attempts(connection, [(Batch(*row[:-1]), row[-1]) for row in connection.execute(one)])
    return lines[0] if lines else None


def members(connection: sa.Connection, batch_id: str, *, limit: int, after: int = -1) -> list[MemberLine]:
    """At most `limit` rows of a batch, in their order, behind this one."""
    held = (
        sa.select(batch_members.c.ordinal, rows.c.row_index, rows.c.row_key, token_outcomes.c.outcome)
        .join(tokens, tokens.c.token_id == batch_members.c.token_id)
        .join(rows, rows.c.row_id == tokens.c.row_id)
        .outerjoin(token_outcomes, token_outcomes.c.token_id == tokens.c.token_id)
        .where(batch_members.c.batch_id == batch_id, batch_members.c.ordinal > after)
        .order_by(batch_members.c.ordinal)
    )
    return [MemberLine(*row) for row in connection.execute(held.limit(limit))]


# Rejections and refusals ---------------------------------------------------------------------------------------------


def rejection_lines(
    connection: sa.Connection, run_id: str, *, limit: int, after: Place | None = None
) -> list[RejectionLine]:
    """At most `limit` rejected records of a run, in their order, behind a place."""
    rejected = row_rejections.c
    told = (rejected.row_index, rejected.partition_key, rejected.line, rejected.column_name, rejected.reason)
    some = (
        sa.select(rejected.node_id, nodes.c.assessment, *told, rejected.message)
        .join(nodes, (nodes.c.run_id == rejected.run_id) & (nodes.c.node_id == rejected.node_id))
        .where(rejected.run_id == run_id, *_behind(rejected.row_index, after))
        .order_by(rejected.node_id, rejected.row_index)
    )
    return [RejectionLine(*row) for row in connection.execute(some.limit(limit))]


def refusals(connection: sa.Connection, run_id: str) -> list[Refusals]:
    """Why questions of a run have no answer, the most frequent reasons first."""
    refused = _refused(run_id).subquery()
    first = sa.select(refused).where(refused.c.place <= EXAMPLES)
    found: dict[tuple[str, str, str], list[Any]] = defaultdict(list)
    for row in connection.execute(first.order_by(refused.c.number.desc(), refused.c.query_key, refused.c.place)):
        found[row.assessment, row.query_key, row.reason].append(row)
    return [
        Refusals(*about, of_it[0].number, tuple(Example(row.row_index, row.row_key, row.detail) for row in of_it))
        for about, of_it in found.items()
    ]


def _refused(run_id: str) -> sa.Select[Any]:
    """The refused answers that no later attempt has replaced, counted and numbered by question and reason."""
    about = (nodes.c.assessment, answers.c.query_key, answers.c.reason)
    return (
        sa.select(
            *about,
            answers.c.detail,
            rows.c.row_index,
            rows.c.row_key,
            sa.func.count().over(partition_by=about).label("number"),
            sa.func.row_number().over(partition_by=about, order_by=rows.c.row_index).label("place"),
        )
        .select_from(node_states)
        .join(nodes, (nodes.c.run_id == node_states.c.run_id) & (nodes.c.node_id == node_states.c.node_id))
        .join(answers, answers.c.state_id == node_states.c.state_id)
        .join(tokens, tokens.c.token_id == answers.c.token_id)
        .join(rows, rows.c.row_id == tokens.c.row_id)
        .where(node_states.c.run_id == run_id, answers.c.status == AnswerStatus.REFUSED, ~_is_replaced())
    )


def _is_replaced() -> sa.ColumnElement[bool]:
    later, by = answers.alias("later"), node_states.alias("by")
    return sa.exists().where(
        later.c.token_id == answers.c.token_id,
        later.c.query_key == answers.c.query_key,
        by.c.state_id == later.c.state_id,
        by.c.attempt > node_states.c.attempt,
    )


# Neighbours ----------------------------------------------------------------------------------------------------------


def neighbours(connection: sa.Connection, run_id: str, node_id: str, row_index: int) -> tuple[int | None, int | None]:
    """The indexes of the rows before and after this one, where there are such."""
    index = rows.c.row_index
    of_node = (rows.c.run_id == run_id) & (rows.c.node_id == node_id)
    before = connection.scalar(sa.select(sa.func.max(index)).where(of_node, index < row_index))
    after = connection.scalar(sa.select(sa.func.min(index)).where(of_node, index > row_index))
    return before, after
