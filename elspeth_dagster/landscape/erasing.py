"""Erase: the bytes of what was read, asked and answered go; their names, and every record, stay.

    what goes = what records that may go refer to, without what any record that stands refers to

A record may go when it is asked for, its run has ended, and no legal hold covers it. One that an earlier erasure let go
stands no more, and keeps nothing that it shares with one that goes now. Whatever a record that stands leads to stays:
of an answer that was taken from another run's reply, that reply too. What is about a row of which a run that goes on
has a row stays whole, since that run may be about to refer to it.

The erasure itself is recorded first, then what it names is emptied, in one transaction in which nobody else writes;
the guards let nothing else pass. A payload that stays and leans on one that goes is packed anew before. Where nothing
of a scope is left, its key goes too, and with it the only way to tell from a name whether a guessed text is the one.
Then the files are written anew (`Landscape.scrub`), so that the bytes are in no page that is free.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from elspeth_dagster.core.errors import LandscapeError, NotOnRecordError
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.landscape import holding, installation_log, payloads, sealing
from elspeth_dagster.landscape.columns import HASH_BYTES
from elspeth_dagster.landscape.finding import find_run
from elspeth_dagster.landscape.ledger import Landscape, insert, now
from elspeth_dagster.landscape.records import Artifact, Erasure, LegalHold, Payload
from elspeth_dagster.landscape.schema import (
    answers,
    artifacts,
    batch_members,
    batches,
    calls,
    erased_payloads,
    erased_scopes,
    erasures,
    node_states,
    nodes,
    replies,
    reviews,
    row_rejections,
    rows,
    run_ends,
    runs,
    scopes,
    tokens,
)
from elspeth_dagster.landscape.schema import payloads as stored
from elspeth_dagster.landscape.words import Encoding, ScopeKind

ERASURE = "erasure"
AT_ONCE = 500
AT_ONCE_OR = 50
MOST_REJECTIONS = 10_000


@dataclass(frozen=True)
class Wanted:
    """What somebody wants erased: what is about a row, in any run; or a run; or the runs that ended before an instant.

    `with_rejections`: also the records that became no row and hold the row's key as a word.
    """

    row_key: str | None = None
    assessment: str | None = None
    with_rejections: bool = False
    run: str | None = None
    ended_before: datetime | None = None

    def document(self) -> dict[str, Any]:
        """What an erasure keeps of it."""
        told = {
            "row": self.row_key,
            "assessment": self.assessment,
            "rejections": self.with_rejections or None,
            "run": self.run,
            "ended_before": self.ended_before and self.ended_before.isoformat(),
        }
        return {name: value for name, value in told.items() if value is not None}

    @classmethod
    def of_document(cls, told: dict[str, Any]) -> Wanted:
        """The same from what was kept."""
        before = told.get("ended_before")
        return cls(
            row_key=told.get("row"),
            assessment=told.get("assessment"),
            with_rejections=told.get("rejections", False),
            run=told.get("run"),
            ended_before=None if before is None else datetime.fromisoformat(before),
        )


@dataclass(frozen=True)
class Plan:
    """What an erasure would take, and what it would leave.

    `payloads` with `size` bytes go, which take `stored` in the database. `shared` payloads stay, since records that
    stay refer to them; `leaning` ones are packed anew. `unfinished` runs and what `holds` cover are not touched.
    `mentioning` records that became no row hold the key and stay. `carriers` are files that hold the same texts.
    """

    rows: int
    runs: int
    rejections: int
    payloads: int
    size: int
    stored: int
    shared: int
    leaning: int
    unfinished: tuple[str, ...]
    holds: tuple[LegalHold, ...]
    mentioning: int
    carriers: tuple[Artifact, ...]


@dataclass(frozen=True)
class Erased:
    """An erasure, and how many payloads were emptied, scopes lost their key and payloads were packed anew.

    `warnings` tell where the log's checkpoint could not be put.
    """

    erasure: Erasure
    payloads: int
    scopes: int
    repacked: int
    warnings: tuple[str, ...] = ()


def plan(landscape: Landscape, wanted: Wanted) -> Plan:
    """What would go and what would stay, without touching anything.

    Raises NotOnRecordError for a row or run that isn't on record, LandscapeError for a run that has not ended.
    """
    with landscape.read() as connection:
        return _plan(connection, _resolved(connection, wanted, counting=True))


def erase(landscape: Landscape, wanted: Wanted, reason: str, by: str) -> Erased:
    """Erase, and return when the bytes are in no page of the database any more.

    Raises as `plan` does; SettingsError for a reason or name that can't be kept; LandscapeError when it is done and on
    record, but the files could not be written anew.
    """
    reason, by = holding.stated(reason, by)
    if wanted.run is not None:
        with landscape.read() as connection:
            wanted = replace(wanted, run=find_run(connection, wanted.run).run_id)
    erasure = Erasure(new_id(), reason, by, json.dumps(wanted.document(), sort_keys=True), now())
    done = landscape.decide(lambda connection: _erased(connection, wanted, erasure))
    warnings = sealing.publish_if_possible(landscape)
    landscape.scrub()
    return replace(done, warnings=tuple(warnings))


# What goes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Resolved:
    """What is wanted, by the record's own names: which runs (None: any), which row, which rejected records.

    `held` are the references that matter: those of what is wanted, and all others to the same bytes.
    """

    wanted: Wanted
    held: sa.Subquery
    run_ids: tuple[str, ...] | None
    holds: tuple[LegalHold, ...]
    rejected: tuple[str, ...] = ()
    mentioning: tuple[str, ...] = ()
    earlier: tuple[_Earlier, ...] = ()

    @property
    def is_wanted(self) -> sa.ColumnElement[bool]:
        """Whether a record is what was asked for."""
        if self.run_ids is not None:
            return self.held.c.run_id.in_(self.run_ids)
        same = self.held.c.row_key == self.wanted.row_key
        if self.wanted.assessment is not None:
            same &= self.held.c.assessment == self.wanted.assessment
        return same

    @property
    def goes(self) -> sa.ColumnElement[bool]:
        """Whether a record may go."""
        of_row = sa.and_(self.held.c.row_key.is_not(None), self.is_wanted, self._not_held)
        return sa.and_(sa.or_(of_row, self._rejection_goes), self.held.c.run_id.in_(sa.select(run_ends.c.run_id)))

    @property
    def _not_held(self) -> sa.ColumnElement[bool]:
        return _is_free(self.held, self.holds)

    @property
    def stands(self) -> sa.ColumnElement[bool]:
        """Whether a record keeps what it refers to: it goes neither now, nor has gone before."""
        let_go = sa.and_(_any([each.let_go(self.held) for each in self.earlier]), self._not_held)
        return ~sa.or_(self.goes, let_go)

    @property
    def _rejection_goes(self) -> sa.ColumnElement[bool]:
        is_rejected = self.held.c.row_key.is_(None) & self.held.c.run_id.not_in(holding.on_runs(self.holds))
        if self.run_ids is None:
            return is_rejected & self.held.c.ref.in_(self.rejected)
        return is_rejected & self.held.c.run_id.in_(self.run_ids) & self.held.c.ref.not_in(self.mentioning)

    @property
    def gone(self) -> sa.ColumnElement[bool]:
        """Whether a payload goes: something that goes refers to it, and nothing that stays does."""
        return sa.and_(
            sa.func.length(stored.c.body) > 0,
            stored.c.ref.in_(sa.select(self.held.c.ref).where(self.goes)),
            stored.c.ref.not_in(sa.select(self.held.c.ref).where(self.stands)),
            sa.or_(
                stored.c.scope_id.is_not(None),
                stored.c.ref.not_in(sa.union(*(sa.select(column) for column in ABOUT_NOBODY))),
            ),
            sa.or_(stored.c.scope_id.is_(None), stored.c.scope_id.not_in(_IN_USE)),
        )


@dataclass(frozen=True)
class _Earlier:
    """An erasure that was: what was wanted, when, and which holds stood then."""

    wanted: Wanted
    at: datetime
    holds: tuple[LegalHold, ...]

    def let_go(self, held: sa.Subquery) -> sa.ColumnElement[bool]:
        """Whether it let a record go, which was there then."""
        until = run_ends.c.ended_at <= self.at
        if self.wanted.ended_before is not None:
            until = run_ends.c.ended_at < self.wanted.ended_before
        conditions = [held.c.run_id.in_(sa.select(run_ends.c.run_id).where(until)), _is_free(held, self.holds)]
        for column, value in (("run_id", self.wanted.run), ("row_key", self.wanted.row_key)):
            if value is not None:
                conditions.append(sa.and_(held.c[column].is_not(None), held.c[column] == value))
        if self.wanted.assessment is not None:
            conditions.append(held.c.assessment == self.wanted.assessment)
        return sa.and_(*conditions)


def _is_free(held: sa.Subquery, holds: Sequence[LegalHold]) -> sa.ColumnElement[bool]:
    """Whether no hold is on a record."""
    conditions: list[sa.ColumnElement[bool]] = [held.c.run_id.not_in(holding.on_runs(holds))]
    for each in holding.on_rows(holds):
        is_it = sa.and_(held.c.row_key.is_not(None), held.c.row_key == each.subject)
        conditions.append(~is_it if each.assessment is None else ~(is_it & (held.c.assessment == each.assessment)))
    return sa.and_(*conditions)


def _any(conditions: Sequence[sa.ColumnElement[bool]]) -> sa.ColumnElement[bool]:
    """Whether one of them holds. Balanced, since SQLite takes no expression of a depth of a thousand."""
    if len(conditions) <= AT_ONCE_OR:
        return sa.or_(sa.false(), *conditions)
    middle = len(conditions) // 2
    return sa.or_(_any(conditions[:middle]).self_group(), _any(conditions[middle:]).self_group())


def _earlier(connection: sa.Connection) -> Iterator[_Earlier]:
    every = holding.every(connection)
    for what, at in connection.execute(sa.select(erasures.c.what, erasures.c.at).order_by(erasures.c.at)):
        then = [held for held, over in every if held.held_at <= at and (over is None or over.released_at > at)]
        yield _Earlier(Wanted.of_document(json.loads(what)), at, tuple(then))


ABOUT_NOBODY = (runs.c.config_ref, nodes.c.config_ref, calls.c.head_ref)
_UNFINISHED = sa.select(runs.c.run_id).where(~sa.exists().where(run_ends.c.run_id == runs.c.run_id))
_IN_USE = sa.select(rows.c.scope_id).where(rows.c.run_id.in_(_UNFINISHED), rows.c.scope_id.is_not(None)).correlate(None)


def _held(scopes_: sa.Select[Any] | None, run_ids: Sequence[str] | None) -> sa.Subquery:
    """Each reference to bytes that are about somebody, with the record that it is of: its run and its row.

    Where `scopes_` are given, those about rows of these scopes, and of these runs' rejected records: whatever else
    there is can't refer to the same bytes, whose names are of a scope. From a row to its calls the way is by its batch.
    """
    admitted = rows.join(nodes, (nodes.c.run_id == rows.c.run_id) & (nodes.c.node_id == rows.c.node_id))
    of_token = admitted.join(tokens, tokens.c.row_id == rows.c.row_id)
    in_batch = of_token.join(batch_members, batch_members.c.token_id == tokens.c.token_id)
    in_state = in_batch.join(batches, batches.c.batch_id == batch_members.c.batch_id).join(
        node_states, node_states.c.token_id == batches.c.token_id
    )
    made_here = (calls.c.state_id == node_states.c.state_id) & (calls.c.token_id == tokens.c.token_id)
    asked = in_state.join(calls, made_here)
    answered = of_token.join(answers, answers.c.token_id == tokens.c.token_id)
    taken = answered.join(calls, calls.c.call_id == answers.c.call_id)
    came = replies.c.call_id == calls.c.call_id
    said_of_it = sa.and_(*(reviews.c[name] == answers.c[name] for name in ("state_id", "token_id", "query_key")))
    about_rows = [
        _of(rows.c.values_ref, admitted),
        _of(rows.c.raw_ref, admitted),
        _of(calls.c.request_ref, asked),
        _of(replies.c.body_ref, asked.join(replies, came)),
        _of(answers.c.values_ref, answered),
        _of(reviews.c.values_ref, answered.join(reviews, said_of_it)),
        _of(calls.c.request_ref, taken),
        _of(replies.c.body_ref, taken.join(replies, came)),
    ]
    if scopes_ is not None:
        about_rows = [each.where(rows.c.scope_id.in_(scopes_)) for each in about_rows]
    return sa.union_all(*about_rows, _of_rejections(run_ids)).subquery("held")


def _of(ref: sa.Column[str], joined: sa.FromClause) -> sa.Select[Any]:
    known = sa.select(ref.label("ref"), rows.c.run_id, nodes.c.assessment, rows.c.row_key)
    return known.select_from(joined).where(ref.is_not(None))


def _of_rejections(run_ids: Sequence[str] | None) -> sa.Select[Any]:
    admitted = (nodes.c.run_id == row_rejections.c.run_id) & (nodes.c.node_id == row_rejections.c.node_id)
    ref, nobody = row_rejections.c.raw_ref.label("ref"), sa.null().label("row_key")
    rejected = sa.select(ref, nodes.c.run_id, nodes.c.assessment, nobody).join(nodes, admitted)
    return rejected if run_ids is None else rejected.where(row_rejections.c.run_id.in_(run_ids))


def _resolved(connection: sa.Connection, wanted: Wanted, *, counting: bool) -> _Resolved:
    """What is wanted; `counting`: also the rejected records that only hold a row's key, and are left."""
    holds = tuple(holding.standing(connection))
    if wanted.row_key is not None:
        found = _of_row(connection, wanted, wanted.row_key, holds, counting=counting)
    else:
        found = _of_runs(connection, wanted, holds)
    plain = sa.select(found.held.c.ref).where(found.is_wanted, sa.func.length(found.held.c.ref) == HASH_BYTES)
    if connection.scalar(plain.limit(1)) is not None:
        found = replace(found, held=_held(None, None))  # a plain hash may be of any row's bytes
    return replace(found, earlier=tuple(_earlier(connection)))


def _of_runs(connection: sa.Connection, wanted: Wanted, holds: tuple[LegalHold, ...]) -> _Resolved:
    run_ids = tuple(_runs(connection, wanted))
    held_keys = [held.subject for held in holding.on_rows(holds)]
    mentioning = _rejected_with(connection, held_keys, run_ids) if held_keys else ()
    theirs = sa.select(rows.c.scope_id).where(rows.c.run_id.in_(run_ids)).correlate(None)
    return _Resolved(wanted, _held(_with_scopes_of(theirs), run_ids), run_ids, holds, mentioning=mentioning)


def _with_scopes_of(found: sa.Select[Any]) -> sa.Select[Any]:
    """Also the other scopes of the same subjects: an answer may be taken from a reply in one of these."""
    own, other = scopes.alias("own"), scopes.alias("other")
    same = sa.and_(*(own.c[name] == other.c[name] for name in ("assessment", "kind", "subject")))
    return sa.select(other.c.scope_id).select_from(own.join(other, same)).where(own.c.scope_id.in_(found))


def _of_row(
    connection: sa.Connection, wanted: Wanted, key: str, holds: tuple[LegalHold, ...], *, counting: bool
) -> _Resolved:
    with_it = _rejected_with(connection, [key], None) if counting or wanted.with_rejections else ()
    if not with_it:
        holding.found(connection, holding.Subject(ScopeKind.ROW, key, wanted.assessment))
    held_keys = [held.subject for held in holding.on_rows(holds)]
    of_held = set(_rejected_with(connection, held_keys, None)) if held_keys and wanted.with_rejections else set()
    going = tuple(ref for ref in with_it if ref not in of_held) if wanted.with_rejections else ()
    own = sa.select(scopes.c.scope_id).where(scopes.c.kind == ScopeKind.ROW, scopes.c.subject == key)
    held = _held(own, None if going else ())
    return _Resolved(wanted, held, None, holds, rejected=going, mentioning=tuple(set(with_it) - set(going)))


def _runs(connection: sa.Connection, wanted: Wanted) -> list[str]:
    if wanted.run is not None:
        run_id = find_run(connection, wanted.run).run_id
        if connection.scalar(sa.select(run_ends.c.run_id).where(run_ends.c.run_id == run_id)) is None:
            raise LandscapeError(f"run {run_id} has not ended: nothing of it is erased while it may go on")
        return [run_id]
    old = sa.select(run_ends.c.run_id).where(run_ends.c.ended_at < wanted.ended_before)
    return list(connection.scalars(old))


def _rejected_with(connection: sa.Connection, keys: Sequence[str], run_ids: Sequence[str] | None) -> tuple[str, ...]:
    """The records that became no row and hold one of these keys as a word, by their payloads."""
    there = sa.select(row_rejections.c.raw_ref).distinct().order_by(row_rejections.c.raw_ref)
    if run_ids is not None:
        there = there.where(row_rejections.c.run_id.in_(run_ids))
    refs = list(connection.scalars(there))
    found = []
    for start in range(0, len(refs), AT_ONCE):
        for ref, raw in payloads.read_or_erased(connection, refs[start : start + AT_ONCE]).items():
            if isinstance(raw, bytes) and holding.mentions(raw.decode("utf-8", "backslashreplace"), keys):
                found.append(ref)
    if len(found) > MOST_REJECTIONS:
        raise LandscapeError(f"more than {MOST_REJECTIONS} rejected records hold such a key: erase their runs instead")
    return tuple(found)


# What would go --------------------------------------------------------------------------------------------------------


def _plan(connection: sa.Connection, resolved: _Resolved) -> Plan:
    sized = (sa.func.count(), sa.func.sum(stored.c.size), sa.func.sum(sa.func.length(stored.c.body)))
    number, size, packed = connection.execute(sa.select(*sized).where(resolved.gone)).one()
    there = sa.func.length(stored.c.body) > 0
    led_to = sa.select(sa.func.count()).where(
        there, stored.c.ref.in_(sa.select(resolved.held.c.ref).where(resolved.goes))
    )
    return Plan(
        rows=_count(connection, rows, rows.c.values_ref, resolved),
        runs=connection.scalar(sa.select(sa.func.count(resolved.held.c.run_id.distinct())).where(resolved.goes)) or 0,
        rejections=_count(connection, row_rejections, row_rejections.c.raw_ref, resolved),
        payloads=number,
        size=int(size or 0),
        stored=int(packed or 0),
        shared=(connection.scalar(led_to) or 0) - number,
        leaning=connection.scalar(sa.select(sa.func.count()).select_from(_leaning(resolved).subquery())) or 0,
        unfinished=tuple(connection.scalars(_touched(resolved).where(resolved.held.c.run_id.in_(_UNFINISHED)))),
        holds=tuple(_in_the_way(connection, resolved)),
        mentioning=len(resolved.mentioning),
        carriers=tuple(_carriers(connection, resolved)),
    )


def _count(connection: sa.Connection, table: sa.Table, ref: sa.Column[str], resolved: _Resolved) -> int:
    """How many records of a table lose bytes."""
    gone = sa.select(stored.c.ref).where(resolved.gone)
    return connection.scalar(sa.select(sa.func.count()).select_from(table).where(ref.in_(gone))) or 0


def _touched(resolved: _Resolved) -> sa.Select[tuple[str]]:
    return sa.select(resolved.held.c.run_id).distinct().where(resolved.is_wanted).order_by(resolved.held.c.run_id)


def _in_the_way(connection: sa.Connection, resolved: _Resolved) -> Iterator[LegalHold]:
    """The holds that keep something of what is wanted."""
    for held in resolved.holds:
        of_it = (
            resolved.held.c.run_id == held.subject
            if held.kind is ScopeKind.RUN
            else resolved.held.c.row_key == held.subject
        )
        if held.assessment is not None:
            of_it &= resolved.held.c.assessment == held.assessment
        if connection.scalar(
            sa.select(sa.literal(1)).select_from(resolved.held).where(of_it, resolved.is_wanted).limit(1)
        ):
            yield held


def _carriers(connection: sa.Connection, resolved: _Resolved) -> Iterator[Artifact]:
    """The tables that were written from what goes, the last of each at its place."""
    written = artifacts.select().where(artifacts.c.run_id.in_(sa.select(resolved.held.c.run_id).where(resolved.goes)))
    if resolved.wanted.assessment is not None:
        prefix = f"{resolved.wanted.assessment}/"
        written = written.where(artifacts.c.asset_key.startswith(prefix, autoescape=True))
    in_order = written.order_by(artifacts.c.written_at)
    last = {row.uri: Artifact(*row) for row in connection.execute(in_order)}
    yield from (last[uri] for uri in sorted(last))


def _leaning(resolved: _Resolved) -> sa.Select[Any]:
    """The payloads that stay and lean on one that goes."""
    going = sa.select(stored.c.ref).where(resolved.gone)
    leaning = stored.alias("leaning")
    known = leaning.c.ref.in_(sa.select(resolved.held.c.ref))
    return sa.select(*leaning.c).where(
        known, sa.func.length(leaning.c.body) > 0, leaning.c.dictionary_ref.in_(going), leaning.c.ref.not_in(going)
    )


# How it goes ----------------------------------------------------------------------------------------------------------


def _erased(connection: sa.Connection, wanted: Wanted, erasure: Erasure) -> Erased:
    own = erased_payloads.c.erasure_id == erasure.erasure_id
    if connection.scalar(sa.select(erasures.c.erasure_id).where(erasures.c.erasure_id == erasure.erasure_id)) is None:
        resolved = _resolved(connection, wanted, counting=False)
        _check_that_something_goes(connection, resolved)
        _record(connection, resolved, erasure)
        repacked = _repack(connection, resolved, own)
        named = stored.c.ref.in_(sa.select(erased_payloads.c.ref).where(own))
        connection.execute(stored.update().where(named).values(body=b""))
        _destroy_keys(connection, resolved, erasure)
        done = _counted(connection, erasure, repacked)
        _log(connection, done)
        return done
    return _counted(connection, erasure, 0)  # the commit had arrived when the connection was lost


def _counted(connection: sa.Connection, erasure: Erasure, repacked: int) -> Erased:
    def named(table: sa.Table) -> int:
        own = sa.select(sa.func.count()).select_from(table).where(table.c.erasure_id == erasure.erasure_id)
        return connection.scalar(own) or 0

    return Erased(erasure, named(erased_payloads), named(erased_scopes), repacked)


def _log(connection: sa.Connection, done: Erased) -> None:
    """The installation's log keeps that something was erased; what it was is in the erasure itself."""
    erasure = done.erasure
    told = {"reason": erasure.reason, "by": erasure.erased_by, "payloads": done.payloads, "scopes": done.scopes}
    installation_log.append(connection, ERASURE, erasure_id=erasure.erasure_id, **told)


def _check_that_something_goes(connection: sa.Connection, resolved: _Resolved) -> None:
    """Also a record goes whose bytes all stay, since others refer to them: when these go, it keeps them no more."""
    whole = sa.select(stored.c.ref).where(sa.func.length(stored.c.body) > 0)
    if connection.scalar(whole.where(stored.c.ref.in_(sa.select(resolved.held.c.ref).where(resolved.goes))).limit(1)):
        return
    raise NotOnRecordError("there is nothing to erase: it is erased already, under a legal hold, or its run goes on")


def _record(connection: sa.Connection, resolved: _Resolved, erasure: Erasure) -> None:
    insert(connection, [erasure])
    named = sa.select(stored.c.ref, sa.literal(erasure.erasure_id), stored.c.scope_id).where(resolved.gone)
    connection.execute(erased_payloads.insert().from_select(["ref", "erasure_id", "scope_id"], named))


def _repack(connection: sa.Connection, resolved: _Resolved, own: sa.ColumnElement[bool]) -> int:
    """Pack anew what stays and leans on what goes, as long as that is there to lean on."""
    going = sa.select(erased_payloads.c.ref).where(own)
    leaning = sa.select(stored.c.ref).where(stored.c.dictionary_ref.in_(going), stored.c.ref.not_in(going))
    known = stored.c.ref.in_(sa.select(resolved.held.c.ref))
    refs = list(connection.scalars(leaning.where(known, sa.func.length(stored.c.body) > 0)))
    for ref in refs:
        data = payloads.read(connection, ref)
        packed = Payload(ref, len(data), Encoding.IDENTITY, data).packed()
        alone = {"encoding": packed.encoding, "body": packed.body, "dictionary_ref": None}
        connection.execute(stored.update().where(stored.c.ref == ref).values(alone))
    return len(refs)


def _destroy_keys(connection: sa.Connection, resolved: _Resolved, erasure: Erasure) -> None:
    """The keys of the scopes of which nothing is left that they name."""
    own = erased_payloads.c.erasure_id == erasure.erasure_id
    touched = sa.select(erased_payloads.c.scope_id).where(own, erased_payloads.c.scope_id.is_not(None))
    known = stored.c.ref.in_(sa.select(resolved.held.c.ref))
    has_bytes = sa.select(stored.c.scope_id).where(
        known, stored.c.scope_id.is_not(None), sa.func.length(stored.c.body) > 0
    )
    left = sa.select(scopes.c.scope_id, sa.literal(erasure.erasure_id)).where(
        scopes.c.scope_id.in_(touched), scopes.c.scope_id.not_in(has_bytes)
    )
    connection.execute(erased_scopes.insert().from_select(["scope_id", "erasure_id"], left))
    named = sa.select(erased_scopes.c.scope_id).where(erased_scopes.c.erasure_id == erasure.erasure_id)
    connection.execute(scopes.update().where(scopes.c.scope_id.in_(named)).values(naming_key=b""))
