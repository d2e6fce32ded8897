"""What is checked about the results of a run: what each check asks, of the record and of the table that was written.

    accounted      the record   nothing has disappeared
    linked         the record   everything hangs on what it belongs to
    within_bounds  the table    every answer is as it is declared
    failure_rate   the record   few rows have no result
    drift          the tables   numeric answers are distributed as in the partitions before

A check that finds fault names numbers, and of rows nothing but their keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.checks_spec import DriftSpec, FailureRateSpec
from elspeth_dagster.core.naming import Some
from elspeth_dagster.landscape import accounting, artifacts
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Artifact
from elspeth_dagster.landscape.words import Outcome
from elspeth_dagster.resources.parquet import read_pages
from elspeth_dagster.stages.querying import questions, result_fields
from elspeth_dagster.stages.reading import key_text

if TYPE_CHECKING:
    from elspeth_dagster.stages.drifting import Comparison, Numbers

NUMERIC = ("integer", "number")
WORST = 10


@dataclass(frozen=True)
class Finding:
    """What a check came to: whether all is well, a sentence, and numbers by name."""

    passed: bool
    told: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Audit:
    """The checks of one run's results for one of its partitions; of the record they hold for all of them.

    `earlier` orders the partitions that came before this one, of those known.
    """

    landscape: Landscape
    assessment: Assessment
    run_id: str
    partition: str | None = None
    earlier: Callable[[Sequence[str]], Sequence[str]] = list

    def accounted(self) -> Finding:
        """Whether every record, row, batch, state and call has come to its end, and every row is in a table."""
        with self.landscape.read() as connection:
            lacking = accounting.unaccounted(connection, self.run_id, self._name)
        return _of_numbers(lacking, "Nothing has disappeared: each record, row, batch, state and call has its end.")

    def linked(self) -> Finding:
        """Whether every call and answer belongs to its state, its row and its question."""
        with self.landscape.read() as connection:
            wrong = accounting.unlinked(connection, self.run_id, self._name, [one.key for one in self._questions])
        return _of_numbers(wrong, "Each call and answer belongs to its state, its row and its question.")

    def within_bounds(self) -> Finding:
        """Whether every answer in the table is of its declared type and within its bounds."""
        from elspeth_dagster.stages.bounding import outside  # Arrow is slow to import

        fields, key = result_fields(self._questions), self.assessment.spec.source.key
        keys, lacking = Some(), dict.fromkeys(fields)
        outside_of: Counter[str] = Counter()
        try:
            for page in self._pages(self._written(), [*key, *fields]):
                here = {name: field for name, field in fields.items() if name in page.column_names}
                wrong = {name: outside(page[name], field) for name, field in here.items()}
                places = sorted({place for found in wrong.values() for place in found})
                keys.add(key_text([_as_json(page[name][place].as_py()) for name in key]) for place in places)
                outside_of += Counter({f"{name}_outside": len(found) for name, found in wrong.items()})
                lacking = dict.fromkeys(name for name in lacking if name not in here)
        except _UnreadableError:
            return _unreadable("results")
        if not keys and not lacking:
            return Finding(True, "Every answer is of its declared type and within its bounds.")
        columns = f" The table lacks {', '.join(lacking)}." if lacking else ""
        told = f"{keys.number} rows have answers that their fields don't allow ({keys}).{columns}"
        return Finding(False, told, dict(outside_of))

    def failure_rate(self, declared: FailureRateSpec) -> Finding:
        """Whether few enough rows are without all their answers."""
        with self.landscape.read() as connection:
            fates = accounting.fates(connection, self.run_id, self._name, self.partition)
        rows = sum(fates.values())
        failed = rows - fates.get(str(Outcome.ASSESSED), 0)
        rate = failed / rows if rows else 0.0
        told = f"{failed} of {rows} rows are without all their answers; {declared.max:.1%} may be."
        return Finding(rate <= declared.max, told, {"failure_rate": rate, "failed": failed, "rows": rows})

    def drift(self, declared: DriftSpec) -> Finding:
        """Whether the numeric answers are distributed as in the partitions before."""
        columns = [name for name, field in result_fields(self._questions).items() if field.type in NUMERIC]
        if not columns or self.partition is None:
            return Finding(True, f"Nothing to compare: {'no numeric answers' if not columns else 'no partitions'}.")
        before = self._tables_before(declared.window, columns)
        if len(before) < declared.window:
            told = f"Not enough earlier partitions: {len(before)} of {declared.window} are there."
            return Finding(True, told, {"earlier_partitions": len(before)})
        now = self._table(self._written(), columns)
        return _unreadable("results") if now is None else _drifted(now, before, columns, declared)

    @property
    def _name(self) -> str:
        return self.assessment.spec.name

    @property
    def _questions(self) -> Any:
        return questions(self.assessment)

    def _written(self) -> Artifact | None:
        with self.landscape.read() as connection:
            return artifacts.of_run(connection, self.run_id, f"{self._name}/results", self.partition)

    def _pages(self, written: Artifact | None, columns: Sequence[str]) -> Iterator[Any]:
        """Some columns of a table, page by page. Raises _UnreadableError where it is not there, or can't be read."""
        if written is None:
            raise _UnreadableError
        pages = read_pages(written.uri, columns)
        while True:
            try:
                page = next(pages, None)
            except (OSError, ValueError):
                raise _UnreadableError from None
            if page is None:
                return
            yield page

    def _table(self, written: Artifact | None, columns: Sequence[str]) -> Any:
        """The same as one table; None where it is not there, or can't be read."""
        from pyarrow import concat_tables

        try:
            return concat_tables(self._pages(written, columns))
        except _UnreadableError:
            return None

    def _tables_before(self, window: int, columns: Sequence[str]) -> list[Any]:
        with self.landscape.read() as connection:
            known = artifacts.by_partition(connection, f"{self._name}/results")
        last = list(self.earlier(list(known)))[-window:]
        tables = (self._table(known[key], columns) for key in last)
        return [table for table in tables if table is not None]


class _UnreadableError(Exception):
    """A table is not there, or can't be read."""


def _of_numbers(numbers: Mapping[str, int], well: str) -> Finding:
    wrong = {name: number for name, number in numbers.items() if number}
    told = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in wrong.items())
    return Finding(not wrong, f"The record is not whole: {told}." if wrong else well, numbers)


def _unreadable(table: str) -> Finding:
    return Finding(False, f"The table {table} that this run wrote is not there any more, or can't be read.")


def _drifted(now: Any, before: Sequence[Any], columns: Sequence[str], declared: DriftSpec) -> Finding:
    from elspeth_dagster.stages.drifting import compare  # SciPy is slow to import

    compared = compare((name, _numbers([now], name), _numbers(before, name)) for name in columns)
    drifted = [one for one in compared if one.p_value < declared.threshold and one.distance >= declared.distance]
    facts = {"earlier_partitions": len(before), "drifted": len(drifted), "compared": compared[:WORST]}
    facts["greatest_distance"] = max((one.distance for one in compared), default=0.0)
    if not drifted:
        return Finding(True, f"{len(compared)} numeric columns are distributed as before.", facts)
    return Finding(False, f"{len(drifted)} of {len(compared)} numeric columns have drifted: {_named(drifted)}.", facts)


def _named(drifted: Sequence[Comparison]) -> str:
    some = Some()
    some.add(f"{one.column} (mean {one.mean_before:.3g} before, {one.mean_now:.3g} now)" for one in drifted)
    return str(some)


def _numbers(tables: Sequence[Any], column: str) -> Numbers:
    """The numbers of a column in those tables that have it."""
    from numpy import array, concatenate

    found = [table[column].drop_null().to_numpy() for table in tables if column in table.column_names]
    return concatenate(found) if found else array([])


def _as_json(value: Any) -> Json:
    return value.isoformat() if hasattr(value, "isoformat") else value
