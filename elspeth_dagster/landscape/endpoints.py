"""Which endpoint of several a call was sent to: its head says so, beside the address.

Heads are few: one for each endpoint, another where its token, key or version is another. So a call costs nothing more,
and what was sealed before there were endpoints is as it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import sqlalchemy as sa

from elspeth_dagster.landscape import payloads

Heads = dict[str, str | None]


def endpoints_of(connection: sa.Connection, head_refs: Iterable[str]) -> Heads:
    """The endpoint that each head names; None where there was no pool."""
    found = payloads.read_or_erased(connection, sorted(set(head_refs)))
    return {ref: endpoint_in(data) if isinstance(data, bytes) else None for ref, data in found.items()}


def endpoint_in(head: bytes) -> str | None:
    """The endpoint that a head's bytes name."""
    said = json.loads(head)
    named = said.get("endpoint") if isinstance(said, dict) else None
    return named if isinstance(named, str) else None
