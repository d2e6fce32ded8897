"""Bytes by the name of their hash, checked whenever they are read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import sqlalchemy as sa

from elspeth_dagster.core.canonical import Json, sha256
from elspeth_dagster.core.errors import ErasedError, LandscapeError
from elspeth_dagster.landscape.records import Payload
from elspeth_dagster.landscape.schema import payloads

AT_ONCE = 500


def read(connection: sa.Connection, ref: str) -> bytes:
    """The bytes of a payload. Raises LandscapeError when they aren't those that the name promises."""
    return read_many(connection, [ref])[ref]


def read_json(connection: sa.Connection, ref: str) -> Json:
    """The JSON value that a payload holds."""
    return json.loads(read(connection, ref))


def read_many(connection: sa.Connection, refs: Iterable[str]) -> dict[str, bytes]:
    """The bytes of several payloads, by name."""
    wanted = sorted(set(refs))
    found = dict(_fetch(connection, wanted))
    if missing := [ref for ref in wanted if ref not in found]:
        raise LandscapeError(f"payload {missing[0]} is not in the landscape")
    return found


def _fetch(connection: sa.Connection, refs: list[str]) -> Iterator[tuple[str, bytes]]:
    for start in range(0, len(refs), AT_ONCE):
        some = payloads.select().where(payloads.c.ref.in_(refs[start : start + AT_ONCE]))
        for row in connection.execute(some):
            yield row.ref, checked(Payload(*row))


def checked(payload: Payload) -> bytes:
    """A payload's bytes. Raises ErasedError when they are gone, LandscapeError when their hash isn't its name."""
    if payload.is_erased:
        raise ErasedError(f"payload {payload.ref} was erased: its {payload.size} bytes are gone, its hash is left")
    try:
        data = payload.data()
    except ValueError:
        data = None
    if data is None or len(data) != payload.size or sha256(data) != payload.ref:
        raise LandscapeError(f"payload {payload.ref} holds other bytes than its name says: the record was changed")
    return data
