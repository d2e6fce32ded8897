"""Scopes: what is erased together, under a key of its own.

All that is asked about a row and comes back is named by an HMAC under the key of the row's scope, in whatever run of
the assessment. Nobody who lacks the key can tell from a name whether a guessed text is the one; erasing a scope
destroys its key. Configurations, templates and addresses are about nobody, and have plain hashes.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator

import sqlalchemy as sa

from elspeth_dagster.landscape.ledger import Landscape, insert
from elspeth_dagster.landscape.records import Scope
from elspeth_dagster.landscape.schema import scopes
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
    if all(subject in found and is_alive(found[subject]) for subject in subjects):
        return found
    return landscape.decide(lambda connection: _completed(connection, assessment, kind, subjects))


def _completed(connection: sa.Connection, assessment: str, kind: ScopeKind, subjects: list[str]) -> dict[str, Scope]:
    found = _latest(connection, assessment, kind, subjects)
    number = connection.scalar(sa.select(sa.func.max(scopes.c.scope_id))) or 0
    fresh = []
    for subject in subjects:
        last = found.get(subject)
        if last is None or not is_alive(last):
            number += 1
            ordinal = last.ordinal + 1 if last else 1
            fresh.append(Scope(number, assessment, kind, subject, ordinal, secrets.token_bytes(KEY_BYTES)))
    insert(connection, fresh)
    return {**found, **{scope.subject: scope for scope in fresh}}


def _latest(connection: sa.Connection, assessment: str, kind: ScopeKind, subjects: list[str]) -> dict[str, Scope]:
    of_kind = scopes.select().where(scopes.c.assessment == assessment, scopes.c.kind == kind)
    found: dict[str, Scope] = {}
    for some in _portions(subjects):
        named = of_kind.where(scopes.c.subject.in_(some)).order_by(scopes.c.ordinal)
        found |= {row.subject: Scope(*row) for row in connection.execute(named)}
    return found


def _portions(subjects: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(subjects), AT_ONCE):
        yield subjects[start : start + AT_ONCE]


def is_alive(scope: Scope) -> bool:
    """Whether its key is there."""
    return len(scope.naming_key) == KEY_BYTES
