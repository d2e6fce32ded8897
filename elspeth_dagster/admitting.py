"""Where rows come in: every record that was read becomes a row with a token, or a rejection, on record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from elspeth_dagster.landscape import rows, scopes
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Fact, Scope
from elspeth_dagster.stages.reading import Record, Rejection

RECORDS_AT_ONCE = 200


def admit(
    landscape: Landscape,
    run_id: str,
    assessment: str,
    node_id: str,
    read: Iterable[Record | Rejection],
) -> tuple[int, int]:
    """Put every record on record that isn't yet (a retried step finds its earlier attempt's).

    Returns how many rows and rejections there are. Raises what reading raises: SourceError.
    """
    with landscape.read() as connection:
        known = rows.recorded_until(connection, run_id, node_id)
    here = (run_id, node_id)
    for records in _chunks(read):
        new = [record for record in records if record.index >= known]
        scoped = zip(new, _scopes(landscape, run_id, assessment, new), strict=True)
        landscape.write(*(fact for record, scope in scoped for fact in _facts(*here, record, scope)))
    with landscape.read() as connection:
        return rows.counts(connection, run_id, node_id)


def _chunks(read: Iterable[Record | Rejection]) -> Iterator[list[Record | Rejection]]:
    iterator = iter(read)
    while chunk := list(islice(iterator, RECORDS_AT_ONCE)):
        yield chunk


def _scopes(landscape: Landscape, run_id: str, assessment: str, new: list[Record | Rejection]) -> list[Scope]:
    """What each record is erased with: its row's other records, or the run's other rejections."""
    keys = [record.key for record in new if isinstance(record, Record)]
    of_rows = scopes.of_rows(landscape, assessment, keys)
    of_rejections = scopes.of_rejections(landscape, assessment, run_id) if len(keys) < len(new) else None
    found = (of_rows[record.key] if isinstance(record, Record) else of_rejections for record in new)
    return [scope for scope in found if scope is not None]


def _facts(run_id: str, node_id: str, record: Record | Rejection, scope: Scope) -> list[Fact]:
    if isinstance(record, Record):
        return rows.admission(
            run_id,
            node_id,
            row_index=record.index,
            row_key=record.key,
            partition_key=record.partition,
            line=record.line,
            values=record.values,
            raw=record.raw,
            scope=scope,
        )
    return rows.rejection(
        run_id,
        node_id,
        row_index=record.index,
        partition_key=record.partition,
        line=record.line,
        column=record.column,
        reason=record.reason,
        message=record.message,
        raw=record.raw,
        scope=scope,
    )
