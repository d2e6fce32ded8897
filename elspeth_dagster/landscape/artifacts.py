"""Tables that were written, found again: of one run and partition, or the last one of each partition."""

from __future__ import annotations

import sqlalchemy as sa

from elspeth_dagster.landscape.records import Artifact
from elspeth_dagster.landscape.schema import artifacts


def of_run(connection: sa.Connection, run_id: str, asset_key: str, partition: str | None = None) -> Artifact | None:
    """The table that a run wrote for an asset, of one partition or of its only one, at its last attempt."""
    written = artifacts.select().where(artifacts.c.run_id == run_id, artifacts.c.asset_key == asset_key)
    if partition is not None:
        written = written.where(artifacts.c.partition_key == partition)
    row = connection.execute(written.order_by(artifacts.c.written_at.desc())).first()
    return None if row is None else Artifact(*row)


def latest(connection: sa.Connection, asset_key: str, partition: str | None = None) -> Artifact | None:
    """The last table that was written for an asset, of one partition or of any."""
    written = artifacts.select().where(artifacts.c.asset_key == asset_key)
    if partition is not None:
        written = written.where(artifacts.c.partition_key == partition)
    row = connection.execute(written.order_by(artifacts.c.written_at.desc())).first()
    return None if row is None else Artifact(*row)


def by_partition(connection: sa.Connection, asset_key: str) -> dict[str, Artifact]:
    """The last table of each partition of an asset, in the order in which they were written."""
    partitioned = artifacts.select().where(artifacts.c.asset_key == asset_key, artifacts.c.partition_key.is_not(None))
    found: dict[str, Artifact] = {}
    for row in connection.execute(partitioned.order_by(artifacts.c.written_at, artifacts.c.artifact_id)):
        written = Artifact(*row)
        found.pop(str(written.partition_key), None)
        found[str(written.partition_key)] = written
    return found
