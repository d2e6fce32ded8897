"""Scopes: what is erased together, under a key of its own.

All that is asked about a row and comes back is named by an HMAC under the key of the row's scope, in whatever run of
the assessment. Nobody who lacks the key can tell from a name whether a guessed text is the one; erasing a scope
destroys its key. Configurations, templates and addresses are about nobody, and have plain hashes.

A scope of which something was erased takes no more: the same text, if it comes again, needs another name.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import sqlalchemy as sa

from elspeth_dagster.landscape.ledger import Landscape, insert
from elspeth_dagster.landscape.records import Erasure, Scope
from elspeth_dagster.landscape.schema import erased_payloads, erasures, scopes
from elspeth_dagster.landscape.words import ScopeKind

AT_ONCE = 500
KEY_BYTES = 32


def of_rows(landscape: Landscape, assessment: str, row_keys: Iterable[str]) -> dict[str, Scope]:
    """The scopes of rows, by their keys; a row that has none, or whose scope was erased, gets one."""
    return _see_to(landscape, assessment, ScopeKind.ROW, sorted(set(row_keys)))


def of_rejections(landscape: Landscape, assessment: str, run_id: str) -> Scope:
    """The scope of a run's records that became no row."""
    return _see_to(landscape, assessment, ScopeKind.RUN, [run_id])[run_id]


def _see_to(landscape: Landscape, assessment: str, kind: ScopeKind, subjects: list[str]) -> dict[str, Scope]:
    with landscape.read() as connection:
        found = _latest(connection, assessment, kind, subjects)
    if all(subject in found and found[subject].is_open for subject in subjects):
        return {subject: last.scope for subject, last in found.items()}
    return landscape.decide(lambda connection: _completed(connection, assessment, kind, subjects))


class _Last(NamedTuple):
    """The last scope that a subject has; whether nothing of it was erased."""

    scope: Scope
    is_open: bool


def _completed(connection: sa.Connection, assessment: str, kind: ScopeKind, subjects: list[str]) -> dict[str, Scope]:
    found = _latest(connection, assessment, kind, subjects)
    number = connection.scalar(sa.select(sa.func.max(scopes.c.scope_id))) or 0
    fresh = []
    for subject in subjects:
        last = found.get(subject)
        if last is None or not last.is_open:
            number += 1
            ordinal = last.scope.ordinal + 1 if last else 1
            fresh.append(Scope(number, assessment, kind, subject, ordinal, secrets.token_bytes(KEY_BYTES)))
    insert(connection, fresh)
    known = {subject: last.scope for subject, last in found.items()}
    return {**known, **{scope.subject: scope for scope in fresh}}


def _latest(connection: sa.Connection, assessment: str, kind: ScopeKind, subjects: list[str]) -> dict[str, _Last]:
    is_open = ~sa.exists().where(erased_payloads.c.scope_id == scopes.c.scope_id)
    of_kind = sa.select(*scopes.c, is_open).where(scopes.c.assessment == assessment, scopes.c.kind == kind)
    found: dict[str, _Last] = {}
    for some in _portions(subjects):
        named = of_kind.where(scopes.c.subject.in_(some)).order_by(scopes.c.ordinal)
        found |= {row.subject: _Last(Scope(*row[:-1]), bool(row[-1])) for row in connection.execute(named)}
    return found


def _portions(subjects: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(subjects), AT_ONCE):
        yield subjects[start : start + AT_ONCE]


def erased_before(connection: sa.Connection, scope: Scope) -> Erasure | None:
    """The last erasure of what was about the same subject, in scopes that it had before this one."""
    same = [scopes.c[name] == getattr(scope, name) for name in ("assessment", "kind", "subject")]
    earlier = sa.select(scopes.c.scope_id).where(*same, scopes.c.ordinal < scope.ordinal)
    touched = sa.select(erased_payloads.c.erasure_id).where(erased_payloads.c.scope_id.in_(earlier))
    last = erasures.select().where(erasures.c.erasure_id.in_(touched)).order_by(erasures.c.at.desc()).limit(1)
    found = connection.execute(last).first()
    return None if found is None else Erasure(*found)
