"""Counting a whole run a part at a time: each look takes up where the last one stopped.

    Tally ─► ValueTally     how often each answer has which value
          └► ContrastTally  how the answers of two runs stand to each other, question by question

What is kept between two looks is small: a number for each value, never a text. A tally tells how many rows it has been
through, so that nobody takes a part for the whole.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections import Counter
from collections.abc import Sequence

import sqlalchemy as sa

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.landscape.choosing import Choice, choose, number_of
from elspeth_dagster.landscape.contrasting import Contrast, Difference, differences
from elspeth_dagster.landscape.grids import Grid, Line, read_answers
from elspeth_dagster.landscape.leafing import Deadline, Place, RecordOrder, at_once, going_on
from elspeth_dagster.landscape.planned import PlannedField


class Tally:
    """A count over the chosen rows of a grid, in the order of the source; `rows` of them are counted so far.

    `looked_at` rows were looked at for it, chosen or not; `unread` payloads could not be read.
    """

    def __init__(self, grid: Grid, choice: Choice) -> None:
        self.grid, self.choice = grid, choice
        self.rows = self.unread = 0
        self.is_done = False
        self._place = Place()

    @property
    def is_lasting(self) -> bool:
        """Whether what was counted stays as it is: the run is over."""
        return self.grid.is_over

    def go_on(self, connection: sa.Connection, deadline: Deadline) -> None:
        """Count further, at least a little, as far as the time allows."""
        if self.is_done:
            return
        for some in going_on(connection, RecordOrder(self.grid, self.choice), self._place, at_once(self.grid)):
            chosen = choose(connection, self.grid, self.choice, some)
            self.unread += chosen.unread
            self._take(connection, chosen.lines)
            self.rows += len(chosen.lines)
            self._place = Place(some[-1].row_index)
            if deadline.is_over:
                return
        self.is_done = True

    def looked_at(self, connection: sa.Connection) -> int:
        """How many rows of the grid come up to the last one that was looked at."""
        if self.is_done:
            return self.grid.rows
        order = RecordOrder(self.grid, Choice())
        return 0 if self._place.row_index is None else order.count(connection, self._place.row_index)

    def _take(self, connection: sa.Connection, some: Sequence[Line]) -> None:
        raise NotImplementedError


@dataclasses.dataclass
class Distribution:
    """How often a field of a question's answers has which value: the numbers one by one, other values counted.

    `lacking` rows have no such value.
    """

    question: str
    field: PlannedField
    numbers: array[float] = dataclasses.field(default_factory=lambda: array("d"))
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    lacking: int = 0

    def add(self, value: Json) -> None:
        """Count a value; None is none."""
        number = number_of(value)
        if self.field.is_numeric and number is not None:
            self.numbers.append(number)
        elif not self.field.is_numeric and isinstance(value, bool | str):
            self.counts[str(value).lower() if isinstance(value, bool) else value] += 1
        else:
            self.lacking += 1


class ValueTally(Tally):
    """The distribution of every field that can be counted, by question."""

    def __init__(self, grid: Grid, choice: Choice) -> None:
        super().__init__(grid, choice)
        self._keys = choice.query_keys(grid)
        self.distributions = [
            Distribution(key, each)
            for key in self._keys
            for each in grid.question(key).fields
            if each.is_counted and choice.field in (None, each.name)
        ]

    def _take(self, connection: sa.Connection, some: Sequence[Line]) -> None:
        given, unread = read_answers(connection, some, self._keys)
        self.unread += unread
        for one in self.distributions:
            for line in some:
                answer = given.get((line.token_id, one.question))
                one.add(answer.values.get(one.field.name) if answer and answer.values else None)


@dataclasses.dataclass
class Agreement:
    """How the answers to a question stand to those of another run: how many how, and by how much they differ."""

    question: str
    field: PlannedField | None
    counts: Counter[Difference] = dataclasses.field(default_factory=Counter)
    by: array[float] = dataclasses.field(default_factory=lambda: array("d"))

    def add(self, one: Contrast) -> None:
        """Count a pair."""
        self.counts[one.kind] += 1
        if one.by is not None:
            self.by.append(one.by)

    @property
    def compared(self) -> int:
        """How many pairs have an answer on both sides that could be read."""
        return self.counts[Difference.SAME] + self.counts[Difference.CHANGED]

    @property
    def share(self) -> float | None:
        """The share of these that are equal, 0 to 1."""
        return self.counts[Difference.SAME] / self.compared if self.compared else None


class ContrastTally(Tally):
    """How the answers of two runs stand to each other, by question; `choice` says which other run."""

    def __init__(self, grid: Grid, other: Grid, choice: Choice) -> None:
        super().__init__(grid, choice)
        self.other = other
        self._keys = choice.query_keys(grid)
        self.agreements = {key: Agreement(key, grid.question(key).main_field(choice.field)) for key in self._keys}

    @property
    def is_lasting(self) -> bool:
        """Whether both runs are over."""
        return self.grid.is_over and self.other.is_over

    def _take(self, connection: sa.Connection, some: Sequence[Line]) -> None:
        found, unread = differences(connection, self.grid, self.other, some, self._keys, self.choice.field)
        self.unread += unread
        for (_, key), one in found.items():
            self.agreements[key].add(one)
