"""Runs without an end on record: which of them still live, and the end of those that don't.

A run whose worker was killed can't say so. What tells is its last sign of life, the newest instant among the facts it
recorded, and the processes that hold its open states: those of this machine are alive or gone, of another machine's
nothing is known here. To end a run takes nothing from it, and fences off whatever of it still goes on.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from elspeth_dagster.cli.listing import uncertain_of_run
from elspeth_dagster.core.errors import ElspethError
from elspeth_dagster.landscape import runs, sealing
from elspeth_dagster.landscape.ledger import Landscape, now
from elspeth_dagster.landscape.records import Run
from elspeth_dagster.landscape.schema import answers, calls, node_state_ends, node_states, replies, token_outcomes
from elspeth_dagster.landscape.words import Outcome, RunStatus

BY_HAND = "reclaimed by hand"


@dataclass(frozen=True)
class Process:
    """A process that executed states of a run; whether it is alive is None on another machine than its own."""

    host: str
    pid: int
    open_states: int
    is_alive: bool | None

    def __str__(self) -> str:
        known = {True: "alive", False: "gone", None: "not to be known from here"}
        return f"{self.pid} on {self.host} {known[self.is_alive]}"


@dataclass(frozen=True)
class OpenRun:
    """A run that has no end on record. Its processes are those that hold open states, else the last one it had."""

    run_id: str
    assessments: list[str]
    partitions: list[str]
    started_at: datetime
    last_sign_at: datetime
    open_states: int
    calls_without_reply: int
    processes: tuple[Process, ...]


@dataclass(frozen=True)
class Reclaimed:
    """What became of a run that was ended; or why it was refused, and then nothing did."""

    run_id: str
    refused: str | None = None
    tokens_interrupted: int = 0
    calls_unknown: int = 0
    bound_nanousd: int | None = None
    unbounded_calls: int = 0


def open_runs(landscape: Landscape) -> list[OpenRun]:
    """The runs without an end on record, the oldest first."""
    with landscape.read() as connection:
        return [_open_run(connection, run) for run in runs.not_ended(connection)]


def reclaim(landscape: Landscape, names: Sequence[str], quiet_for: timedelta | None, *, force: bool) -> list[Reclaimed]:
    """End the runs of these ids or beginnings of ids; with `quiet_for`, all that gave no sign of life for so long.

    Raises NotOnRecordError, before any is ended, when one of the names is no run's.
    """
    if quiet_for is not None:
        silent = [run.run_id for run in open_runs(landscape) if now() - run.last_sign_at >= quiet_for]
        return [
            _end(landscape, run_id, f"reclaimed: no sign of life for {quiet_for}", force=force) for run_id in silent
        ]
    with landscape.read() as connection:
        named = [runs.get(connection, name).run_id for name in names]
    return [_end(landscape, run_id, BY_HAND, force=force) for run_id in dict.fromkeys(named)]


def seal(landscape: Landscape) -> list[str]:
    """Seal every run that has ended. Returns what could not be done."""
    try:
        return sealing.seal_ended(landscape, at_most=None).warnings
    except ElspethError as error:
        return [f"Not sealed: {error}"]


def _end(landscape: Landscape, run_id: str, why: str, *, force: bool) -> Reclaimed:
    with landscape.read() as connection:
        alive = [each for each in _processes(connection, run_id) if each.is_alive and each.open_states]
        is_over = runs.end_of(connection, run_id) is not None
    if alive and not is_over and not force:
        return Reclaimed(run_id, _lives(run_id, alive))
    if not runs.end(landscape, run_id, RunStatus.INTERRUPTED, why):
        return Reclaimed(run_id, _has_ended(landscape, run_id))
    return _what_became(landscape, run_id)


def _lives(run_id: str, alive: Sequence[Process]) -> str:
    pids = ", ".join(str(each.pid) for each in alive)
    return (
        f"run {run_id} lives: process {pids} on this machine holds what is open of it. Nothing was done. If it is to "
        "stop, or that is another process by now, --force ends it. Nothing would be lost: what it has recorded stays, "
        "it can record nothing more, and the next launch goes on from there."
    )


def _has_ended(landscape: Landscape, run_id: str) -> str:
    with landscape.read() as connection:
        end = runs.end_of(connection, run_id)
    assert end is not None  # ends are never taken away
    return f"run {run_id} has ended already: {end.status.value}{f', {end.detail}' if end.detail else ''}"


def _what_became(landscape: Landscape, run_id: str) -> Reclaimed:
    interrupted = sa.select(sa.func.count()).where(
        token_outcomes.c.run_id == run_id, token_outcomes.c.outcome == Outcome.INTERRUPTED
    )
    with landscape.read() as connection:
        uncertain = uncertain_of_run(connection, run_id)
        tokens = connection.scalar(interrupted) or 0
    return Reclaimed(run_id, None, tokens, uncertain.calls, uncertain.bound_nanousd, uncertain.unbounded_calls)


def _open_run(connection: sa.Connection, run: Run) -> OpenRun:
    processes = _processes(connection, run.run_id)
    return OpenRun(
        run_id=run.run_id,
        assessments=json.loads(run.assessments),
        partitions=json.loads(run.partition_keys),
        started_at=run.started_at,
        last_sign_at=_last_sign(connection, run),
        open_states=sum(process.open_states for process in processes),
        calls_without_reply=connection.scalar(_calls_without_reply(run.run_id)) or 0,
        processes=tuple([process for process in processes if process.open_states] or processes[-1:]),
    )


def _last_sign(connection: sa.Connection, run: Run) -> datetime:
    """The newest instant of what a run recorded."""
    by_state = [
        _newest(column).join(node_states, node_states.c.state_id == column.table.c.state_id)
        for column in (node_state_ends.c.ended_at, calls.c.sent_at, answers.c.decided_at)
    ]
    by_call = (
        _newest(replies.c.received_at)
        .join(calls, calls.c.call_id == replies.c.call_id)
        .join(node_states, node_states.c.state_id == calls.c.state_id)
    )
    newest = [_newest(node_states.c.started_at), *by_state, by_call]
    of_run = [each.where(node_states.c.run_id == run.run_id).scalar_subquery() for each in newest]
    found: Sequence[datetime | None] = connection.execute(sa.select(*of_run)).one()
    return max(run.started_at, *(at for at in found if at is not None))


def _newest(column: sa.Column[datetime]) -> sa.Select[Any]:
    return sa.select(sa.func.max(column)).select_from(column.table)


def _calls_without_reply(run_id: str) -> sa.Select[Any]:
    return (
        sa.select(sa.func.count())
        .select_from(node_states)
        .join(calls, calls.c.state_id == node_states.c.state_id)
        .where(node_states.c.run_id == run_id, ~sa.exists().where(replies.c.call_id == calls.c.call_id))
    )


def _processes(connection: sa.Connection, run_id: str) -> list[Process]:
    """The processes that executed states of a run, in the order of the last state that each of them began."""
    is_open = sa.case((node_state_ends.c.state_id.is_(None), 1), else_=0)
    executed = (
        sa.select(node_states.c.host, node_states.c.pid, sa.func.sum(is_open))
        .outerjoin(node_state_ends, node_state_ends.c.state_id == node_states.c.state_id)
        .where(node_states.c.run_id == run_id)
        .group_by(node_states.c.host, node_states.c.pid)
        .order_by(sa.func.max(node_states.c.started_at))
    )
    return [Process(host, pid, int(left), _is_alive(host, pid)) for host, pid, left in connection.execute(executed)]


def _is_alive(host: str, pid: int) -> bool | None:
    if host != socket.gethostname():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, so it is there
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether a process is dead and only waits for its parent, as it may for ever in a container without an init."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:  # no /proc here
        return False
    return stat.rpartition(b")")[2].split()[0] == b"Z"
