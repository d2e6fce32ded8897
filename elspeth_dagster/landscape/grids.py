"""The grid of a run: a line per row, a cell per question, and what became of each.

    run, assessment ─► grid: its questions ─► lines, in some order ─► cells: status, values, tries, reuse

An answer that counts is the one that the tables of the run have: that of the last attempt (`answers.latest`). A cell
without one is in progress while the run goes on, and missing when it is over. Nothing is derived ahead of time: each
cell is read from the record when it is looked at, and a value whose bytes are gone says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import sqlalchemy as sa

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.errors import ErasedError, LandscapeError, NotOnRecordError
from elspeth_dagster.landscape import answers, payloads, planned, runs
from elspeth_dagster.landscape.answers import GivenAnswer, Taken
from elspeth_dagster.landscape.finding import find_run
from elspeth_dagster.landscape.planned import PlannedQuestion
from elspeth_dagster.landscape.records import Answer, Node, Run
from elspeth_dagster.landscape.schema import (
    batch_members,
    batches,
    calls,
    node_states,
    nodes,
    rows,
    token_outcomes,
    tokens,
)
from elspeth_dagster.landscape.words import AnswerStatus, Outcome
from elspeth_dagster.stages.answering import Refusal

BYTES_AT_ONCE = 64 << 20
REPLIED = frozenset(Refusal) - {
    Refusal.BLANK_INPUT,
    Refusal.ROW_NOT_ASKED,
    Refusal.TEMPLATE,
    Refusal.UNKNOWN_CALL,
    Refusal.NOT_ON_RECORD,
    Refusal.ERASED,
}
"""The reasons that are about what the model replied; with any other there was no reply to read."""
Values = Mapping[str, Json]


class CellStatus(StrEnum):
    """What became of a question about a row.

    refused: a reply came, and was no answer. failed: no reply could be had, or the question could not be put.
    missing: the run is over, and nothing was decided.
    """

    ACCEPTED = "accepted"
    REFUSED = "refused"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    MISSING = "missing"


@dataclass(frozen=True)
class Grid:
    """What is looked at: a run's rows at a node, and the questions of its assessment."""

    run: Run
    is_over: bool
    assessment: str
    node_id: str
    node_ids: tuple[str, ...]
    questions: tuple[PlannedQuestion, ...]
    rows: int

    @property
    def keys(self) -> tuple[str, ...]:
        """The questions' keys, in order."""
        return tuple(question.key for question in self.questions)

    def question(self, key: str) -> PlannedQuestion:
        """The question with this key. Raises NotOnRecordError."""
        for question in self.questions:
            if question.key == key:
                return question
        raise NotOnRecordError(f"{self.assessment} has no question {key!r}; it has {', '.join(self.keys)}")


class Line(NamedTuple):
    """A row of the grid, before its cells."""

    row_index: int
    row_key: str
    token_id: str
    values_ref: str
    line: int | None
    outcome: Outcome | None


@dataclass(frozen=True)
class Cell:
    """A question about a row.

    `values` is None where there is no accepted answer, and where its bytes can't be read: `gone` says why then.
    `calls` are those that this run made, `retries` those after the first; a reused answer was taken from the reply to
    a call of an earlier attempt or run.
    """

    question: str
    status: CellStatus
    answer: Answer | None
    values: Values | None
    gone: str | None
    calls: int
    is_reused: bool

    @property
    def retries(self) -> int:
        """How many calls came after the first one."""
        return max(0, self.calls - 1)

    def value(self, field: str | None) -> Json:
        """The value of one field; None where there is none."""
        return None if self.values is None or field is None else self.values.get(field)


class FilledLine(NamedTuple):
    """A line with its cells by question, in the order of the questions."""

    line: Line
    cells: Mapping[str, Cell]


# The grid itself -----------------------------------------------------------------------------------------------------


def open_grid(connection: sa.Connection, run_name: str, assessment: str | None = None) -> Grid:
    """The grid of a run (its id, the first characters of it, or `latest`) for one of its assessments.

    Raises NotOnRecordError, also when the run has several assessments and none is named.
    """
    run = find_run(connection, run_name, assessment)
    known = _nodes(connection, run.run_id)
    name = assessment or _only_one(run, sorted({node.assessment for node in known}))
    of_it = [node for node in known if node.assessment == name]
    if not of_it:
        has = ", ".join(sorted({node.assessment for node in known})) or "none"
        raise NotOnRecordError(f"run {run.run_id} has no assessment {name!r}; it has {has}")
    node_id = _admitting(connection, of_it)
    return Grid(
        run=run,
        is_over=runs.end_of(connection, run.run_id) is not None,
        assessment=name,
        node_id=node_id,
        node_ids=tuple(node.node_id for node in of_it),
        questions=planned.questions(payloads.read_json(connection, of_it[0].config_ref)),
        rows=_count(connection, rows.c.run_id == run.run_id, rows.c.node_id == node_id),
    )


def _nodes(connection: sa.Connection, run_id: str) -> list[Node]:
    of_run = nodes.select().where(nodes.c.run_id == run_id).order_by(nodes.c.node_id)
    return [Node(*row) for row in connection.execute(of_run)]


def _only_one(run: Run, assessments: Sequence[str]) -> str:
    if len(assessments) != 1:
        has = ", ".join(assessments) or "none"
        raise NotOnRecordError(f"run {run.run_id} is not of one assessment; name one of them: {has}")
    return assessments[0]


def _admitting(connection: sa.Connection, known: Sequence[Node]) -> str:
    """The node whose rows they are: the one that reads the source, or that draws a sample of another run's."""
    for node in known:
        if connection.scalar(
            sa.select(sa.exists().where(rows.c.run_id == node.run_id, rows.c.node_id == node.node_id))
        ):
            return node.node_id
    return known[0].node_id


def _count(connection: sa.Connection, *which: sa.ColumnElement[bool]) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(rows).where(*which)) or 0


def lines(grid: Grid) -> sa.Select[Any]:
    """The lines of a grid, in no order: the columns of a Line."""
    return (
        sa.select(
            rows.c.row_index,
            rows.c.row_key,
            tokens.c.token_id,
            rows.c.values_ref,
            rows.c.line,
            token_outcomes.c.outcome,
        )
        .join(tokens, tokens.c.row_id == rows.c.row_id)
        .outerjoin(token_outcomes, token_outcomes.c.token_id == tokens.c.token_id)
        .where(rows.c.run_id == grid.run.run_id, rows.c.node_id == grid.node_id)
    )


def lines_of(connection: sa.Connection, grid: Grid, row_keys: Iterable[str]) -> dict[str, Line]:
    """The lines with these keys, by key."""
    found = connection.execute(lines(grid).where(rows.c.row_key.in_(list(row_keys))))
    return {line.row_key: line for line in (Line(*row) for row in found)}


# Its cells -----------------------------------------------------------------------------------------------------------


class Given(NamedTuple):
    """An answer, and its values where it is accepted and they can be read."""

    answer: Answer
    values: Values | None

    @property
    def is_accepted(self) -> bool:
        """Whether the question has an answer."""
        return self.answer.status is AnswerStatus.ACCEPTED


class ReadAnswers(NamedTuple):
    """The answers that count by token and question; `unread` tells how many have values that can't be read."""

    given: Mapping[tuple[str, str], Given]
    unread: int


def read_answers(connection: sa.Connection, some: Sequence[Line], query_keys: Sequence[str]) -> ReadAnswers:
    """The answers that count to these questions about these rows, with their values: for going through many rows."""
    newest = answers.latest(connection, [line.token_id for line in some], query_keys)
    values = read_values(connection, (answer.values_ref for answer in newest.values()))
    given = {place: Given(answer, values.get(answer.values_ref or "")) for place, answer in newest.items()}
    return ReadAnswers(given, sum(bool(one.answer.values_ref) and one.values is None for one in given.values()))


def read_values(connection: sa.Connection, refs: Iterable[str | None]) -> dict[str, Values]:
    """The JSON objects of these payloads by name, those that can be read."""
    wanted = {ref for ref in refs if ref is not None}
    found = payloads.read_those_that_fit(connection, wanted, BYTES_AT_ONCE)
    return {ref: json.loads(body) for ref, body in found.items()}


def fill(connection: sa.Connection, grid: Grid, some: Sequence[Line]) -> list[FilledLine]:
    """These lines with all their cells: for a page of them."""
    cells = _Cells(connection, grid, [line.token_id for line in some])
    return [FilledLine(line, {key: cells.of(line.token_id, key) for key in grid.keys}) for line in some]


class _Cells:
    """What is on record of some rows, of all of them at once."""

    def __init__(self, connection: sa.Connection, grid: Grid, token_ids: Sequence[str]) -> None:
        self._connection = connection
        self._grid = grid
        self._newest = answers.latest(connection, token_ids)
        self._values = read_values(connection, (answer.values_ref for answer in self._newest.values()))
        self._took = answers.taken(connection, self._newest.values())
        self._made = _calls_made(connection, grid, token_ids)

    def of(self, token_id: str, key: str) -> Cell:
        """A row's cell."""
        answer = self._newest.get((token_id, key))
        values = self._values.get(answer.values_ref or "") if answer else None
        return Cell(
            question=key,
            status=status_of(self._grid, answer),
            answer=answer,
            values=values,
            gone=_why_gone(self._connection, answer) if answer and values is None else None,
            calls=self._made.get((token_id, key), 0),
            is_reused=answer is not None and self._is_reused(answer),
        )

    def _is_reused(self, answer: Answer) -> bool:
        return GivenAnswer(answer, {}, self._took.get(answer.call_id or "", Taken())).is_reused


def status_of(grid: Grid, answer: Answer | None) -> CellStatus:
    """What became of a question, by the answer that counts."""
    if answer is None:
        return CellStatus.MISSING if grid.is_over else CellStatus.IN_PROGRESS
    if answer.reason is None:
        return CellStatus.ACCEPTED
    return CellStatus.REFUSED if answer.reason in REPLIED else CellStatus.FAILED


def _why_gone(connection: sa.Connection, answer: Answer) -> str | None:
    if answer.values_ref is None:
        return None
    try:
        payloads.read(connection, answer.values_ref)
    except ErasedError:
        return "erased"
    except LandscapeError:
        return "damaged"
    return "too large to show here"


def _calls_made(connection: sa.Connection, grid: Grid, token_ids: Sequence[str]) -> dict[tuple[str, str], int]:
    """How many calls this run made for each row and question, in all attempts."""
    made = (
        sa.select(calls.c.token_id, calls.c.query_key, sa.func.count())
        .select_from(batch_members)
        .join(batches, batches.c.batch_id == batch_members.c.batch_id)
        .join(node_states, node_states.c.token_id == batches.c.token_id)
        .join(calls, (calls.c.state_id == node_states.c.state_id) & (calls.c.token_id == batch_members.c.token_id))
        .where(batch_members.c.token_id.in_(token_ids), node_states.c.node_id.in_(grid.node_ids))
        .group_by(calls.c.token_id, calls.c.query_key)
    )
    return {(token_id, key): number for token_id, key, number in connection.execute(made)}
