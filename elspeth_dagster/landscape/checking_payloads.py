"""Whether the payloads that a run refers to hold the bytes that their names say. Those that a
recorded erasure names are only counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from elspeth_dagster.core.errors import ErasedError, LandscapeError
from elspeth_dagster.landscape import payloads
from elspeth_dagster.landscape.columns import Ref
from elspeth_dagster.landscape.findings import Finding, Progress, Report
from elspeth_dagster.landscape.streaming import streamed
from elspeth_dagster.landscape.touching import touched_by_payload

AT_ONCE = 500
MOST_BYTES = 16_000_000
BY_STATE = "FROM node_states s JOIN {0} t ON t.state_id = s.state_id WHERE s.run_id = :run"
OF_REPLIES = "FROM node_states s JOIN calls c ON c.state_id = s.state_id JOIN replies t ON t.call_id = c.call_id"
USED = " UNION ".join(
    [
        "SELECT config_ref AS ref FROM runs WHERE run_id = :run",
        "SELECT config_ref FROM nodes WHERE run_id = :run",
        "SELECT values_ref FROM rows WHERE run_id = :run",
        "SELECT raw_ref FROM rows WHERE run_id = :run AND raw_ref IS NOT NULL",
        "SELECT raw_ref FROM row_rejections WHERE run_id = :run",
        f"SELECT t.head_ref {BY_STATE.format('calls')}",
        f"SELECT t.request_ref {BY_STATE.format('calls')}",
        f"SELECT t.body_ref {OF_REPLIES} WHERE s.run_id = :run AND t.body_ref IS NOT NULL",
        f"SELECT t.values_ref {BY_STATE.format('answers')} AND t.values_ref IS NOT NULL",
    ]
)
SIZES = sa.text(
    f"SELECT u.ref, coalesce(p.size, -1), coalesce(length(p.body), 0), e.ref FROM ({USED}) AS u "
    "LEFT JOIN payloads p ON p.ref = u.ref LEFT JOIN erased_payloads e ON e.ref = u.ref ORDER BY u.ref"
)
READ = Ref().process_result_value


def check_payloads(connection: sa.Connection, run_id: str, report: Report, progress: Progress) -> None:
    """Report every payload that the run refers to and that is absent or holds other bytes than its name says."""
    for some in _portions(connection, run_id, report):
        report.payloads += len(some)
        progress(f"run {run_id}: payloads", len(some))
        names = [str(READ(ref, connection.dialect)) for ref in some]
        try:
            payloads.read_many(connection, names)
        except LandscapeError:
            for ref, name in zip(some, names, strict=True):
                _check_one(connection, run_id, ref, name, report)


def _portions(connection: sa.Connection, run_id: str, report: Report) -> Iterator[Sequence[bytes]]:
    """The names, so many together that their bytes fit into memory; those without a body are counted or reported."""
    some: list[bytes] = []
    left = MOST_BYTES
    with streamed(connection, SIZES, AT_ONCE, run=run_id) as found:
        for page in found.partitions(AT_ONCE):
            for ref, size, kept, erased in page:
                if size > 0 and not kept and erased is not None:
                    report.erased += 1
                    continue
                if some and (len(some) == AT_ONCE or size > left):
                    yield some
                    some, left = [], MOST_BYTES
                some.append(ref)
                left -= size
    if some:
        yield some


def _check_one(connection: sa.Connection, run_id: str, ref: bytes, name: str, report: Report) -> None:
    try:
        payloads.read(connection, name)
    except ErasedError:
        report.erased += 1
    except LandscapeError as error:
        report.add(
            Finding(
                "payload", str(error), run_id, "payloads", {"ref": name}, *touched_by_payload(connection, run_id, ref)
            )
        )
