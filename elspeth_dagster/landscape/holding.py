"""Legal holds: what may not be erased, whoever asks for it.

A hold is on a run, or on a row by its key, in whatever run (of one assessment, or of any). It is a fact; that it is
over is another one. While a hold stands, nothing that it covers is erased.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from elspeth_dagster.core.errors import NotOnRecordError, SettingsError
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.landscape.finding import find_run
from elspeth_dagster.landscape.ledger import Landscape, insert, now
from elspeth_dagster.landscape.records import LegalHold, LegalHoldRelease
from elspeth_dagster.landscape.schema import legal_hold_releases, legal_holds, nodes, rows
from elspeth_dagster.landscape.words import ScopeKind

LONGEST = 500


class Subject(NamedTuple):
    """What a hold is on, or an erasure is about: a run, or a row of an assessment (None: of any)."""

    kind: ScopeKind
    name: str
    assessment: str | None = None

    def __str__(self) -> str:
        return f"{self.kind.value} {self.name}{f' of {self.assessment}' if self.assessment else ''}"


def stated(reason: str, by: str) -> tuple[str, str]:
    """Who says why, each as one line. Raises SettingsError for a blank, a long or an unprintable one."""
    for what, text in (("reason", reason), ("name", by)):
        if not text.strip() or len(text) > LONGEST or not text.isprintable():
            raise SettingsError(f"a {what} is one line of 1 to {LONGEST} printable characters")
    return reason.strip(), by.strip()


def hold(landscape: Landscape, subject: Subject, reason: str, by: str) -> LegalHold:
    """Put a hold on a run or row that is on record.

    Raises NotOnRecordError for one that isn't, SettingsError for a reason or name that can't be kept.
    """
    reason, by = stated(reason, by)
    with landscape.read() as connection:
        subject = found(connection, subject)
    held = LegalHold(new_id(), subject.kind, subject.assessment, subject.name, reason, by, now())
    landscape.decide(lambda connection: _insert_once(connection, held))
    return held


def _insert_once(connection: sa.Connection, held: LegalHold) -> None:
    there = sa.select(sa.exists().where(legal_holds.c.hold_id == held.hold_id))
    if not connection.scalar(there):
        insert(connection, [held])


def found(connection: sa.Connection, subject: Subject) -> Subject:
    """The subject with a run's whole id. Raises NotOnRecordError when it isn't on record."""
    if subject.kind is ScopeKind.RUN:
        return subject._replace(name=find_run(connection, subject.name).run_id)
    known = sa.select(rows.c.row_key).join(nodes, _admits).where(rows.c.row_key == subject.name)
    if subject.assessment is not None:
        known = known.where(nodes.c.assessment == subject.assessment)
    if connection.scalar(known.limit(1)) is None:
        raise NotOnRecordError(f"no run has a {subject} on record")
    return subject


_admits = (nodes.c.run_id == rows.c.run_id) & (nodes.c.node_id == rows.c.node_id)


def release(landscape: Landscape, subject: Subject, reason: str, by: str) -> list[LegalHold]:
    """End the holds on exactly this subject. Raises NotOnRecordError when there is none."""
    reason, by = stated(reason, by)

    def end_those_standing(connection: sa.Connection) -> list[LegalHold]:
        whole = found(connection, subject)
        on_it = [each for each in standing(connection) if subject_of(each) == whole]
        insert(connection, [LegalHoldRelease(each.hold_id, reason, by, now()) for each in on_it])
        return on_it

    if not (ended := landscape.decide(end_those_standing)):
        raise NotOnRecordError(f"no legal hold is on {subject}")
    return ended


def subject_of(held: LegalHold) -> Subject:
    """What a hold is on."""
    return Subject(held.kind, held.subject, held.assessment)


def standing(connection: sa.Connection) -> list[LegalHold]:
    """The holds that are not released, the oldest first."""
    return [held for held, released in every(connection) if released is None]


def every(connection: sa.Connection) -> list[tuple[LegalHold, LegalHoldRelease | None]]:
    """All holds, the oldest first, each with its release."""
    both = sa.select(*legal_holds.c, *legal_hold_releases.c).outerjoin(
        legal_hold_releases, legal_hold_releases.c.hold_id == legal_holds.c.hold_id
    )
    width = len(LegalHold._fields)
    in_order = connection.execute(both.order_by(legal_holds.c.held_at, legal_holds.c.hold_id))
    return [
        (LegalHold(*row[:width]), LegalHoldRelease(*row[width:]) if row[width] is not None else None)
        for row in in_order
    ]


def mentions(text: str, keys: Iterable[str]) -> bool:
    """Whether one of these keys is a word of a text: what was read of a record that became no row."""
    return any(key.strip() and re.search(rf"(?<!\w){re.escape(key)}(?!\w)", text) for key in keys)


def on_rows(holds: Sequence[LegalHold]) -> list[LegalHold]:
    """Those that are on rows."""
    return [held for held in holds if held.kind is ScopeKind.ROW]


def on_runs(holds: Sequence[LegalHold]) -> list[str]:
    """The runs that holds are on."""
    return [held.subject for held in holds if held.kind is ScopeKind.RUN]
