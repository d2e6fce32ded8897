"""How runs will be cut, before they start: partitions into runs, rows into batches, batches into steps.

Cut by the rules that the walk itself cuts by (`stages.batching`), row by row: what is kept of a batch is its size.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import product

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.errors import SpecError
from elspeth_dagster.core.partitions_spec import BETWEEN_DIMENSIONS, DimensionSpec
from elspeth_dagster.core.spec import AssessmentSpec
from elspeth_dagster.stages.batching import aggregate, rows_per_step, shard_numbers
from elspeth_dagster.stages.estimating import Counting, Load
from elspeth_dagster.stages.prompting import RENDER_ERRORS

RANGE = "..."


@dataclass(frozen=True)
class Slice:
    """The rows of one partition (None: of an assessment without): what they load, and the size of each batch.

    `is_there` is False where its file is not, yet.
    """

    partition: str | None
    load: Load
    rejections: int
    sizes: array[int]
    is_there: bool = True


@dataclass(frozen=True)
class RunPlan:
    """What one run will do: its partitions, and how many records, batches, steps that ask, and first calls."""

    partitions: tuple[str, ...]
    rows: int
    rejections: int
    batches: int
    steps: int
    calls: int
    missing: tuple[str, ...] = ()


class Rejected:
    """Stands for a record that became no row."""


def slice_of(
    assessment: Assessment,
    partition: str | None,
    records: Iterable[Mapping[str, Json] | Rejected],
    *,
    bounded_schema: bool,
) -> Slice:
    """A partition's records, counted and cut. Raises SpecError where `aggregate.when` can't be evaluated for a row."""
    counting, rejections = Counting(assessment, bounded_schema), 0

    def admitted() -> Iterator[tuple[str, Mapping[str, Json]]]:
        nonlocal rejections
        for record in records:
            if isinstance(record, Rejected):
                rejections += 1
            else:
                counting.add(record)
                yield "", record

    try:
        sizes = array("L", (len(flush.tokens) for flush in aggregate(admitted(), assessment.spec.aggregate)))
    except RENDER_ERRORS as error:
        kind = type(error).__name__
        raise SpecError(f"aggregate.when can't be evaluated for row {counting.rows} ({kind}): correct it") from None
    return Slice(partition, counting.load, rejections, sizes)


def run_plan(spec: AssessmentSpec, slices: Sequence[Slice]) -> RunPlan:
    """The plan of a run that takes these slices."""
    rows = sum(one.load.rows for one in slices)
    numbers = shard_numbers((size for one in slices for size in one.sizes), rows_per_step(spec.rows_per_step, rows))
    return RunPlan(
        partitions=tuple(one.partition for one in slices if one.partition is not None),
        rows=rows,
        rejections=sum(one.rejections for one in slices),
        batches=sum(len(one.sizes) for one in slices),
        steps=max(numbers, default=0),
        calls=sum(one.load.calls for one in slices),
        missing=tuple(one.partition for one in slices if one.partition is not None and not one.is_there),
    )


def partition_keys(spec: AssessmentSpec, today: date) -> list[str]:
    """All partitions that there are today, in order. Raises SpecError where only Dagster knows them."""
    partitions = spec.partitions
    if partitions is None:
        raise SpecError(f"{spec.name} has no partitions: leave --partition and --all away")
    if partitions.multi is None:
        return _keys(partitions, today)
    keys = [_keys(partitions.multi[name], today) for name in sorted(partitions.multi)]
    return [BETWEEN_DIMENSIONS.join(both) for both in product(*keys)]


def _keys(dimension: DimensionSpec, today: date) -> list[str]:
    """A day's partition is there when the day is over."""
    if dimension.static is not None:
        return list(dimension.static)
    if dimension.daily is None:
        raise SpecError(f"the keys of dynamic partitions {dimension.dynamic!r} are Dagster's: name each by --partition")
    first = date.fromisoformat(dimension.daily)
    last = min(today - timedelta(days=1), date.fromisoformat(dimension.until) if dimension.until else today)
    return [(first + timedelta(days=day)).isoformat() for day in range((last - first).days + 1)]


def between(keys: Sequence[str], asked: str) -> list[str]:
    """The keys of a range `FIRST...LAST`, both included. Raises SpecError for a key that is not there."""
    first, last = asked.split(RANGE, 1)
    for key in (first, last):
        if key not in keys:
            raise SpecError(f"--partition {asked}: there is no partition {key!r} (yet)")
    return list(keys[keys.index(first) : keys.index(last) + 1])
