"""Which rows of a grid are wanted, and in which order.

Failed, missing, retried and reused are told by the tables, so the database chooses those rows. What values and texts
say is in payloads, which the database can't look into: rows are chosen by them one after another, as they are read.
A row is chosen when each wish is fulfilled by some cell of it; `question` holds all wishes to that question's cell.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.landscape.contrasting import Difference, beside
from elspeth_dagster.landscape.grids import Given, Grid, Line, ReadAnswers, read_answers, read_values
from elspeth_dagster.landscape.schema import answers, calls, node_states, tokens
from elspeth_dagster.landscape.words import AnswerStatus

BY_ROW, BY_KEY = "row", "key"
DIFFERING = {Difference.CHANGED, Difference.ONLY_HERE, Difference.ONLY_THERE}


@dataclass(frozen=True)
class Choice:
    """What is wished for; nothing of it: all rows, in the order of the source.

    `order` is `row`, `key`, or a question's key: by the value of its field. `least` and `most` hold the same field.
    """

    failed: bool = False
    missing: bool = False
    retried: bool = False
    reused: bool = False
    text: str = ""
    question: str | None = None
    field: str | None = None
    least: float | None = None
    most: float | None = None
    differs_from: Grid | None = None
    order: str = BY_ROW
    descending: bool = False

    @property
    def has_range(self) -> bool:
        """Whether a value has to be within bounds."""
        return self.least is not None or self.most is not None

    @property
    def has_to_read(self) -> bool:
        """Whether rows have to be read to be chosen."""
        return bool(self.text) or self.has_range or self.differs_from is not None

    def query_keys(self, grid: Grid) -> tuple[str, ...]:
        """The questions whose cells are looked at."""
        return grid.keys if self.question is None else (grid.question(self.question).key,)


# What the database tells ---------------------------------------------------------------------------------------------


def conditions(grid: Grid, choice: Choice) -> list[sa.ColumnElement[bool]]:
    """What must hold of a row's token, for the wishes that the database can fulfil."""
    keys = choice.query_keys(grid)
    decided = _decided(grid, keys)
    told = {
        "failed": tokens.c.token_id.in_(decided.where(answers.c.status == AnswerStatus.REFUSED)),
        "missing": tokens.c.token_id.not_in(_all_decided(decided, len(keys))),
        "retried": tokens.c.token_id.in_(_asked_again(grid, keys)),
        "reused": tokens.c.token_id.in_(_taken_from_elsewhere(decided)),
    }
    return [condition for wish, condition in told.items() if getattr(choice, wish)]


def _of_grid(grid: Grid) -> tuple[sa.ColumnElement[bool], ...]:
    return node_states.c.run_id == grid.run.run_id, node_states.c.node_id.in_(grid.node_ids)


def _decided(grid: Grid, keys: Sequence[str]) -> sa.Select[Any]:
    """The tokens of the answers that count to these questions, once for each."""
    later, newer = node_states.alias("later"), answers.alias("newer")
    is_overtaken = sa.exists().where(
        later.c.token_id == node_states.c.token_id,
        later.c.node_id == node_states.c.node_id,
        later.c.attempt > node_states.c.attempt,
        newer.c.state_id == later.c.state_id,
        newer.c.token_id == answers.c.token_id,
        newer.c.query_key == answers.c.query_key,
    )
    return (
        sa.select(answers.c.token_id)
        .select_from(node_states)
        .join(answers, answers.c.state_id == node_states.c.state_id)
        .where(*_of_grid(grid), answers.c.query_key.in_(keys), ~is_overtaken)
    )


def _all_decided(decided: sa.Select[Any], questions: int) -> sa.Select[Any]:
    return decided.group_by(answers.c.token_id).having(sa.func.count() >= questions)


def _asked_again(grid: Grid, keys: Sequence[str]) -> sa.Select[Any]:
    return (
        sa.select(calls.c.token_id)
        .select_from(node_states)
        .join(calls, calls.c.state_id == node_states.c.state_id)
        .where(*_of_grid(grid), calls.c.query_key.in_(keys))
        .group_by(calls.c.token_id, calls.c.query_key)
        .having(sa.func.count() > 1)
    )


def _taken_from_elsewhere(decided: sa.Select[Any]) -> sa.Select[Any]:
    made = calls.alias("made")
    return decided.join(made, (made.c.call_id == answers.c.call_id) & (made.c.state_id != answers.c.state_id))


# What has to be read -------------------------------------------------------------------------------------------------


class Chosen(NamedTuple):
    """Those of some lines that were chosen; `unread`: how many payloads could not be read, and so were not judged."""

    lines: list[Line]
    unread: int


def choose(connection: sa.Connection, grid: Grid, choice: Choice, some: Sequence[Line]) -> Chosen:
    """Those of some lines that fulfil the wishes for which they have to be read."""
    if not choice.has_to_read:
        return Chosen(list(some), 0)
    seen = _Seen(connection, grid, choice, some)
    return Chosen([line for line in some if seen.fulfils(line)], seen.unread)


class _Seen:
    """Some rows with what has to be known of them."""

    def __init__(self, connection: sa.Connection, grid: Grid, choice: Choice, some: Sequence[Line]) -> None:
        self._grid, self._choice = grid, choice
        self._keys = choice.query_keys(grid)
        self._here, self.unread = read_answers(connection, some, self._keys)
        self._rows: Mapping[str, Mapping[str, Json]] = {}
        if choice.text:
            self._rows = read_values(connection, [line.values_ref for line in some])
            self.unread += sum(line.values_ref not in self._rows for line in some)
        self._text = folded(choice.text)
        self._differing = self._those_that_differ(connection, some)

    def _those_that_differ(self, connection: sa.Connection, some: Sequence[Line]) -> set[str]:
        if self._choice.differs_from is None:
            return set()
        other = self._choice.differs_from
        mine = ReadAnswers(self._here, 0)
        found, unread = beside(connection, self._grid, other, some, self._keys, self._choice.field, mine)
        self.unread += unread
        return {token_id for (token_id, _), each in found.items() if each.kind in DIFFERING}

    def fulfils(self, line: Line) -> bool:
        """Whether a row is as it was wished."""
        choice = self._choice
        return (
            (choice.differs_from is None or line.token_id in self._differing)
            and (not choice.has_range or any(map(self._is_within, self._numbers(line))))
            and (not choice.text or any(self._text in folded(text) for text in self._texts(line)))
        )

    def _given(self, line: Line) -> Iterator[tuple[str, Given]]:
        for key in self._keys:
            if (given := self._here.get((line.token_id, key))) is not None:
                yield key, given

    def _numbers(self, line: Line) -> Iterator[float]:
        for key, given in self._given(line):
            field = self._grid.question(key).main_field(self._choice.field)
            if field and given.values and (number := number_of(given.values.get(field.name))) is not None:
                yield number

    def _is_within(self, number: float) -> bool:
        least, most = self._choice.least, self._choice.most
        return (least is None or number >= least) and (most is None or number <= most)

    def _texts(self, line: Line) -> Iterator[str]:
        yield line.row_key
        yield from texts_of(self._rows.get(line.values_ref))
        for _, given in self._given(line):
            yield from filter(None, (given.answer.reason, given.answer.detail))
            yield from texts_of(given.values)


def number_of(value: Json) -> float | None:
    """A value as a number, if it is one."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def texts_of(value: Json) -> Iterator[str]:
    """Every text in a JSON value; numbers as they are written."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from texts_of(each)
    elif value is not None:
        yield str(value)


def folded(text: str) -> str:
    """A text in the form in which it is compared: upper and lower case are alike, and so are forms of the same
    character."""
    return unicodedata.normalize("NFC", text).casefold()
