"""Whose records these are: all that are about one row of a run, and no other row; and what its answers took from runs
before.

    run ─ nodes ─ edges ─ row ─ token ─ batch ─ membership ─ states ─ ends ─ calls ─ replies ─ answers ─ outcome

An end that says something in words is left out, since these may speak of other rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from elspeth_dagster.landscape import rows as rows_of
from elspeth_dagster.landscape import schema
from elspeth_dagster.landscape.explaining import CARRIED_BY
from elspeth_dagster.landscape.record_bytes import Record
from elspeth_dagster.landscape.records import Node, Row
from elspeth_dagster.landscape.sealed_records import select
from elspeth_dagster.landscape.words import Outcome


@dataclass(frozen=True)
class Story:
    """The names of what a row went through."""

    row: Row
    token_id: str
    nodes: list[str]
    batches: list[str]
    tokens: list[str]
    states: list[str]


def of_row(connection: sa.Connection, node: Node, row: Row, token_id: str) -> Iterator[Record]:
    """The records about a row, in the order of the tree."""
    story = _story(connection, node, row, token_id)
    for table, which in _about(story).items():
        yield from select(connection, schema.metadata.tables[table], *which)
        if table == "token_outcomes":
            yield from _artifacts(connection, story)


def _story(connection: sa.Connection, node: Node, row: Row, token_id: str) -> Story:
    nodes, members, batches, states = schema.nodes, schema.batch_members, schema.batches, schema.node_states
    of_it = sa.select(nodes.c.node_id).where(nodes.c.run_id == node.run_id, nodes.c.assessment == node.assessment)
    held = sa.select(members.c.batch_id).where(members.c.token_id == token_id)
    found = list(connection.scalars(held))
    batch_tokens = connection.scalars(sa.select(batches.c.token_id).where(batches.c.batch_id.in_(found)))
    slice_token = rows_of.slice_token(connection, node.run_id, node.node_id)
    tokens = [token_id, *batch_tokens, *([slice_token] if slice_token else [])]
    of_tokens = sa.select(states.c.state_id).where(states.c.token_id.in_(tokens))
    return Story(row, token_id, list(connection.scalars(of_it)), found, tokens, list(connection.scalars(of_tokens)))


def _about(story: Story) -> dict[str, Sequence[sa.ColumnElement[bool]]]:
    """Which records of a table are about the row, table by table as the tree has them."""
    s, run_id, token_id = schema, story.row.run_id, story.token_id
    own_calls = sa.select(s.calls.c.call_id).where(*_of_states(s.calls, story), s.calls.c.token_id == token_id)
    return {
        "runs": [s.runs.c.run_id == run_id],
        "nodes": [s.nodes.c.run_id == run_id, s.nodes.c.node_id.in_(story.nodes)],
        "edges": [
            s.edges.c.run_id == run_id,
            s.edges.c.from_node.in_(story.nodes),
            s.edges.c.to_node.in_(story.nodes),
        ],
        "rows": [s.rows.c.row_id == story.row.row_id],
        "tokens": [s.tokens.c.token_id.in_(story.tokens)],
        "token_parents": [
            s.token_parents.c.token_id.in_(story.tokens),
            s.token_parents.c.parent_token_id == token_id,
        ],
        "batches": [s.batches.c.batch_id.in_(story.batches)],
        "batch_members": [s.batch_members.c.token_id == token_id],
        "node_states": [s.node_states.c.state_id.in_(story.states)],
        "node_state_ends": [*_of_states(s.node_state_ends, story), s.node_state_ends.c.error.is_(None)],
        "calls": [*_of_states(s.calls, story), s.calls.c.token_id == token_id],
        "replies": [s.replies.c.call_id.in_(own_calls)],
        "answers": [*_of_states(s.answers, story), s.answers.c.token_id == token_id],
        "token_outcomes": [s.token_outcomes.c.token_id.in_(story.tokens)],
        "run_ends": [s.run_ends.c.run_id == run_id, s.run_ends.c.detail.is_(None)],
    }


def _of_states(table: sa.Table, story: Story) -> list[sa.ColumnElement[bool]]:
    return [table.c.state_id.in_(story.states)]


def _artifacts(connection: sa.Connection, story: Story) -> Iterator[Record]:
    """The tables that carry the row."""
    outcomes = schema.token_outcomes
    decided = sa.select(outcomes.c.outcome).where(outcomes.c.token_id == story.token_id)
    outcome: Outcome | None = connection.scalar(decided)
    carriers = CARRIED_BY.get(outcome, set()) if outcome else set()
    for record in select(connection, schema.artifacts, *_of_states(schema.artifacts, story)):
        columns = record.columns()
        is_of_its_partition = columns["partition_key"] in (None, story.row.partition_key)
        if is_of_its_partition and columns["asset_key"].rpartition("/")[2] in carriers:
            yield record


def taken_from(connection: sa.Connection, run_id: str, token_id: str) -> dict[str, list[str]]:
    """The calls of other runs that a row's answers come from, by run, these in order."""
    answers, calls = schema.answers, schema.calls
    taken = (
        sa.select(calls.c.run_id, calls.c.call_id)
        .join(answers, answers.c.call_id == calls.c.call_id)
        .where(answers.c.token_id == token_id, answers.c.run_id == run_id, calls.c.run_id != run_id)
        .distinct()
    )
    found: dict[str, list[str]] = defaultdict(list)
    for other, call_id in connection.execute(taken):
        found[other].append(call_id)
    return {other: found[other] for other in sorted(found, key=str.encode)}


def of_calls(connection: sa.Connection, run_id: str, which: sa.ColumnElement[bool]) -> Iterator[Record]:
    """The records of a run that tell of some of its calls, in the order of the tree.

    `which` says of `calls` which ones.
    """
    s = schema
    of_them = (which, s.calls.c.run_id == run_id)
    states = sa.select(s.calls.c.state_id).where(*of_them)
    tokens = sa.select(s.calls.c.token_id).where(*of_them)
    rows = sa.select(s.tokens.c.row_id).where(s.tokens.c.token_id.in_(tokens))
    of_states = sa.select(s.node_states.c.node_id).where(s.node_states.c.state_id.in_(states))
    of_rows = sa.select(s.rows.c.node_id).where(s.rows.c.row_id.in_(rows))
    yield from select(connection, s.runs, s.runs.c.run_id == run_id)
    here = s.nodes.c.run_id == run_id
    yield from select(connection, s.nodes, here, s.nodes.c.node_id.in_(of_states.union(of_rows)))
    yield from select(connection, s.rows, s.rows.c.row_id.in_(rows))
    yield from select(connection, s.tokens, s.tokens.c.token_id.in_(tokens))
    yield from select(connection, s.node_states, s.node_states.c.state_id.in_(states))
    yield from select(connection, s.calls, *of_them)
    yield from select(connection, s.replies, s.replies.c.call_id.in_(sa.select(s.calls.c.call_id).where(*of_them)))
