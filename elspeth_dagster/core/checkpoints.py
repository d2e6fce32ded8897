"""What the signed notes say: a run's seal, and a checkpoint of the installation's log (https://c2sp.org/tlog-checkpoint).

    elspeth-dagster/<installation>/run/<run>      elspeth-dagster/<installation>/log
    <tree size>                                   <log size>
    <root>                                        <root>
    status completed
    counts {"answers":120,…}
    parent <run> <its root>, or -

The size stands in what is signed, since a proof alone can't tell it.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode, b64encode
from typing import NamedTuple, Self

from elspeth_dagster.core.canonical import canonical_json
from elspeth_dagster.core.errors import NoteError
from elspeth_dagster.core.merkle import HASH_BYTES

PRODUCT = "elspeth-dagster"
NO_PARENT = "-"
SIZE = re.compile("0|[1-9][0-9]{0,18}")


def origin(installation: str) -> str:
    """Whose notes these are."""
    return f"{PRODUCT}/{installation}"


class LogCheckpoint(NamedTuple):
    """How the installation's log was: its size and root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The note's text."""
        return f"{self.origin}/log\n{self.size}\n{written_hash(self.root)}\n"

    @classmethod
    def read(cls, text: str) -> Self:
        """The checkpoint that a note's text states. Raises NoteError when it states none."""
        name, size, root = _lines(text, 3)
        whose, slash, log = name.rpartition("/")
        if not slash or log != "log":
            raise NoteError("the note is no checkpoint of an installation's log")
        return cls(whose, _size(size), read_hash(root))


class RunSeal(NamedTuple):
    """What a run left on record: how many records of which tables, and the root over them."""

    origin: str
    run_id: str
    size: int
    root: bytes
    status: str
    counts: dict[str, int]
    parent: tuple[str, bytes] | None = None

    def text(self) -> str:
        """The note's text."""
        parent = NO_PARENT if self.parent is None else f"{self.parent[0]} {written_hash(self.parent[1])}"
        return (
            f"{self.origin}/run/{self.run_id}\n{self.size}\n{written_hash(self.root)}\nstatus {self.status}\n"
            f"counts {canonical_json(self.counts).decode()}\nparent {parent}\n"
        )

    @classmethod
    def read(cls, text: str) -> Self:
        """The seal that a note's text states. Raises NoteError when it states none."""
        name, size, root, status, counts, parent = _lines(text, 6)
        whose, slash, run_id = name.partition("/run/")
        if not slash or not run_id:
            raise NoteError("the note is no seal of a run")
        return cls(
            whose,
            run_id,
            _size(size),
            read_hash(root),
            _after(status, "status "),
            _counts(_after(counts, "counts ")),
            _parent(_after(parent, "parent ")),
        )


def written_hash(digest: bytes) -> str:
    """A hash as notes have it."""
    return b64encode(digest).decode()


def read_hash(text: str) -> bytes:
    """The hash that is written so. Raises NoteError when it is none."""
    try:
        digest = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != HASH_BYTES:
        raise NoteError("a hash in a note is the base64 of 32 bytes")
    return digest


def _lines(text: str, number: int) -> list[str]:
    lines = text.split("\n")
    if len(lines) != number + 1 or lines[-1]:
        raise NoteError(f"the note's text doesn't have {number} lines")
    return lines[:-1]


def _size(text: str) -> int:
    if not SIZE.fullmatch(text):
        raise NoteError("a tree's size in a note is a whole number")
    return int(text)


def _after(line: str, word: str) -> str:
    if not line.startswith(word):
        raise NoteError(f"a line of the note doesn't begin with {word!r}")
    return line.removeprefix(word)


def _counts(text: str) -> dict[str, int]:
    try:
        counts = json.loads(text)
    except ValueError:
        counts = None
    if type(counts) is not dict or not all(type(count) is int and count >= 0 for count in counts.values()):
        raise NoteError("the note doesn't count a run's records")
    return counts


def _parent(text: str) -> tuple[str, bytes] | None:
    if text == NO_PARENT:
        return None
    run_id, _, root = text.rpartition(" ")
    if not run_id:
        raise NoteError("the note names neither a parent nor none")
    return run_id, read_hash(root)
