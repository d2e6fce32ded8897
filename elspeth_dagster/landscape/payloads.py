"""Bytes by the name of their hash, checked whenever they are read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple, NoReturn

import sqlalchemy as sa

from elspeth_dagster.core.canonical import Json, keyed_sha256, sha256
from elspeth_dagster.core.errors import ErasedError, LandscapeError
from elspeth_dagster.landscape.records import Erasure, Payload
from elspeth_dagster.landscape.schema import erased_payloads, erasures, payloads, scopes

AT_ONCE = 500


def read(connection: sa.Connection, ref: str) -> bytes:
    """The bytes of a payload. Raises LandscapeError when they aren't those that the name promises."""
    return read_many(connection, [ref])[ref]


def read_json(connection: sa.Connection, ref: str) -> Json:
    """The JSON value that a payload holds."""
    return json.loads(read(connection, ref))


def read_many(connection: sa.Connection, refs: Iterable[str]) -> dict[str, bytes]:
    """The bytes of several payloads, by name. Raises ErasedError for one that was erased: when, why and by whom."""
    found = read_or_erased(connection, refs)
    for ref, data in found.items():
        if isinstance(data, Erasure):
            raise ErasedError(f"payload {ref} was erased {told(data)}: its name is left, its bytes are gone")
    return {ref: data for ref, data in found.items() if isinstance(data, bytes)}


def read_or_erased(connection: sa.Connection, refs: Iterable[str]) -> dict[str, bytes | Erasure]:
    """The bytes of several payloads by name, and of those that were erased, the erasure."""
    wanted = sorted(set(refs))
    found: dict[str, bytes | Erasure] = {}
    erased = []
    for kept in _kept(connection, wanted):
        if kept.payload.is_erased:
            erased.append(kept.payload.ref)
        else:
            found[kept.payload.ref] = checked(kept)
    found |= _erasures(connection, erased)
    if missing := [ref for ref in wanted if ref not in found]:
        _raise_missing(missing[0], is_empty=missing[0] in erased)
    return found


def values_in(data: bytes | Erasure) -> tuple[dict[str, Json], Erasure | None]:
    """The values that a payload holds; none where it was erased, and how."""
    return ({}, data) if isinstance(data, Erasure) else (json.loads(data), None)


def told(erasure: Erasure) -> str:
    """When, why and by whom something was erased, as a part of a sentence."""
    return f"on {erasure.at:%Y-%m-%d} under {erasure.reason} by {erasure.erased_by}"


def _erasures(connection: sa.Connection, refs: list[str]) -> dict[str, Erasure]:
    by = sa.select(erased_payloads.c.ref, *erasures.c).join(
        erasures, erasures.c.erasure_id == erased_payloads.c.erasure_id
    )
    found: dict[str, Erasure] = {}
    for some in _portions(refs):
        found |= {ref: Erasure(*row) for ref, *row in connection.execute(by.where(erased_payloads.c.ref.in_(some)))}
    return found


def _raise_missing(ref: str, *, is_empty: bool) -> NoReturn:
    if is_empty:
        raise LandscapeError(f"payload {ref} has lost its bytes, and no erasure on record names it: it was changed")
    raise LandscapeError(f"payload {ref} is not in the landscape")


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
    for kept in _kept(connection, fitting):
        with suppress(LandscapeError):
            found[kept.payload.ref] = checked(kept)
    return found


def _sizes(connection: sa.Connection, refs: list[str]) -> Iterator[tuple[str, int]]:
    for some in _portions(refs):
        sizes = sa.select(payloads.c.ref, payloads.c.size).where(payloads.c.ref.in_(some))
        yield from ((ref, size) for ref, size in connection.execute(sizes))


class Kept(NamedTuple):
    """A payload as it is stored, the key of its scope, and the payload that it leans on with its bytes."""

    payload: Payload
    key: bytes | None
    dictionary: bytes = b""


def _kept(connection: sa.Connection, refs: list[str]) -> Iterator[Kept]:
    for some in _portions(refs):
        found = list(_stored(connection, some))
        whole = (kept.payload for kept in found if not kept.payload.is_erased)
        leant_on = sorted({payload.dictionary_ref for payload in whole if payload.dictionary_ref})
        dictionaries = {one.payload.ref: checked(one) for one in _stored(connection, leant_on)}
        for kept in found:
            yield kept._replace(dictionary=dictionaries.get(kept.payload.dictionary_ref or "", b""))


def _stored(connection: sa.Connection, refs: list[str]) -> Iterator[Kept]:
    stored = sa.select(*payloads.c, scopes.c.naming_key).outerjoin(scopes, scopes.c.scope_id == payloads.c.scope_id)
    for some in _portions(refs):
        for *row, key in connection.execute(stored.where(payloads.c.ref.in_(some))):
            yield Kept(Payload(*row), key)


def _portions(refs: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(refs), AT_ONCE):
        yield refs[start : start + AT_ONCE]


def checked(kept: Kept) -> bytes:
    """A payload's bytes. Raises ErasedError when they are gone, LandscapeError when they don't have its name."""
    payload = kept.payload
    if payload.is_erased:
        raise ErasedError(f"payload {payload.ref} was erased: its {payload.size} bytes are gone, its name is left")
    try:
        data = payload.data(kept.dictionary)
    except ValueError:
        data = None
    if data is None or len(data) != payload.size or _name(data, kept) != payload.ref:
        raise LandscapeError(f"payload {payload.ref} holds other bytes than its name says: the record was changed")
    return data


def _name(data: bytes, kept: Kept) -> str:
    scope_id = kept.payload.scope_id
    return sha256(data) if scope_id is None else keyed_sha256(scope_id, kept.key or b"", data)
