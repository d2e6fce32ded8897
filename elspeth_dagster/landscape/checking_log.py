"""The installation's log, held to itself, to its checkpoints and to those that are held outside.

Entries are numbered without a gap. Every checkpoint, in the database or outside of it, has the root that the log had at
its size; a log that was rolled back is shorter than one of them, one that was rewritten has another root. Keys take
over from one another by an entry that the one before has signed.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from elspeth_dagster.core.canonical import Json, canonical_json
from elspeth_dagster.core.checkpoints import LogCheckpoint
from elspeth_dagster.core.errors import NoteError
from elspeth_dagster.core.merkle import Frontier, leaf_hash
from elspeth_dagster.core.notes import Note, Verifier
from elspeth_dagster.landscape import installation_log
from elspeth_dagster.landscape.findings import Finding, Report
from elspeth_dagster.landscape.records import LogEntry
from elspeth_dagster.landscape.schema import checkpoints, runs, seals


@dataclass
class Log:
    """What the log says, as far as it holds together."""

    origin: str | None = None
    size: int = 0
    starts: dict[str, int] = field(default_factory=dict)
    seals: dict[str, dict[str, Json]] = field(default_factory=dict)
    keys: list[Verifier] = field(default_factory=list)
    key_index: int | None = None
    roots: dict[int, bytes] = field(default_factory=dict)


class Outside:
    """A checkpoint that is held outside of the database, and where."""

    def __init__(self, place: str, note: str) -> None:
        self.place, self.note = place, note


def check_log(
    connection: sa.Connection, outside: Sequence[Outside], trusted: Sequence[Verifier], report: Report
) -> Log:
    """Read the log and report whatever is wrong with it."""
    own = [Outside("this database", note) for note in connection.scalars(_notes())]
    read = list(_read([*own, *outside], report))
    log = _walk(connection, {checkpoint.size for _, _, checkpoint in read}, report)
    _check_trust(log, trusted, report)
    for place, note, checkpoint in read:
        report.add(*_held_to(log, place, note, checkpoint))
    if log.size and not any(place.place == "this database" and told.size == log.size for place, _, told in read):
        report.remarks.append("the log's last entries are under no checkpoint yet")
    _check_runs(connection, log, report)
    return log


def _notes() -> sa.Select[Any]:
    return sa.select(checkpoints.c.note).order_by(checkpoints.c.log_size)


def _read(held: Iterable[Outside], report: Report) -> Iterator[tuple[Outside, Note, LogCheckpoint]]:
    for each in held:
        try:
            note = Note.read(each.note)
            yield each, note, LogCheckpoint.read(note.text)
        except NoteError as error:
            report.add(Finding("anchor", f"a checkpoint in {each.place} can't be read: {error}"))


def _walk(connection: sa.Connection, wanted: set[int], report: Report) -> Log:
    """Go through the entries once, and keep the roots at the sizes that are wanted."""
    log, frontier = Log(), Frontier()
    for entry in installation_log.entries(connection):
        told = _told(entry, log.size)
        if isinstance(told, str):
            report.add(Finding("log", told, None, "log_entries", {"log_index": entry.log_index}))
            told = {}
        frontier.add(leaf_hash(entry.entry.encode()))
        log.size += 1
        if log.size in wanted:
            log.roots[log.size] = frontier.root()
        report.add(*_take(log, entry, told))
    return log


def _told(entry: LogEntry, place: int) -> dict[str, Json] | str:
    """What an entry says; or what is wrong with it."""
    told = None
    with suppress(ValueError):
        told = json.loads(entry.entry)
    if type(told) is not dict or canonical_json(told) != entry.entry.encode():
        return "the entry is not canonical JSON: it was changed"
    if (told.get("index"), told.get("kind")) != (entry.log_index, entry.kind):
        return "the entry says to be another one: it was changed"
    if entry.log_index != place:
        return f"this is entry {place} by its place: {entry.log_index - place} entries before it are missing"
    return told


def _take(log: Log, entry: LogEntry, told: Mapping[str, Any]) -> Iterator[Finding]:
    match told.get("kind"):
        case installation_log.BEGIN:
            log.origin = f"elspeth-dagster/{told.get('installation')}"
        case installation_log.RUN_START:
            log.starts[str(told.get("run_id"))] = entry.log_index
        case installation_log.RUN_SEAL:
            log.seals[str(told.get("run_id"))] = dict(told)
        case installation_log.KEY | installation_log.KEY_ROTATION:
            if what := _take_key(log, entry, told):
                yield Finding("signature", what, None, "log_entries", {"log_index": entry.log_index})


def _take_key(log: Log, entry: LogEntry, told: Mapping[str, Any]) -> str | None:
    """Take the key that signs from here on; or say why it may not."""
    try:
        key = Verifier.read(str(told.get("vkey", told.get("new"))))
    except NoteError as error:
        return f"the entry names no key: {error}"
    if told["kind"] == installation_log.KEY:
        if log.keys:
            return "a second first key is named: keys take over by rotation"
        log.key_index = entry.log_index
    elif not log.keys or not _is_handed_over(log, told):
        return f"key {key.name} took over without the signature of the one before"
    log.keys.append(key)
    return None


def _is_handed_over(log: Log, told: Mapping[str, Any]) -> bool:
    before = log.keys[-1]
    said = installation_log.rotation(str(log.origin), before.vkey, str(told.get("new")))
    try:
        signature = b64decode(str(told.get("signature")), validate=True)
    except ValueError:
        return False
    return told.get("old") == before.vkey and before.verifies(signature, said.decode())


def _check_trust(log: Log, trusted: Sequence[Verifier], report: Report) -> None:
    """Whether the keys are those that somebody trusts who knows them from elsewhere."""
    if not log.keys:
        report.remarks.append("the record is not signed: set ELSPETH_SIGNING_KEY")
        if trusted:
            report.add(
                Finding("signature", "the record names no key at all, so nothing is signed by the one you trust")
            )
        return
    names = {key.vkey for key in log.keys}
    for key in trusted:
        if key.vkey not in names:
            report.add(Finding("signature", f"the record is signed by {log.keys[-1].vkey}, not by {key.vkey}"))
    if not trusted:
        report.remarks.append(
            f"the key is the one that the record itself names, {log.keys[-1].vkey}: whoever rewrote all of it could "
            "have named his own. Give the one you know by --key"
        )


def _held_to(log: Log, held: Outside, note: Note, told: LogCheckpoint) -> Iterator[Finding]:
    """What a checkpoint says against the log as it is."""
    kind = "log" if held.place == "this database" else "anchor"
    here = f"the checkpoint of {told.size} entries in {held.place}"
    if told.origin != log.origin:
        yield Finding(kind, f"{here} is of another installation, {told.origin}")
    elif told.size > log.size:
        lost = told.size - log.size
        yield Finding(kind, f"{here} knows {lost} entries that are gone: the record was rolled back, or runs deleted")
    elif told.size and log.roots.get(told.size) != told.root:
        yield Finding(kind, f"{here} has another root: an entry among the first {told.size} was changed")
    try:
        signers = note.signed_by(log.keys)
    except NoteError as error:
        yield Finding("signature", f"{here}: {error}")
        return
    if not signers and log.key_index is not None and told.size > log.key_index:
        yield Finding("signature", f"{here} is not signed by a key of the record")


def _check_runs(connection: sa.Connection, log: Log, report: Report) -> None:
    """Every run that began is there, and every seal that was made."""
    there = set(connection.scalars(sa.select(runs.c.run_id)))
    for run_id in sorted((log.starts.keys() | log.seals.keys()) - there):
        report.add(Finding("run", "the log knows this run, and it is gone from the record", run_id, touches_all=True))
    sealed = set(connection.scalars(sa.select(seals.c.run_id)))
    for run_id in sorted((log.seals.keys() & there) - sealed):
        report.add(Finding("seal", "the log knows a seal of this run, and it is gone", run_id, "seals"))


def is_logged(log: Log, run_id: str, note: str, size: int) -> bool:
    """Whether the log's entry about a run's seal is about this one."""
    entry = log.seals.get(run_id, {})
    return entry.get("note_sha256") == hashlib.sha256(note.encode()).hexdigest() and entry.get("size") == size
