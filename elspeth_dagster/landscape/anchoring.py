"""Anchors: places outside of this database that checkpoints of the log are put at.

Whoever can write the database, and holds the signing key, can rewrite everything and sign it anew. What he can't
rewrite is a checkpoint that is elsewhere. An anchor is

    /audit/checkpoints.txt              a file, or an fsspec url: each checkpoint is appended
    s3://audit/checkpoints/             ending in a slash: each checkpoint is an object of its own
    command:/usr/local/bin/anchor -q    a command that gets the checkpoint on its standard input; no shell sees it
    tsa:https://tsa.example/tsr         a timestamping service (RFC 3161), whose token is kept as the receipt

What came back is on record as a receipt, a failure too. A failure stops nothing: it is told, and the next checkpoint
covers all that this one would have.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import sqlalchemy as sa

from elspeth_dagster.core.errors import SettingsError
from elspeth_dagster.landscape.ledger import Landscape, insert, now
from elspeth_dagster.landscape.records import AnchorReceipt, Checkpoint
from elspeth_dagster.landscape.schema import anchor_receipts
from elspeth_dagster.landscape.timestamping import TSA, NotStampedError, stamp

COMMAND = "command:"
FAILED = " (failed)"
PATIENCE = 30  # seconds for a command
LONGEST_RECEIPT = 2000
OVERDUE = timedelta(hours=24)


def read_anchors(text: str | None) -> tuple[str, ...]:
    """The anchors of a setting, separated by commas. Raises SettingsError for one that can't be understood."""
    anchors = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    for anchor in anchors:
        if anchor.startswith(COMMAND) and not _words(anchor):
            raise SettingsError(f"ELSPETH_ANCHORS has {COMMAND} without a command")
        if anchor.startswith(TSA) and not anchor.removeprefix(TSA).startswith(("http://", "https://")):
            raise SettingsError(f"ELSPETH_ANCHORS has {TSA} without the URL of a timestamping service")
        if not anchor.startswith(COMMAND) and "://" not in anchor and not Path(anchor).is_absolute():
            raise SettingsError(
                "ELSPETH_ANCHORS takes full paths, fsspec urls, command:… and tsa:…, with commas between"
            )
    return anchors


def _words(anchor: str) -> list[str]:
    try:
        return shlex.split(anchor.removeprefix(COMMAND))
    except ValueError as error:
        raise SettingsError(f"ELSPETH_ANCHORS has a command with an open quotation: {error}") from None


def anchor(landscape: Landscape, made: Checkpoint) -> list[str]:
    """Put a checkpoint at every anchor where it is not yet. Returns what failed, in sentences without secrets."""
    with landscape.read() as connection:
        there = set(connection.scalars(_receipts(made.log_size)))
    receipts = []
    for name, place in zip(names(landscape.anchors), landscape.anchors, strict=True):
        if name not in there:
            receipts.append(_put(place, name, made))
    _keep(landscape, [receipt for receipt in receipts if receipt.anchor not in there])
    failed = [receipt for receipt in receipts if receipt.anchor.endswith(FAILED)]
    return [f"Checkpoint {made.log_size} did not reach {each.anchor}: {each.receipt}" for each in failed]


def _receipts(size: int) -> sa.Select[str]:
    return sa.select(anchor_receipts.c.anchor).where(anchor_receipts.c.log_size == size)


def _keep(landscape: Landscape, receipts: Sequence[AnchorReceipt]) -> None:
    def add(connection: sa.Connection) -> None:
        for receipt in receipts:
            if receipt.anchor not in set(connection.scalars(_receipts(receipt.log_size))):
                insert(connection, [receipt])

    if receipts:
        landscape.decide(add)


def names(anchors: Sequence[str]) -> list[str]:
    """What anchors are called on record: without users and passwords, and of a command its program alone."""
    plain = [_plain(anchor) for anchor in anchors]
    seen: Counter[str] = Counter()
    named = []
    for name in plain:
        seen[name] += 1
        named.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return named


def _plain(anchor: str) -> str:
    if anchor.startswith(COMMAND):
        return f"{COMMAND}{_words(anchor)[0]}"
    return re.sub(r"[?#].*", "", re.sub(r"//[^/@]*@", "//", anchor))


def _put(place: str, name: str, made: Checkpoint) -> AnchorReceipt:
    try:
        receipt = _kept_by(place, made)
    except Exception as error:  # whatever a file system or its driver raises
        return AnchorReceipt(made.log_size, name + FAILED, _why(error), now())
    return AnchorReceipt(made.log_size, name, receipt, now())


def _kept_by(place: str, made: Checkpoint) -> str:
    """Hand a checkpoint over; returns what came back."""
    if place.startswith(COMMAND):
        return _run(place, made)[:LONGEST_RECEIPT]
    if place.startswith(TSA):
        return stamp(place.removeprefix(TSA), made.note.encode())
    return _write(place, made)


def _why(error: Exception) -> str:
    """What kind of failure; its text may hold credentials, the system's own words don't."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error) if isinstance(error, _CommandFailed | NotStampedError) else type(error).__name__


class _CommandFailed(Exception):  # noqa: N818  (its text is ours)
    """A command did not end well."""


def _run(place: str, made: Checkpoint) -> str:
    try:
        told = made.note.encode()
        done = subprocess.run(_words(place), input=told, capture_output=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise _CommandFailed(f"the command took more than {PATIENCE} seconds") from None
    if done.returncode:
        raise _CommandFailed(f"the command ended with {done.returncode}")
    return done.stdout.decode(errors="replace").strip() or "the command ended with 0"


def _write(place: str, made: Checkpoint) -> str:
    data = f"{made.note}\n".encode()
    if place.endswith("/"):
        place, mode = f"{place}{made.log_size:012d}.note", "wb"
    else:
        mode = "ab"
    if "://" in place:
        with fsspec.open(place, mode) as to:
            to.write(data)
    else:
        _write_file(Path(place), mode, data)
    return f"{len(data)} bytes {'appended' if mode == 'ab' else 'written'}"


def _write_file(path: Path, mode: str, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open(mode) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


NOTE = re.compile(r"^\S+/log\n[0-9]+\n\S+\n\n(?:— .*\n)*", re.MULTILINE)


def notes_in(text: str) -> Iterator[str]:
    """The checkpoints in what an anchor holds."""
    return (found[0] for found in NOTE.finditer(text))


def held(place: str) -> list[str]:
    """The checkpoints at an anchor that can be read: a file, a folder or an fsspec url. Raises OSError."""
    if place.startswith((COMMAND, TSA)):
        return []
    files = fsspec.open_files(f"{place}*.note" if place.endswith("/") else place, "rb")
    texts = []
    for file in files:
        with file as stream:
            texts.append(stream.read().decode(errors="replace"))
    return [note for text in texts for note in notes_in(text)]


def last_reached(connection: sa.Connection) -> datetime | None:
    """When a checkpoint last reached an anchor; None if none ever did."""
    reached = sa.select(sa.func.max(anchor_receipts.c.anchored_at)).where(
        ~anchor_receipts.c.anchor.endswith(FAILED, autoescape=True)
    )
    last: datetime | None = connection.scalar(reached)
    return last
