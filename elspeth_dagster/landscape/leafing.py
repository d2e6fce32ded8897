"""Pages of a grid: the chosen rows in order, forward and back, each page in a bounded time.

    order ─► lines after a place, some hundred at a time ─► chosen by reading ─► a page, or as far as the time went

A place is the index of a row in its source, so that a page has an address that stays. In the order of rows or keys the
database goes on from there. To order by values all candidates are read first, as many as the time allows: `ValueOrder`
says how far that went. Whoever goes through all pages, by the place that each gives, meets every chosen row once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.errors import NotOnRecordError
from elspeth_dagster.landscape.choosing import BY_KEY, BY_ROW, Choice, choose, conditions, number_of
from elspeth_dagster.landscape.grids import FilledLine, Grid, Line, fill, lines, read_answers
from elspeth_dagster.landscape.schema import rows

CELLS_AT_ONCE = 1000
PAGE = 50
Read = Callable[[], AbstractContextManager[sa.Connection]]


class Deadline:
    """The instant at which reading stops: so many seconds from now, or never."""

    def __init__(self, seconds: float | None) -> None:
        self._until = None if seconds is None else time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether it has passed."""
        return self._until is not None and time.monotonic() >= self._until


@dataclass(frozen=True)
class Place:
    """Where a page begins: after a row, or ending before one (`is_before`); without a row at the start, or the end."""

    row_index: int | None = None
    is_before: bool = False


@dataclass(frozen=True)
class Page:
    """Chosen rows in order, and how they were found.

    `before` and `after` are the places of the neighbouring pages, None where there is none. `looked_until` rows of
    `of_rows` come up to the last one that was looked at; `is_cut`: the time was over before the page was full.
    `unread` payloads could not be read, so nothing was found in them.
    """

    lines: tuple[Line, ...]
    before: Place | None
    after: Place | None
    looked_until: int
    of_rows: int
    is_cut: bool
    unread: int


# Orders --------------------------------------------------------------------------------------------------------------


class Order(Protocol):
    """In which order rows come, and how they are read in it."""

    def following(self, connection: sa.Connection, place: Place, limit: int) -> list[Line]:
        """The next candidates from a place on, away from it."""

    def count(self, connection: sa.Connection, row_index: int | None) -> int:
        """How many rows come up to this one; without one: how many there are."""


class RecordOrder:
    """The order of the source, or of the keys: as the database sorts them."""

    def __init__(self, grid: Grid, choice: Choice) -> None:
        self._grid = grid
        self._descending = choice.descending
        self._columns = [rows.c.row_key, rows.c.row_index] if choice.order == BY_KEY else [rows.c.row_index]
        self._candidates = lines(grid).where(*conditions(grid, choice))

    def following(self, connection: sa.Connection, place: Place, limit: int) -> list[Line]:
        """The next candidates from a place on, away from it."""
        down = self._descending != place.is_before
        ordered = self._candidates.order_by(*(column.desc() if down else column for column in self._columns))
        if place.row_index is not None:
            ordered = ordered.where(self._beyond(connection, place.row_index, down=down))
        return [Line(*row) for row in connection.execute(ordered.limit(limit))]

    def _beyond(self, connection: sa.Connection, row_index: int, *, down: bool) -> sa.ColumnElement[bool]:
        there = self._values_at(connection, row_index)
        columns = sa.tuple_(*self._columns)
        beyond: sa.ColumnElement[bool] = columns < there if down else columns > there
        return beyond

    def _values_at(self, connection: sa.Connection, row_index: int) -> Any:
        at = sa.select(*self._columns).where(*_of_grid(self._grid), rows.c.row_index == row_index)
        if (found := connection.execute(at).first()) is None:
            raise NotOnRecordError(f"run {self._grid.run.run_id} has no row with the index {row_index}")
        return sa.tuple_(*(sa.literal(value, column.type) for value, column in zip(found, self._columns, strict=True)))

    def count(self, connection: sa.Connection, row_index: int | None) -> int:
        """How many rows come up to this one, chosen or not."""
        if row_index is None:
            return self._grid.rows
        there, columns = self._values_at(connection, row_index), sa.tuple_(*self._columns)
        until = columns >= there if self._descending else columns <= there
        counted = sa.select(sa.func.count()).select_from(rows).where(*_of_grid(self._grid), until)
        return connection.scalar(counted) or 0


class ValueOrder:
    """The order of the values that a question was answered with, of the candidates that were read; `is_whole`: all."""

    def __init__(self, grid: Grid, indexes: Sequence[int], *, is_whole: bool) -> None:
        self._grid = grid
        self._indexes = indexes
        self._rank = {row_index: rank for rank, row_index in enumerate(indexes)}
        self.is_whole = is_whole

    def following(self, connection: sa.Connection, place: Place, limit: int) -> list[Line]:
        """The next candidates from a place on, away from it."""
        some = self._away_from(place, limit)
        found = connection.execute(lines(self._grid).where(rows.c.row_index.in_(some)))
        by_index = {line.row_index: line for line in (Line(*row) for row in found)}
        return [by_index[row_index] for row_index in some]

    def _away_from(self, place: Place, limit: int) -> Sequence[int]:
        rank = None if place.row_index is None else self._rank_of(place.row_index)
        if place.is_before:
            end = len(self._indexes) if rank is None else rank
            return self._indexes[max(0, end - limit) : end][::-1]
        start = 0 if rank is None else rank + 1
        return self._indexes[start : start + limit]

    def _rank_of(self, row_index: int) -> int:
        try:
            return self._rank[row_index]
        except KeyError:
            raise NotOnRecordError(f"the row with the index {row_index} is not among those in this order") from None

    def count(self, connection: sa.Connection, row_index: int | None) -> int:
        """How many of them come up to this one."""
        return len(self._indexes) if row_index is None else self._rank_of(row_index) + 1


def _of_grid(grid: Grid) -> tuple[sa.ColumnElement[bool], ...]:
    return rows.c.run_id == grid.run.run_id, rows.c.node_id == grid.node_id


def order_of(connection: sa.Connection, grid: Grid, choice: Choice, deadline: Deadline) -> RecordOrder | ValueOrder:
    """The order that was wished for; by values as far as the time allows."""
    if choice.order in (BY_ROW, BY_KEY):
        return RecordOrder(grid, choice)
    ranking = _Ranking(connection, grid, choice)
    in_source_order = RecordOrder(grid, replace(choice, order=BY_ROW, descending=False))
    is_whole = True
    for some in going_on(connection, in_source_order, Place(), at_once(grid)):
        ranking.add(some)
        if deadline.is_over:
            is_whole = not in_source_order.following(connection, Place(some[-1].row_index), 1)
            break
    return ValueOrder(grid, ranking.in_order(), is_whole=is_whole)


class _Ranking:
    """Rows by the value that a question was answered with.

    Those without one come last, whatever the direction; those with the same one in the order of the source.
    """

    def __init__(self, connection: sa.Connection, grid: Grid, choice: Choice) -> None:
        self._connection, self._question = connection, grid.question(choice.order)
        field = self._question.main_field(choice.field)
        self._field = field.name if field else ""
        self._descending = choice.descending
        self._ranked: list[tuple[tuple[int, float, str], int]] = []
        self._unranked: list[int] = []

    def add(self, some: Sequence[Line]) -> None:
        """Take these rows in."""
        given, _ = read_answers(self._connection, some, [self._question.key])
        for line in some:
            answer = given.get((line.token_id, self._question.key))
            rank = _rank(answer.values.get(self._field)) if answer and answer.values else None
            if rank is None:
                self._unranked.append(line.row_index)
            else:
                self._ranked.append((rank, line.row_index))

    def in_order(self) -> list[int]:
        """The rows' indexes."""
        self._ranked.sort(key=lambda pair: pair[0], reverse=self._descending)
        return [*(row_index for _, row_index in self._ranked), *self._unranked]


def _rank(value: Json) -> tuple[int, float, str] | None:
    """Numbers before texts, and false before true."""
    if value is None or isinstance(value, dict | list):
        return None
    number = number_of(value)
    return (1, 0, str(value)) if number is None else (0, number, "")


def going_on(connection: sa.Connection, order: Order, place: Place, limit: int) -> Iterator[list[Line]]:
    """All candidates from a place on, so many at a time."""
    while some := order.following(connection, place, limit):
        yield some
        place = Place(some[-1].row_index, place.is_before)


def at_once(grid: Grid) -> int:
    """How many rows are read at once."""
    return max(1, CELLS_AT_ONCE // max(1, len(grid.questions)))


# Pages ---------------------------------------------------------------------------------------------------------------


def page(
    connection: sa.Connection,
    grid: Grid,
    choice: Choice,
    order: Order,
    place: Place,
    deadline: Deadline,
    size: int = PAGE,
) -> Page:
    """The chosen rows from a place on, as many as fit the page or as the time allows."""
    found = _search(connection, grid, choice, order, place, deadline, size)
    is_more = len(found.lines) > size
    end = found.lines[size - 1].row_index if is_more else found.last
    before, after = _neighbours(place, found.lines, Place(end, place.is_before) if found.is_cut or is_more else None)
    shown = found.lines[:size]
    return Page(
        lines=tuple(reversed(shown) if place.is_before else shown),
        before=before,
        after=after,
        looked_until=0 if end is None else order.count(connection, end),
        of_rows=order.count(connection, None),
        is_cut=found.is_cut,
        unread=found.unread,
    )


class _Found(NamedTuple):
    """Chosen rows, and the last one that was looked at; one more than fit a page tells that there is another page."""

    lines: list[Line]
    last: int | None
    unread: int
    is_cut: bool


def _search(
    connection: sa.Connection, grid: Grid, choice: Choice, order: Order, place: Place, deadline: Deadline, size: int
) -> _Found:
    lines_: list[Line] = []
    last, unread = place.row_index, 0
    limit = max(size + 1, at_once(grid)) if choice.has_to_read else size + 1
    for some in going_on(connection, order, place, limit):
        chosen = choose(connection, grid, choice, some)
        lines_ += chosen.lines
        unread += chosen.unread
        last = some[-1].row_index
        if len(lines_) > size:
            break
        if deadline.is_over:
            is_cut = bool(order.following(connection, Place(last, place.is_before), 1))
            return _Found(lines_, last, unread, is_cut)
    return _Found(lines_, last, unread, is_cut=False)


def _neighbours(place: Place, found: Sequence[Line], onward: Place | None) -> tuple[Place | None, Place | None]:
    """The places of the page before and of the one after; from an empty page one goes back to where all begins."""
    back = None if place.row_index is None else Place(found[0].row_index if found else None, not place.is_before)
    if back is not None and back.row_index is None:
        back = Place(None, place.is_before)
    return (onward, back) if place.is_before else (back, onward)


def go_through(read: Read, grid: Grid, choice: Choice, size: int = PAGE) -> Iterator[list[FilledLine]]:
    """All chosen rows with their cells, a page at a time, for as long as it takes: for what is handed over."""
    forever, place = Deadline(None), Place()
    with read() as connection:
        order = order_of(connection, grid, choice, forever)
    while True:
        with read() as connection:
            found = page(connection, grid, choice, order, place, forever, size)
            filled = fill(connection, grid, found.lines)
        if filled:
            yield filled
        if found.after is None:
            return
        place = found.after


def count(connection: sa.Connection, grid: Grid, choice: Choice) -> int:
    """How many rows fulfil the wishes that the database can fulfil."""
    chosen = lines(grid).where(*conditions(grid, choice))
    return connection.scalar(sa.select(sa.func.count()).select_from(chosen.subquery())) or 0
