"""Rows on record into batches on record, many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, islice

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.landscape import batches, rows
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Batch, Fact
from elspeth_dagster.landscape.words import Trigger
from elspeth_dagster.stages.batching import Flush, aggregate, rows_per_step, shards

ROWS_AT_ONCE = 500
Planned = tuple[int, tuple[str, Flush]]


def flush_batches(landscape: Landscape, run_id: str, assessment: Assessment, row_count: int) -> Iterator[Batch]:
    """Put every batch of a slice on record that isn't yet (a retried step finds its earlier attempt's)."""
    here = f"{assessment.spec.name}.aggregate_rows"
    known = 0
    for page in batches.of_node(landscape, run_id, here):
        known += len(page)
        yield from page
    step_size = rows_per_step(assessment.spec.rows_per_step, row_count)
    planned = enumerate(shards(_flushes(landscape, run_id, assessment), step_size))
    for some in _together(islice(planned, known, None)):
        yield from _put_on_record(landscape, run_id, here, some)


def _flushes(landscape: Landscape, run_id: str, assessment: Assessment) -> Iterator[Flush]:
    """No batch holds rows of two partitions: where one ends, what is left of it is flushed."""
    pages = rows.in_source_order(landscape, run_id, f"{assessment.spec.name}.admit_rows")
    in_order = (row for page in pages for row in page)
    for _, of_partition in groupby(in_order, key=lambda row: row.row.partition_key):
        yield from aggregate(((row.token_id, row.values) for row in of_partition), assessment.spec.aggregate)


def _together(planned: Iterable[Planned]) -> Iterator[list[Planned]]:
    """So many batches at a time as make a transaction worth its while."""
    some, held = [], 0
    for one in planned:
        some.append(one)
        held += len(one[1][1].tokens)
        if held >= ROWS_AT_ONCE:
            yield some
            some, held = [], 0
    if some:
        yield some


def _put_on_record(landscape: Landscape, run_id: str, node_id: str, planned: list[Planned]) -> list[Batch]:
    flushed: list[Batch] = []
    facts: list[Fact] = []
    for ordinal, (shard, flush) in planned:
        trigger = Trigger(flush.trigger)
        batch, of_batch = batches.flush(
            run_id, node_id, ordinal=ordinal, trigger=trigger, shard=shard, members=flush.tokens
        )
        flushed.append(batch)
        facts += of_batch
    landscape.write(*facts)
    return flushed
