"""A table of results in numbers and by its first rows, told while it is written: nothing is read a second time.

Of each numeric answer column the mean and the spread (standard deviation), and the same over all columns of an answer
field. Where there are many columns only the latter are told: nobody looks through hundreds of plots.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import dagster as dg

from elspeth_dagster.core.spec import AssessmentSpec
from elspeth_dagster.previewing import table
from elspeth_dagster.resources.parquet import Table
from elspeth_dagster.stages.querying import Question

if TYPE_CHECKING:
    import pyarrow as pa

MOST_COLUMNS = 30
PREVIEWED_COLUMNS = 12
NUMERIC = ("integer", "number")


@dataclass
class Spread:
    """Count, mean and sum of squared deviations of the numbers so far (Chan, Golub and LeVeque 1983)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, other: Spread) -> None:
        """Take in other numbers."""
        count = self.count + other.count
        if not other.count:
            return
        apart = other.mean - self.mean
        self.squares += other.squares + apart**2 * self.count * other.count / count
        self.mean += apart * other.count / count
        self.count = count

    @property
    def deviation(self) -> float:
        """The standard deviation of these numbers."""
        return math.sqrt(max(0.0, self.squares / self.count)) if self.count else 0.0


class Summary:
    """What is told of one table of results."""

    def __init__(self, spec: AssessmentSpec, asked: tuple[Question, ...]) -> None:
        numeric = {
            question.column(name): name
            for question in asked
            for name, field in question.fields.items()
            if field.type in NUMERIC
        }
        self._field_of = numeric
        self._spreads = {column: Spread() for column in numeric}
        answered = [question.column(name) for question in asked for name in question.fields]
        self._previewed = [*spec.source.key, *answered][:PREVIEWED_COLUMNS]
        self._left_out = len(spec.source.key) + len(answered) - len(self._previewed)
        self._preview_rows = spec.preview_rows
        self._first: list[dict[str, Any]] = []

    def of(self, results: Table) -> Table:
        """The same table, which tells its summary when it is written."""
        return replace(results, batches=self._watched(results.batches), facts=self.facts)

    def _watched(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for column, spread in self._spreads.items():
                spread.add(_spread(batch.column(column)))
            if (lacking := self._preview_rows - len(self._first)) > 0:
                self._first += batch.select(self._previewed).slice(0, lacking).to_pylist()
            yield batch

    def facts(self) -> dict[str, Any]:
        """The numbers, by name, and `preview` in markdown."""
        told: dict[str, Any] = {}
        for name, spread in self._told().items():
            if spread.count:
                told |= {f"{name}_mean": spread.mean, f"{name}_spread": spread.deviation}
        return {**told, **({"preview": dg.MetadataValue.md(self._preview())} if self._preview_rows else {})}

    def _told(self) -> Mapping[str, Spread]:
        by_field: dict[str, Spread] = {}
        for column, spread in self._spreads.items():
            by_field.setdefault(self._field_of[column], Spread()).add(spread)
        return {**by_field, **(self._spreads if len(self._spreads) <= MOST_COLUMNS else {})}

    def _preview(self) -> str:
        shown = table(self._previewed, ([row[name] for name in self._previewed] for row in self._first))
        return shown + (f"\n\n{self._left_out} more answer columns are in the table." if self._left_out else "")


def _spread(column: pa.Array) -> Spread:
    import pyarrow.compute as pc

    count = len(column) - column.null_count
    if not count:
        return Spread()
    return Spread(count, pc.mean(column).as_py(), pc.variance(column).as_py() * count)
