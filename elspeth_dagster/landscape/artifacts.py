"""Tables that were written, found again: of one run and partition, or the last one of each partition."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from elspeth_dagster.landscape.records import Artifact
from elspeth_dagster.landscape.schema import artifacts, node_states, runs

LAST_FIRST = (runs.c.started_at.desc(), node_states.c.attempt.desc(), artifacts.c.written_at.desc())
"""By run and attempt first: hosts' clocks differ."""


def of_run(connection: sa.Connection, run_id: str, asset_key: str, partition: str | None = None) -> Artifact | None:
    """The table that a run wrote for an asset, of one partition or of its only one, at its last attempt."""
    written = _written().where(artifacts.c.run_id == run_id, artifacts.c.asset_key == asset_key)
    if partition is not None:
        written = written.where(artifacts.c.partition_key == partition)
    row = connection.execute(written.order_by(*LAST_FIRST).limit(1)).first()
    return None if row is None else Artifact(*row)


def latest(connection: sa.Connection, asset_key: str, partition: str | None = None) -> Artifact | None:
    """The last table that was written for an asset, of one partition or of any."""
    written = _written().where(artifacts.c.asset_key == asset_key)
    if partition is not None:
        written = written.where(artifacts.c.partition_key == partition)
    row = connection.execute(written.order_by(*LAST_FIRST).limit(1)).first()
    return None if row is None else Artifact(*row)


def by_partition(connection: sa.Connection, asset_key: str) -> dict[str, Artifact]:
    """The last table of each partition of an asset, in the order in which they were written."""
    partitioned = _written().where(artifacts.c.asset_key == asset_key, artifacts.c.partition_key.is_not(None))
    found: dict[str, Artifact] = {}
    for row in reversed(connection.execute(partitioned.order_by(*LAST_FIRST, artifacts.c.artifact_id.desc())).all()):
        written = Artifact(*row)
        found.pop(str(written.partition_key), None)
        found[str(written.partition_key)] = written
    return found


def _written() -> sa.Select[Any]:
    of_run = artifacts.join(runs, runs.c.run_id == artifacts.c.run_id)
    of_state = of_run.join(node_states, node_states.c.state_id == artifacts.c.state_id)
    return sa.select(*artifacts.c).select_from(of_state)
