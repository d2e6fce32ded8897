"""Browsing runs: a page of them at a time, chosen, sorted and cut in the database, each with its counts.

A page goes on behind the last run of the one before it, by what it is sorted by and its id, so that it costs the same
wherever it is. The counts of a run are derived from the record each time; those of a run that is over may be
remembered.

A cost is the sum over the calls whose price is known, None where there is none; calls that were answered and have no
known price are counted apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa

from elspeth_dagster.landscape.costs import UNPRICED, how_many, whole
from elspeth_dagster.landscape.records import Run, RunEnd
from elspeth_dagster.landscape.remembering import Memory
from elspeth_dagster.landscape.schema import (
    calls,
    node_states,
    nodes,
    replies,
    row_rejections,
    rows,
    run_ends,
    runs,
    token_outcomes,
    tokens,
)
from elspeth_dagster.landscape.words import Mode, Outcome, RunStatus, TokenKind

COUNTS = "counts"
SPENT = ("calls", "unpriced_calls", "cost_nanousd")
FATES = (Outcome.ASSESSED, Outcome.PARTIAL, Outcome.FAILED, Outcome.INTERRUPTED)


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


class Going(StrEnum):
    """What a run without an end is: it goes on, or nobody has ended it yet."""

    OPEN = "open"


class Order(StrEnum):
    """What runs are sorted by."""

    NEWEST = "newest"
    OLDEST = "oldest"
    DEAREST = "dearest"
    MOST_ROWS = "most_rows"


class Wanted(NamedTuple):
    """Which runs: of this assessment, partition, status, and of a cost within these bounds in nano-US-dollars."""

    assessment: str | None = None
    partition: str | None = None
    status: RunStatus | Going | None = None
    least_nanousd: int | None = None
    most_nanousd: int | None = None


class After(NamedTuple):
    """The run behind which a page goes on: what it is sorted by, as a number, and its id."""

    value: int
    run_id: str


class Page(NamedTuple):
    """Some runs, and where the next page goes on, if there is one."""

    lines: list[RunLine]
    next: After | None


def newest_runs(connection: sa.Connection, *, assessment: str | None, limit: int) -> list[RunLine]:
    """The newest runs (of an assessment), newest first."""
    return page_of_runs(connection, Wanted(assessment), limit=limit).lines


def page_of_runs(
    connection: sa.Connection,
    wanted: Wanted = Wanted(),  # noqa: B008  # it is immutable
    order: Order = Order.NEWEST,
    *,
    limit: int,
    after: After | None = None,
    memory: Memory | None = None,
) -> Page:
    """At most `limit` of the runs that are wanted, in this order, behind `after`."""
    by = _sorted_by(order).label("sorted_by")
    chosen = sa.select(runs.c.run_id, by).outerjoin(run_ends, run_ends.c.run_id == runs.c.run_id)
    chosen = chosen.where(*_wanted(connection.dialect, wanted))
    found = connection.execute(_cut(chosen.subquery(), order, after).limit(limit + 1)).all()
    lines = _lines(connection, [row.run_id for row in found[:limit]], memory or Memory())
    return Page(lines, After(int(found[limit - 1].sorted_by), found[limit - 1].run_id) if len(found) > limit else None)


def _sorted_by(order: Order) -> sa.ColumnElement[Any]:
    if order is Order.DEAREST:
        return sa.func.coalesce(_cost_of_run(), 0)
    if order is Order.MOST_ROWS:
        return sa.select(sa.func.count()).where(rows.c.run_id == runs.c.run_id).scalar_subquery()
    return sa.type_coerce(runs.c.started_at, sa.BigInteger)


def _cost_of_run() -> sa.ScalarSelect[Any]:
    return (
        sa.select(sa.func.sum(replies.c.cost_nanousd))
        .select_from(node_states)
        .join(calls, calls.c.state_id == node_states.c.state_id)
        .join(replies, replies.c.call_id == calls.c.call_id)
        .where(node_states.c.run_id == runs.c.run_id)
        .scalar_subquery()
    )


def _wanted(dialect: sa.Dialect, wanted: Wanted) -> Iterator[sa.ColumnElement[bool]]:
    if wanted.assessment is not None:
        yield _holds(dialect, runs.c.assessments, wanted.assessment)
    if wanted.partition is not None:
        yield _holds(dialect, runs.c.partition_keys, wanted.partition)
    if wanted.status is not None:
        status = run_ends.c.status
        yield status.is_(None) if wanted.status is Going.OPEN else status == wanted.status
    if wanted.least_nanousd is not None:
        yield sa.func.coalesce(_cost_of_run(), 0) >= wanted.least_nanousd
    if wanted.most_nanousd is not None:
        yield sa.func.coalesce(_cost_of_run(), 0) <= wanted.most_nanousd


def _holds(dialect: sa.Dialect, names: sa.Column[str], name: str) -> sa.ColumnElement[bool]:
    """Whether a JSON list of names holds this one: a quote within a name is written with a backslash before it."""
    place = sa.func.instr if dialect.name == "sqlite" else sa.func.strpos
    return place(names, sa.literal(json.dumps(name), sa.Text)) > 0


def _cut(chosen: sa.Subquery, order: Order, after: After | None) -> sa.Select[Any]:
    by, run_id = chosen.c.sorted_by, chosen.c.run_id
    rising = order is Order.OLDEST
    select = sa.select(run_id, by).order_by(*((by, run_id) if rising else (by.desc(), run_id.desc())))
    if after is None:
        return select
    place, there = sa.tuple_(by, run_id), sa.tuple_(sa.literal(after.value, sa.BigInteger), sa.literal(after.run_id))
    return select.where(place > there if rising else place < there)


Spent = Mapping[str, Mapping[str, int | None]]
"""What runs spent, by run: the total of their costs."""


def _lines(
    connection: sa.Connection,
    run_ids: Sequence[str],
    memory: Memory,
    spent: Spent = MappingProxyType({}),
) -> list[RunLine]:
    begun = sa.select(*runs.c, *run_ends.c).outerjoin(run_ends, run_ends.c.run_id == runs.c.run_id)
    width = len(Run._fields)
    found = {
        row[0]: (Run(*row[:width]), RunEnd(*row[width:]) if row[width] else None)
        for row in connection.execute(begun.where(runs.c.run_id.in_(run_ids)))
    }
    known = {run_id: memory.recall(COUNTS, run_id) for run_id in run_ids}
    counted = {**known, **_counts(connection, [run_id for run_id, counts in known.items() if counts is None], spent)}
    for run_id, (_, end) in found.items():
        if end is not None:
            memory.keep(COUNTS, run_id, counted[run_id])
    return [_run_line(*found[run_id], counted[run_id]) for run_id in run_ids]


def line_of_run(
    connection: sa.Connection, run_id: str, memory: Memory | None = None, spent: Mapping[str, int | None] | None = None
) -> RunLine:
    """A run with its counts; `spent` has those of its calls, where somebody has added them up already."""
    [line] = _lines(connection, [run_id], memory or Memory(), {} if spent is None else {run_id: spent})
    return line


def names_of_assessments(connection: sa.Connection) -> list[str]:
    """The assessments that have a run on record."""
    return sorted(connection.scalars(sa.select(nodes.c.assessment).distinct()))


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


def _counts(connection: sa.Connection, run_ids: Sequence[str], spent: Spent) -> dict[str, dict[str, int | None]]:
    """The numbers of a RunLine, by run."""
    if not run_ids:
        return {}
    none: dict[str, int | None] = dict.fromkeys(("rows", "rejected", *FATES, "calls", "unpriced_calls"), 0)
    counted: dict[str, dict[str, int | None]] = {run_id: {**none, "cost_nanousd": None} for run_id in run_ids}
    for name, table in (("rows", rows), ("rejected", row_rejections)):
        for run_id, number in connection.execute(_per_run(table, run_ids)):
            counted[run_id][name] = number
    for run_id, outcome, number in connection.execute(_fates_per_run(run_ids)):
        counted[run_id][Outcome(outcome).value] = number
    for run_id in set(run_ids) & set(spent):
        counted[run_id].update({name: spent[run_id][name] for name in SPENT})
    for run_id, number, unpriced, cost in connection.execute(_spent_per_run(sorted(set(run_ids) - set(spent)))):
        counted[run_id].update(calls=number, unpriced_calls=int(unpriced), cost_nanousd=whole(cost))
    return counted


def _per_run(table: sa.Table, run_ids: Sequence[str]) -> sa.Select[Any]:
    return sa.select(table.c.run_id, sa.func.count()).where(table.c.run_id.in_(run_ids)).group_by(table.c.run_id)


def _fates_per_run(run_ids: Sequence[str]) -> sa.Select[Any]:
    return (
        sa.select(tokens.c.run_id, token_outcomes.c.outcome, sa.func.count())
        .join(token_outcomes, token_outcomes.c.token_id == tokens.c.token_id)
        .where(tokens.c.run_id.in_(run_ids), tokens.c.kind == TokenKind.ROW, token_outcomes.c.outcome.in_(FATES))
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
