"""What the installation's log says of some runs, under the first checkpoint that covers their seals.

The first one, whatever came later: so that whoever is shown the evidence of a run is always shown the same.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import NamedTuple

import sqlalchemy as sa

from elspeth_dagster.core.merkle import Tree, leaf_hash
from elspeth_dagster.landscape import installation_log
from elspeth_dagster.landscape.records import Checkpoint, LogEntry
from elspeth_dagster.landscape.schema import checkpoints, log_entries

OF_RUNS = (installation_log.RUN_START, installation_log.RUN_SEAL)
OF_KEYS = (installation_log.KEY, installation_log.KEY_ROTATION)


class ProvenEntry(NamedTuple):
    """An entry of the log, and the hashes that lead from it to the root of a checkpoint."""

    entry: LogEntry
    proof: list[bytes]


def covering(connection: sa.Connection, run_ids: Collection[str]) -> Checkpoint | None:
    """The first checkpoint that covers the seals of these runs; None where there is none yet."""
    seals = [entry.log_index for entry in _of_runs(connection, run_ids) if entry.kind == installation_log.RUN_SEAL]
    if not seals:
        return None
    later = checkpoints.select().where(checkpoints.c.log_size > max(seals)).order_by(checkpoints.c.log_size)
    row = connection.execute(later.limit(1)).first()
    return None if row is None else Checkpoint(*row)


def until(connection: sa.Connection, checkpoint: Checkpoint) -> Iterator[LogEntry]:
    """The entries that a checkpoint covers, in order."""
    for entry in installation_log.entries(connection):
        if entry.log_index >= checkpoint.log_size:
            return
        yield entry


def prove(connection: sa.Connection, checkpoint: Checkpoint, run_ids: Collection[str]) -> list[ProvenEntry]:
    """The log's entries about these runs, and about keys, with their proofs."""
    tree = Tree(leaf_hash(entry.entry.encode()) for entry in until(connection, checkpoint))
    keys = _of_kinds(connection, OF_KEYS)
    wanted = {entry.log_index: entry for entry in [*_of_runs(connection, run_ids), *keys]}
    return [ProvenEntry(wanted[index], tree.inclusion(index)) for index in sorted(wanted) if index < tree.size]


def _of_runs(connection: sa.Connection, run_ids: Collection[str]) -> Iterator[LogEntry]:
    for entry in _of_kinds(connection, OF_RUNS):
        if json.loads(entry.entry).get("run_id") in run_ids:
            yield entry


def _of_kinds(connection: sa.Connection, kinds: Collection[str]) -> Iterator[LogEntry]:
    of_them = log_entries.select().where(log_entries.c.kind.in_(kinds)).order_by(log_entries.c.log_index)
    yield from (LogEntry(*row) for row in connection.execute(of_them))
