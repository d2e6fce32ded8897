"""Where rows come in: every record that was read becomes a row with a token, or a rejection, on record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from elspeth_dagster.landscape import rows
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Fact
from elspeth_dagster.stages.reading import Record, Rejection

RECORDS_AT_ONCE = 200


def admit(
    landscape: Landscape, run_id: str, node_id: str, partition: str | None, read: Iterable[Record | Rejection]
) -> tuple[int, int]:
    """Put every record on record that isn't yet (a retried step finds its earlier attempt's).

    Returns how many rows and rejections there are. Raises what reading raises: SourceError.
    """
    with landscape.read() as connection:
        known = rows.recorded_until(connection, run_id, node_id)
    for records in _chunks(read):
        new = (record for record in records if record.index >= known)
        landscape.write(*(fact for record in new for fact in _facts(run_id, node_id, partition, record)))
    with landscape.read() as connection:
        return rows.counts(connection, run_id, node_id)


def _chunks(read: Iterable[Record | Rejection]) -> Iterator[list[Record | Rejection]]:
    iterator = iter(read)
    while chunk := list(islice(iterator, RECORDS_AT_ONCE)):
        yield chunk


def _facts(run_id: str, node_id: str, partition: str | None, record: Record | Rejection) -> list[Fact]:
    if isinstance(record, Record):
        return rows.admission(
            run_id,
            node_id,
            row_index=record.index,
            row_key=record.key,
            partition_key=partition,
            line=record.line,
            values=record.values,
            raw=record.raw,
        )
    return rows.rejection(
        run_id,
        node_id,
        row_index=record.index,
        partition_key=partition,
        line=record.line,
        column=record.column,
        reason=record.reason,
        message=record.message,
        raw=record.raw,
    )
