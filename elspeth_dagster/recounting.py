"""What the record tells of a finished slice, for the UI: its failing rows by reason, its batches, its latencies."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from elspeth_dagster.landscape import answers, flushed, latencies
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.previewing import plain, table

EXAMPLES = 3
MOST_BATCHES = 50
SHARES = {"latency_p50_ms": 0.5, "latency_p95_ms": 0.95}


def failure_lines(landscape: Landscape, run_id: str, assessment: str) -> Iterator[str]:
    """A line per reason for which rows have no answer: how many rows, and the keys of three."""
    for reason, rows, row_keys in _failed(landscape, run_id, assessment):
        named = ", ".join(plain(key) for key in row_keys)
        yield f"{rows} {'row has' if rows == 1 else 'rows have'} an answer refused as {reason}, for example {named}"


def failures_metadata(
    landscape: Landscape, run_id: str, assessment: str, partition: str | None = None
) -> dict[str, Any]:
    """The same as a table, of one partition of several or of all; nothing where no row failed."""
    failed = _failed(landscape, run_id, assessment, partition)
    shown = ((reason, rows, ", ".join(plain(key) for key in row_keys)) for reason, rows, row_keys in failed)
    told = dg.MetadataValue.md(table(("reason", "rows", "for example"), shown))
    return {"reasons": told} if failed else {}


def asked_metadata(landscape: Landscape, run_id: str, assessment: str, partition: str | None = None) -> dict[str, Any]:
    """Below which latency half of the replies came, and nearly all; and the batches; of a partition or of all."""
    asking, aggregating = f"{assessment}.ask_batches", f"{assessment}.aggregate_rows"
    with landscape.read() as connection:
        about = flushed.about(run_id, aggregating, partition)
        found = latencies.percentiles(connection, run_id, asking, list(SHARES.values()), about)
        number, first = flushed.asked(connection, run_id, aggregating, asking, MOST_BATCHES, partition)
    timed = {} if found is None else {name: each / 1000 for name, each in zip(SHARES, found, strict=True)}
    lines = table(("batch", "step", "trigger", "rows", "state"), first)
    more = f"\n\n{number - len(first)} more batches are on record." if number > len(first) else ""
    return {**timed, "batches": number, "batch_table": dg.MetadataValue.md(lines + more)}


def _failed(
    landscape: Landscape, run_id: str, assessment: str, partition: str | None = None
) -> list[answers.FailedRows]:
    about = flushed.about(run_id, f"{assessment}.aggregate_rows", partition)
    with landscape.read() as connection:
        return answers.failed_by_reason(connection, run_id, f"{assessment}.ask_batches", EXAMPLES, about)
