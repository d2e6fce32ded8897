"""Bytes by the name of their hash, checked whenever they are read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress

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


def read_those_that_fit(connection: sa.Connection, refs: Iterable[str], most: int) -> dict[str, bytes]:
    """The bytes of as many payloads as fit into so many bytes, by name; those that are erased or damaged are left out.

    Who needs another one reads it by itself, and learns then what is wrong with it.
    """
    fitting, left = [], most
    for ref, size in _sizes(connection, sorted(set(refs))):
        if size <= left:
            fitting.append(ref)
            left -= size
    found: dict[str, bytes] = {}
    for payload in _stored(connection, fitting):
        with suppress(LandscapeError):
            found[payload.ref] = checked(payload)
    return found


def _sizes(connection: sa.Connection, refs: list[str]) -> Iterator[tuple[str, int]]:
    for start in range(0, len(refs), AT_ONCE):
        some = sa.select(payloads.c.ref, payloads.c.size).where(payloads.c.ref.in_(refs[start : start + AT_ONCE]))
        yield from ((ref, size) for ref, size in connection.execute(some))


def _fetch(connection: sa.Connection, refs: list[str]) -> Iterator[tuple[str, bytes]]:
    for payload in _stored(connection, refs):
        yield payload.ref, checked(payload)


def _stored(connection: sa.Connection, refs: list[str]) -> Iterator[Payload]:
    for start in range(0, len(refs), AT_ONCE):
        some = payloads.select().where(payloads.c.ref.in_(refs[start : start + AT_ONCE]))
        for row in connection.execute(some):
            yield Payload(*row)


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
