"""Which file a record was read from, by what the op that admitted it told when it had read its source.

    {"files": [{"source": "a.csv", "records": 2, …}, {"source": "b.csv", "records": 3, …}]}    of an inbox
    {"source": "rows.csv", …}                                                                  of a single file

Records are numbered through all files of a slice, in the order in which these were read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from elspeth_dagster.landscape.schema import node_state_ends, node_states
from elspeth_dagster.landscape.words import StateStatus


class SourceFile(NamedTuple):
    """A file as it was read: its path or URL, `sha256:…` of its bytes, their number."""

    name: str
    sha256: str
    size: int


def file_of(connection: sa.Connection, run_id: str, node_id: str, row_index: int) -> SourceFile | None:
    """The file of a record; None for an upstream asset's, and until the source has been read to its end."""
    of_node = (node_states.c.run_id == run_id, node_states.c.node_id == node_id)
    read = (
        sa.select(node_state_ends.c.detail)
        .join(node_states, node_states.c.state_id == node_state_ends.c.state_id)
        .where(*of_node, node_state_ends.c.status == StateStatus.COMPLETED)
        .order_by(node_states.c.attempt.desc())
    )
    detail = connection.scalar(read.limit(1))
    told = json.loads(detail) if detail else {}
    return _of_many(told["files"], row_index) if "files" in told else _file(told)


def _of_many(files: list[Mapping[str, Any]], row_index: int) -> SourceFile | None:
    first = 0
    for one in files:
        first += one["records"]
        if row_index < first:
            return _file(one)
    return None


def _file(told: Mapping[str, Any]) -> SourceFile | None:
    return SourceFile(told["source"], told["sha256"], told["size"]) if told.get("sha256") else None
