"""Explain: read the chain of one row (`explanation`).

Everything is read in one consistent snapshot, through indexes only, and every payload is held to its hash on the way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice

import sqlalchemy as sa

from elspeth_dagster.core.errors import NotOnRecordError
from elspeth_dagster.landscape import origins, payloads, rows, runs, schema
from elspeth_dagster.landscape.explaining_questions import questions_of
from elspeth_dagster.landscape.explanation import (
    Attempt,
    BatchPlace,
    Explanation,
    Fate,
    RejectedRecord,
    SourceRow,
    content,
    present,
    values_of,
)
from elspeth_dagster.landscape.finding import (
    RECORD_INDEX,
    find_rows,
    find_run,
    joined_records,
    nodes_of,
    not_on_record,
    rows_in_place,
)
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import (
    Artifact,
    Batch,
    Node,
    NodeState,
    NodeStateEnd,
    Row,
    RowRejection,
    Run,
    TokenOutcome,
)
from elspeth_dagster.landscape.words import Outcome

REJECTIONS_SHOWN = 20

CARRIED_BY: dict[Outcome, set[str]] = {
    Outcome.ASSESSED: {"results", "answers"},
    Outcome.PARTIAL: {"results", "answers", "failures"},
    Outcome.FAILED: {"answers", "failures"},
}


def explain(
    landscape: Landscape, run_id: str, row_key: str, question: str | None = None, *, assessment: str | None = None
) -> Explanation:
    """The chain of the row with this key in a run; `#3` is the record with index 3, whatever its key.

    `run_id` may be the first characters of it, or `latest`. `question` leaves out the others; `assessment` is needed
    where several of a run have the key. Where no row has it, the rejected records that hold it in their text.
    Raises NotOnRecordError, and LandscapeError when a payload's bytes are not those that its name promises.
    """
    with landscape.read() as connection:
        run = find_run(connection, run_id, assessment)
        if found := find_rows(connection, run.run_id, row_key, assessment):
            return _of_row(connection, run, *_only(found, run, row_key), question)
        if rejected := list(islice(_rejections(connection, run.run_id, row_key, assessment), REJECTIONS_SHOWN)):
            return _of_rejections(connection, run, rejected)
        raise not_on_record(connection, run.run_id, row_key, assessment)


def explain_record(
    landscape: Landscape, run_id: str, assessment: str, row_index: int, question: str | None = None
) -> Explanation:
    """The same of the record with this index in the assessment's source, whatever its key; raises the same."""
    with landscape.read() as connection:
        run = find_run(connection, run_id, assessment)
        if found := rows_in_place(connection, run.run_id, nodes_of(connection, run.run_id, assessment), row_index):
            return _of_row(connection, run, *found[0], question)
        if rejected := list(_rejections(connection, run.run_id, f"#{row_index}", assessment)):
            return _of_rejections(connection, run, rejected)
        raise NotOnRecordError(f"run {run.run_id} has no record {row_index} of {assessment}")


def _only(found: Sequence[tuple[Node, Row, str]], run: Run, row_key: str) -> tuple[Node, Row, str]:
    if len(found) > 1:
        named = ", ".join(node.assessment for node, *_ in found)
        raise NotOnRecordError(f"several assessments of run {run.run_id} have a row {row_key!r}: {named}; name one")
    return found[0]


# A rejected record ---------------------------------------------------------------------------------------------------


def _rejections(
    connection: sa.Connection, run_id: str, row_key: str, assessment: str | None
) -> Iterator[tuple[Node, RejectedRecord]]:
    """The rejections of a run at this `#index`, or with this key as a word of the record's raw text."""
    nodes = nodes_of(connection, run_id, assessment)
    index = RECORD_INDEX.fullmatch(row_key)
    word = re.compile(rf"(?<!\w){re.escape(row_key)}(?!\w)")
    for page in _pages(_rejected(connection, run_id, list(nodes), index and int(index.group(1)))):
        raws = payloads.read_or_erased(connection, [rejection.raw_ref for rejection in page])
        for rejection in page:
            raw = present(raws, rejection.raw_ref)
            if index or (row_key.strip() and word.search(raw.text)):
                yield nodes[rejection.node_id], RejectedRecord(rejection, raw)


def _rejected(connection: sa.Connection, run_id: str, node_ids: list[str], index: int | None) -> Iterator[RowRejection]:
    rejections = schema.row_rejections
    there = rejections.select().where(rejections.c.run_id == run_id, rejections.c.node_id.in_(node_ids))
    if index is not None:
        there = there.where(rejections.c.row_index == index)
    for row in connection.execute(there.order_by(rejections.c.node_id, rejections.c.row_index)):
        yield RowRejection(*row)


def _pages(found: Iterator[RowRejection]) -> Iterator[list[RowRejection]]:
    while page := list(islice(found, payloads.AT_ONCE)):
        yield page


def _of_rejections(connection: sa.Connection, run: Run, rejected: Sequence[tuple[Node, RejectedRecord]]) -> Explanation:
    node, _ = rejected[0]
    return Explanation(
        run=run,
        end=runs.end_of(connection, run.run_id),
        node=node,
        row=None,
        rejections=tuple(record for _, record in rejected),
        artifacts=_artifacts(
            connection, node, {"rejections"}, {record.rejection.partition_key for _, record in rejected}
        ),
    )


# A row ---------------------------------------------------------------------------------------------------------------


def _of_row(
    connection: sa.Connection, run: Run, node: Node, row: Row, token_id: str, question: str | None
) -> Explanation:
    batches = _batches(connection, token_id)
    attempts = attempts_at(connection, [place.batch.token_id for place in batches])
    fate = _outcome(connection, token_id)
    carriers = set() if fate is None else CARRIED_BY.get(fate.outcome.outcome, set())
    bodies = payloads.read_or_erased(connection, filter(None, (row.values_ref, row.raw_ref)))
    values, erased = values_of(bodies, row.values_ref)
    return Explanation(
        run=run,
        end=runs.end_of(connection, run.run_id),
        node=node,
        row=SourceRow(
            row,
            token_id,
            content(bodies, row.raw_ref),
            values,
            origins.file_of(connection, run.run_id, row.node_id, row.row_index),
            erased,
        ),
        batches=batches,
        attempts=attempts,
        questions=questions_of(connection, node, token_id, attempts, question),
        outcome=fate,
        artifacts=_artifacts(connection, node, carriers, {row.partition_key}),
    )


def _batches(connection: sa.Connection, token_id: str) -> tuple[BatchPlace, ...]:
    members = schema.batch_members.alias()
    size = sa.select(sa.func.count()).where(members.c.batch_id == schema.batches.c.batch_id).scalar_subquery()
    held = (
        sa.select(*schema.batches.c, schema.batch_members.c.ordinal.label("place"), size.label("size"))
        .join(schema.batch_members, schema.batch_members.c.batch_id == schema.batches.c.batch_id)
        .where(schema.batch_members.c.token_id == token_id)
        .order_by(schema.batches.c.ordinal)
    )
    found = connection.execute(held)
    return tuple(BatchPlace(joined_records(row, Batch)[0], row.place, row.size) for row in found)


def attempts_at(connection: sa.Connection, batch_tokens: Sequence[str]) -> tuple[Attempt, ...]:
    """The attempts at these batches' tokens, in their order."""
    states, ends = schema.node_states, schema.node_state_ends
    made = (
        sa.select(*states.c, *ends.c)
        .outerjoin(ends, ends.c.state_id == states.c.state_id)
        .where(states.c.token_id.in_(batch_tokens))
        .order_by(states.c.node_id, states.c.attempt)
    )
    return tuple(Attempt(*joined_records(row, NodeState, NodeStateEnd)) for row in connection.execute(made))


def _outcome(connection: sa.Connection, token_id: str) -> Fate | None:
    outcomes, states = schema.token_outcomes, schema.node_states
    decided = (
        sa.select(*outcomes.c, *states.c)
        .outerjoin(states, states.c.state_id == outcomes.c.state_id)
        .where(outcomes.c.token_id == token_id)
    )
    row = connection.execute(decided).first()
    return None if row is None else Fate(*joined_records(row, TokenOutcome, NodeState))


def _artifacts(
    connection: sa.Connection, node: Node, carriers: set[str], partitions: set[str | None]
) -> tuple[Artifact, ...]:
    """The tables of these names and partitions that were written from the slice: an artifact's state is one of its."""
    artifacts, states = schema.artifacts, schema.node_states
    written = (
        sa.select(*artifacts.c)
        .join(states, states.c.state_id == artifacts.c.state_id)
        .where(states.c.token_id == rows.slice_token(connection, node.run_id, node.node_id))
        .order_by(artifacts.c.written_at, artifacts.c.asset_key)
    )
    found = [Artifact(*row) for row in connection.execute(written)]
    of_partitions = (artifact for artifact in found if artifact.partition_key in {None, *partitions})
    return tuple(artifact for artifact in of_partitions if artifact.asset_key.rpartition("/")[2] in carriers)
