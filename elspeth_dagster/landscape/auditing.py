"""Verify: whether the record is whole and unchanged, as far as that can be known, and what is in doubt if not.

log        held to itself, to its checkpoints, to those held outside
seal       of each run: signed by the record's key, in the log, over the records as they are
rules      of the record, whatever constraints the database has left
payloads   have the bytes that their names say
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from elspeth_dagster.core.canonical import PREFIX, canonical_json
from elspeth_dagster.core.checkpoints import RunSeal
from elspeth_dagster.core.errors import NoteError, NotOnRecordError, SettingsError
from elspeth_dagster.core.notes import Note, Verifier
from elspeth_dagster.landscape import anchoring, sealing
from elspeth_dagster.landscape.checking_log import Log, Outside, check_log, is_logged
from elspeth_dagster.landscape.checking_payloads import check_payloads
from elspeth_dagster.landscape.checking_rules import check_rules, references
from elspeth_dagster.landscape.comparing_seals import compare, tree_of
from elspeth_dagster.landscape.findings import Finding, Progress, Report
from elspeth_dagster.landscape.ledger import Landscape, now
from elspeth_dagster.landscape.records import Seal
from elspeth_dagster.landscape.schema import runs as runs_table
from elspeth_dagster.landscape.timestamping import check_timestamps

LATEST = "latest"
NO_OUTSIDE = (
    "no checkpoint held outside was given: a record rolled back, or rewritten by whoever has the key, would not be "
    "noticed. Set ELSPETH_ANCHORS, or give --anchor"
)


def verify(
    landscape: Landscape,
    run_ids: Sequence[str] | None = None,
    *,
    anchors: Sequence[str] = (),
    keys: Sequence[Verifier] = (),
    beside: Sequence[Outside] = (),
    certificates: Path | None = None,
    progress: Progress = lambda what, count: None,
) -> Report:
    """Verify some runs, or all of them, in one consistent view.

    `anchors` are files, folders or urls with checkpoints, beside the landscape's own; `keys` those that are trusted;
    `beside` checkpoints from where they are convenient, which don't count as held outside; `certificates` a PEM file
    with those that timestamping services are trusted by. Raises SettingsError for an anchor that can't be read.
    """
    outside = list(held_outside([*anchors, *landscape.anchors], must_be=len(anchors)))
    trusted = [*keys, *([landscape.signer.verifier] if landscape.signer else [])]
    with landscape.read() as connection:
        report = audit(connection, run_ids, [*outside, *beside], trusted, progress)
        if beside and not outside:
            report.remarks.append(NO_OUTSIDE)
        check_timestamps(connection, certificates, report)
        if landscape.anchors:
            report.remarks += overdue(connection)
    return report


def audit(
    connection: sa.Connection,
    run_ids: Sequence[str] | None = None,
    outside: Sequence[Outside] = (),
    trusted: Sequence[Verifier] = (),
    progress: Progress = lambda what, count: None,
) -> Report:
    """The same of what a connection sees, given the checkpoints that are held outside."""
    report = Report()
    with _whatever_cannot_be_read(report, None):
        log = check_log(connection, outside, trusted, report)
        if run_ids is None:
            report.add(*references(connection))
        for run_id in _named(connection, run_ids):
            report.runs.append(run_id)
            with _whatever_cannot_be_read(report, run_id):
                _verify_run(connection, run_id, log, report, progress)
    if not outside:
        report.remarks.append(NO_OUTSIDE)
    return report


@contextmanager
def _whatever_cannot_be_read(report: Report, run_id: str | None) -> Iterator[None]:
    """A record so damaged that it can't even be read is a finding, not the end of the verification."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, ValueError, TypeError, UnicodeError) as error:
        report.add(
            Finding("changed", f"what is stored can't be read: {type(error).__name__}", run_id, touches_all=True)
        )


def held_outside(places: Sequence[str], must_be: int = 0) -> Iterator[Outside]:
    """The checkpoints at anchors; the first `must_be` of them have to be there."""
    for number, place in enumerate(places):
        name = anchoring.names([place])[0]
        try:
            notes = anchoring.held(place)
        except Exception as error:  # whatever a file system or its driver raises
            if number < must_be:
                raise SettingsError(f"anchor {name} can't be read: {type(error).__name__}") from None
            continue
        if number < must_be and not notes:
            raise SettingsError(f"anchor {name} holds no checkpoint")
        yield from (Outside(name, note) for note in notes)


def _named(connection: sa.Connection, run_ids: Sequence[str] | None) -> list[str]:
    if run_ids is not None:
        return list(run_ids)
    return list(connection.scalars(sa.select(runs_table.c.run_id).order_by(runs_table.c.started_at)))


def run_named(connection: sa.Connection, name: str) -> str:
    """The id of the run that a name means: `latest`, an id, or the first characters of one.

    Nothing else of the run is read, which may be damaged. Raises NotOnRecordError, also when several fit.
    """
    if name == LATEST:
        last = connection.scalar(sa.select(runs_table.c.run_id).order_by(runs_table.c.started_at.desc()).limit(1))
        found = [] if last is None else [last]
    else:
        begins_so = sa.func.substr(runs_table.c.run_id, 1, len(name)) == name
        in_full_first = sa.func.length(runs_table.c.run_id)
        ids = sa.select(runs_table.c.run_id).where(begins_so).order_by(in_full_first).limit(2)
        found = list(connection.scalars(ids))
    if not found or (len(found) > 1 and found[0] != name):
        raise NotOnRecordError(f"{'no' if not found else 'more than one'} run {name!r} is on record")
    return str(found[0])


def _status(connection: sa.Connection, run_id: str) -> str | None:
    """How a run ended, as it is stored."""
    status: str | None = connection.scalar(sa.text("SELECT status FROM run_ends WHERE run_id = :run"), {"run": run_id})
    return status


def _verify_run(connection: sa.Connection, run_id: str, log: Log, report: Report, progress: Progress) -> None:
    has_ended = _status(connection, run_id) is not None
    seal = sealing.of_run(connection, run_id)
    told = None if seal is None else _told(connection, seal, log, report)
    if told is not None:
        compare(connection, told, report, progress)
    else:
        report.records += sum(tree_of(connection, run_id, progress).counts.values())
        report.add(*_no_seal(run_id, seal, log, has_ended=has_ended))
        if not has_ended and seal is None:
            report.remarks.append(f"run {run_id} has not ended: what is on record so far was looked at")
    check_rules(connection, run_id, report, has_ended=has_ended)
    check_payloads(connection, run_id, report, progress)


def _no_seal(run_id: str, seal: Seal | None, log: Log, *, has_ended: bool) -> Iterator[Finding]:
    if has_ended and seal is None and run_id not in log.seals:
        what = "this run has ended and is not sealed: `elspeth-dagster verify --seal-missing` seals it as it is now"
        yield Finding("seal", what, run_id, "seals", touches_all=True)
    if not has_ended and (seal is not None or run_id in log.seals):
        yield Finding("deleted", "this run was sealed, and its end is gone", run_id, "run_ends", touches_all=True)


def _told(connection: sa.Connection, seal: Seal, log: Log, report: Report) -> RunSeal | None:
    """What a seal's note says, once it is known whose it is."""
    try:
        note = Note.read(seal.note)
        told, signers = RunSeal.read(note.text), note.signed_by(log.keys)
    except NoteError as error:
        report.add(Finding("signature", str(error), seal.run_id, "seals", touches_all=True))
        return None
    report.add(*_wrong_with(connection, seal, told, log))
    if not signers:
        report.add(*_unsigned(seal, log, report))
    return told if told.run_id == seal.run_id else None


def _unsigned(seal: Seal, log: Log, report: Report) -> Iterator[Finding]:
    index = log.seals.get(seal.run_id, {}).get("index")
    if log.key_index is None or (type(index) is int and index < log.key_index):
        report.remarks.append(f"the seal of run {seal.run_id} is not signed: there was no key")
    else:
        yield Finding("signature", "the seal is not signed by a key of the record", seal.run_id, "seals", {}, (), True)


def _wrong_with(connection: sa.Connection, seal: Seal, told: RunSeal, log: Log) -> Iterator[Finding]:
    """Where a seal's columns, its note, the log and the run say different things."""
    columns = (seal.run_id, seal.tree_size, seal.root, seal.counts, log.origin)
    said = (told.run_id, told.size, PREFIX + told.root.hex(), canonical_json(told.counts).decode(), told.origin)
    if columns != said:
        yield Finding("seal", "the seal's columns and its note say different things", seal.run_id, "seals")
    if not is_logged(log, seal.run_id, seal.note, told.size):
        yield Finding("seal", "the log knows another seal of this run, or none", seal.run_id, "seals", touches_all=True)
    if _status(connection, seal.run_id) != told.status:
        yield Finding("seal", f"it was sealed as {told.status}, and ended otherwise", seal.run_id, "run_ends")
    if told.parent is not None:
        parent = sealing.of_run(connection, told.parent[0])
        if parent is None or parent.root != PREFIX + told.parent[1].hex():
            yield Finding(
                "seal", f"run {told.parent[0]}, from which it goes on, has another root", seal.run_id, "seals"
            )


def overdue(connection: sa.Connection) -> list[str]:
    """A sentence where no checkpoint reached an anchor for a day."""
    last = anchoring.last_reached(connection)
    if last is not None and now() - last < anchoring.OVERDUE:
        return []
    since = "ever" if last is None else f"since {last:%Y-%m-%d %H:%M} UTC"
    return [f"no checkpoint reached an anchor outside {since}"]
