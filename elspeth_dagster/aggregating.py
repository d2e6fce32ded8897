"""Rows on record into batches on record."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.landscape import batches, rows
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Batch
from elspeth_dagster.landscape.words import Trigger
from elspeth_dagster.stages.batching import Flush, aggregate, rows_per_step, shards


def flush_batches(landscape: Landscape, run_id: str, assessment: Assessment, row_count: int) -> Iterator[Batch]:
    """Put every batch of a slice on record that isn't yet (a retried step finds its earlier attempt's)."""
    here = f"{assessment.spec.name}.aggregate_rows"
    with landscape.read() as connection:
        known = batches.of_node(connection, run_id, here)
    yield from known
    step_size = rows_per_step(assessment.spec.rows_per_step, row_count)
    planned = enumerate(shards(_flushes(landscape, run_id, assessment), step_size))
    for ordinal, (shard, flush) in islice(planned, len(known), None):
        batch, facts = batches.flush(
            run_id, here, ordinal=ordinal, trigger=Trigger(flush.trigger), shard=shard, members=flush.tokens
        )
        landscape.write(*facts)
        yield batch


def _flushes(landscape: Landscape, run_id: str, assessment: Assessment) -> Iterator[Flush]:
    pages = rows.in_source_order(landscape, run_id, f"{assessment.spec.name}.admit_rows")
    return aggregate(((row.token_id, row.values) for page in pages for row in page), assessment.spec.aggregate)
