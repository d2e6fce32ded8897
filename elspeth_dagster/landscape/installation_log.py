"""The installation's log: what no single run can tell of itself, that it began, and that it was sealed.

Entries are numbered from 0 without a gap. Each is the leaf of a Merkle tree that only grows, and after each a
checkpoint is made: the tree's size and root as a signed note. Whoever holds one, outside of this database, can tell
later whether the log still begins with what it was then. A run that is deleted leaves its entry; a log that was rolled
back is shorter than its own checkpoint.

The first signing key is named by an entry; another one takes over only by an entry that the one before has signed.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from elspeth_dagster.core import checkpoints
from elspeth_dagster.core.canonical import Json, canonical_json
from elspeth_dagster.core.checkpoints import LogCheckpoint
from elspeth_dagster.core.errors import NoteError, SettingsError
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.core.merkle import Frontier, leaf_hash
from elspeth_dagster.core.notes import Signer, Verifier, unsigned
from elspeth_dagster.landscape.ledger import Landscape, insert, now
from elspeth_dagster.landscape.records import Checkpoint, LogEntry
from elspeth_dagster.landscape.schema import checkpoints as checkpoints_table
from elspeth_dagster.landscape.schema import log_entries
from elspeth_dagster.landscape.streaming import streamed

BEGIN, RUN_START, RUN_SEAL, MIGRATION = "begin", "run_start", "run_seal", "migration"
KEY, KEY_ROTATION = "key", "key_rotation"
PAGE = 2000


class Head(NamedTuple):
    """The log as it is: whose it is, how long, and its root."""

    origin: str
    size: int
    root: bytes


def append(connection: sa.Connection, kind: str, **told: Json) -> int:
    """Append an entry, the first one after `begin`; returns its index. The transaction must be alone."""
    begun(connection)
    index = length(connection)
    insert(connection, [_entry(index, kind, told)])
    return index


def begun(connection: sa.Connection) -> str:
    """Whose log this is; with the first entry it gets a name. The transaction must be alone."""
    if (whose := origin(connection)) is not None:
        return whose
    installation = new_id()
    insert(connection, [_entry(0, BEGIN, {"installation": installation})])
    return checkpoints.origin(installation)


def _entry(index: int, kind: str, told: dict[str, Json]) -> LogEntry:
    at = _written_instant(now())
    return LogEntry(index, kind, canonical_json({**told, "index": index, "kind": kind, "at": at}).decode())


def _written_instant(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def origin(connection: sa.Connection) -> str | None:
    """Whose log this is; None as long as nothing is in it."""
    first = connection.scalar(sa.select(log_entries.c.entry).where(log_entries.c.log_index == 0))
    return None if first is None else checkpoints.origin(str(json.loads(first).get("installation")))


def entries(connection: sa.Connection) -> Iterator[LogEntry]:
    """All entries in order, as they come."""
    with streamed(connection, log_entries.select().order_by(log_entries.c.log_index), PAGE) as found:
        for page in found.partitions(PAGE):
            yield from (LogEntry(*row) for row in page)


def of_kinds(connection: sa.Connection, *kinds: str) -> Iterator[dict[str, Json]]:
    """What the entries of these kinds say, in order."""
    of_them = sa.select(log_entries.c.entry).where(log_entries.c.kind.in_(kinds)).order_by(log_entries.c.log_index)
    return (json.loads(entry) for entry in connection.scalars(of_them))


def length(connection: sa.Connection) -> int:
    """How many entries there are, if none is missing."""
    last = connection.scalar(sa.select(sa.func.max(log_entries.c.log_index)))
    return 0 if last is None else int(last) + 1


def head(connection: sa.Connection) -> Head | None:
    """The log as it is; None as long as nothing is in it."""
    whose, frontier = origin(connection), Frontier()
    for entry in entries(connection):
        frontier.add(leaf_hash(entry.entry.encode()))
    return None if whose is None else Head(whose, frontier.size, frontier.root())


def key_in_force(connection: sa.Connection) -> str | None:
    """The verifier key that the log names last; None while nothing is signed."""
    named = list(of_kinds(connection, KEY, KEY_ROTATION))
    return None if not named else str(named[-1].get("vkey", named[-1].get("new")))


def see_to_key(connection: sa.Connection, signer: Signer | None) -> bool:
    """Whether what is made now may be signed by this signer, or by none; the first key is entered into the log.

    Without a signer nothing is made once there is a key: whoever holds that does it later. Raises SettingsError for
    another key than the one in force. The transaction must be alone.
    """
    in_force = key_in_force(connection)
    if signer is None:
        return in_force is None
    if in_force is None:
        append(connection, KEY, vkey=signer.verifier.vkey)
    elif in_force != signer.verifier.vkey:
        raise SettingsError(
            f"ELSPETH_SIGNING_KEY is {signer.verifier.vkey}, but the record is signed by {in_force}. "
            "Set that key, or let it hand over: `elspeth-dagster keys rotate`."
        )
    return True


def may_make(landscape: Landscape) -> bool:
    """`see_to_key` with the signer of this landscape, without a transaction where nothing is to be entered."""
    with landscape.read() as connection:
        in_force = key_in_force(connection)
    if in_force is None and landscape.signer is None:
        return True
    return landscape.decide(lambda connection: see_to_key(connection, landscape.signer))


def rotate(landscape: Landscape, old: Signer, new: Verifier) -> int:
    """Let a new key sign from now on; the old one says so. Returns the entry's index.

    Raises SettingsError unless the old key is in force, NoteError for the same key again.
    """
    if old.verifier.vkey == new.vkey:
        raise NoteError("the new key is the old one")

    def hand_over(connection: sa.Connection) -> int:
        see_to_key(connection, old)
        said = rotation(str(origin(connection)), old.verifier.vkey, new.vkey)
        signature = b64encode(old.sign(said)).decode()
        return append(connection, KEY_ROTATION, old=old.verifier.vkey, new=new.vkey, signature=signature)

    return landscape.decide(hand_over)


def rotation(whose: str, old: str, new: str) -> bytes:
    """What the old key signs when another takes over."""
    return canonical_json({"kind": KEY_ROTATION, "origin": whose, "old": old, "new": new})


def note(text: str, signer: Signer | None) -> str:
    """The text as a note, signed where there is a signer."""
    return unsigned(text) if signer is None else signer.signed(text)


def checkpoint(landscape: Landscape) -> Checkpoint | None:
    """The log's newest checkpoint, made where it is missing; None where nothing may be made (see `see_to_key`)."""
    if not may_make(landscape):
        return None
    with landscape.read() as connection:
        known = _checkpoint_at(connection, length(connection))
        found = None if known else head(connection)
    if found is None:
        return known
    made = Checkpoint(found.size, note(LogCheckpoint(*found).text(), landscape.signer), now())

    def add(connection: sa.Connection) -> Checkpoint:
        faster = _checkpoint_at(connection, made.log_size)
        if faster is None:
            insert(connection, [made])
        return faster or made

    return landscape.decide(add)


def newest_note(connection: sa.Connection) -> str | None:
    """The newest checkpoint that was made, as a note."""
    newest = sa.select(checkpoints_table.c.note).order_by(checkpoints_table.c.log_size.desc()).limit(1)
    note: str | None = connection.scalar(newest)
    return note


def _checkpoint_at(connection: sa.Connection, size: int) -> Checkpoint | None:
    row = connection.execute(checkpoints_table.select().where(checkpoints_table.c.log_size == size)).first()
    return None if row is None else Checkpoint(*row)
