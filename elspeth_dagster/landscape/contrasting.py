"""Two runs beside each other: which answers to the same question about the same row differ, and by how much.

A row is the same row when its key is. Only the field that stands for an answer is held against the other one's: free
text never comes back to the letter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import product
from typing import NamedTuple

import sqlalchemy as sa

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.landscape.grids import Given, Grid, Line, ReadAnswers, lines_of, read_answers
from elspeth_dagster.landscape.schema import nodes, rows, runs


class Difference(StrEnum):
    """How an answer stands to that of the other run.

    same: equal values. changed: other values. only_here, only_there: the other run, or this one, has no accepted
    answer. neither: none of them has. unreadable: both have one, and the bytes of one are gone.
    """

    SAME = "same"
    CHANGED = "changed"
    ONLY_HERE = "only_here"
    ONLY_THERE = "only_there"
    NEITHER = "neither"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Contrast:
    """An answer's value beside that of the other run; `by`: how much larger the other one is, of numbers."""

    kind: Difference
    here: Json
    there: Json

    @property
    def by(self) -> float | None:
        """The other value less this one; None where they are no two numbers."""
        both = (self.here, self.there)
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in both):
            difference: float = self.there - self.here
            return difference
        return None


class Contrasts(NamedTuple):
    """The contrasts by token (of this run) and question; `unread`: how many values could not be read."""

    found: Mapping[tuple[str, str], Contrast]
    unread: int


class OtherRun(NamedTuple):
    """A run of the same assessment; of the same partition, where the two are."""

    run_id: str
    partitions: list[str]
    started_at: datetime
    is_of_same_slice: bool


def others(connection: sa.Connection, grid: Grid, limit: int) -> list[OtherRun]:
    """The runs of a grid's assessment beside its own: those of the same slice first, the newest of them first."""
    of_it = sa.exists().where(nodes.c.run_id == runs.c.run_id, nodes.c.assessment == grid.assessment)
    same = sa.case((runs.c.partition_keys == grid.run.partition_keys, 0), else_=1)
    found = (
        sa.select(runs.c.run_id, runs.c.partition_keys, runs.c.started_at, same == 0)
        .where(of_it, runs.c.run_id != grid.run.run_id)
        .order_by(same, runs.c.started_at.desc(), runs.c.run_id)
        .limit(limit)
    )
    return [
        OtherRun(run_id, json.loads(partitions), started_at, bool(is_same))
        for run_id, partitions, started_at, is_same in connection.execute(found)
    ]


def missing_there(connection: sa.Connection, here: Grid, there: Grid) -> int:
    """How many rows of a grid have no row with the same key in the other one."""
    twin = rows.alias("twin")
    has_twin = sa.exists().where(
        twin.c.run_id == there.run.run_id, twin.c.node_id == there.node_id, twin.c.row_key == rows.c.row_key
    )
    alone = sa.select(sa.func.count()).select_from(rows)
    alone = alone.where(rows.c.run_id == here.run.run_id, rows.c.node_id == here.node_id, ~has_twin)
    return connection.scalar(alone) or 0


def differences(
    connection: sa.Connection, here: Grid, there: Grid, some: Sequence[Line], keys: Sequence[str], wished: str | None
) -> Contrasts:
    """For each of these questions about these rows, how its answer stands to that of the other run.

    `wished` is the field that is compared, where a question has it.
    """
    return beside(connection, here, there, some, keys, wished, read_answers(connection, some, keys))


def beside(
    connection: sa.Connection,
    here: Grid,
    there: Grid,
    some: Sequence[Line],
    keys: Sequence[str],
    wished: str | None,
    mine: ReadAnswers,
) -> Contrasts:
    """The same, where the answers of this run have been read already."""
    lines_there = lines_of(connection, there, [line.row_key for line in some])
    theirs = read_answers(connection, list(lines_there.values()), keys)
    fields = {key: here.question(key).main_field(wished) for key in keys}
    found = {}
    for line, (key, field) in product(some, fields.items()):
        other = lines_there.get(line.row_key)
        pair = mine.given.get((line.token_id, key)), theirs.given.get((other.token_id, key)) if other else None
        found[line.token_id, key] = contrast(*pair, field.name if field else None)
    return Contrasts(found, mine.unread + theirs.unread)


def contrast(here: Given | None, there: Given | None, field: str | None) -> Contrast:
    """How two answers stand to each other."""
    values = _value(here, field), _value(there, field)
    if here and there and here.is_accepted and there.is_accepted:
        return Contrast(_kind(here, there, *values), *values)
    mine, theirs = (given is not None and given.is_accepted for given in (here, there))
    return Contrast(Difference.ONLY_HERE if mine else Difference.ONLY_THERE if theirs else Difference.NEITHER, *values)


def _kind(here: Given, there: Given, value: Json, other: Json) -> Difference:
    if here.answer.values_ref == there.answer.values_ref:
        return Difference.SAME
    if here.values is None or there.values is None:
        return Difference.UNREADABLE
    return Difference.SAME if _alike(value, other) else Difference.CHANGED


def _value(given: Given | None, field: str | None) -> Json:
    return None if given is None or given.values is None or field is None else given.values.get(field)


def _alike(here: Json, there: Json) -> bool:
    """Equal, and of one type but for numbers: true is no 1."""
    return bool(here == there) and isinstance(here, bool) == isinstance(there, bool)
