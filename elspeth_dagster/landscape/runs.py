"""Runs: how one begins, what its nodes work by, and how it ends with nothing left open."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta

import sqlalchemy as sa

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.errors import AuditError, NotOnRecordError
from elspeth_dagster.core.launch import Reuse
from elspeth_dagster.core.notes import Signer
from elspeth_dagster.landscape import installation_log, payloads
from elspeth_dagster.landscape.ledger import Landscape, insert, now
from elspeth_dagster.landscape.records import (
    Edge,
    Node,
    NodeStateEnd,
    Payload,
    Reply,
    Run,
    RunEnd,
    TokenOutcome,
)
from elspeth_dagster.landscape.schema import (
    artifacts,
    calls,
    node_state_ends,
    node_states,
    nodes,
    replies,
    run_ends,
    runs,
    token_outcomes,
    tokens,
)
from elspeth_dagster.landscape.words import Mode, Outcome, ReplyOutcome, RunStatus, StateStatus

AT_ONCE = 1000
LAST_OPS = ("collect_results", "verify_answers")
"""The ops that a walk ends with."""
MADE_A_TABLE = sa.exists().where(artifacts.c.state_id == node_states.c.state_id)
"""Whether a node state wrote one."""


def begin(
    landscape: Landscape,
    run: Run,
    nodes_: Sequence[Node],
    edges: Sequence[Edge],
    configs: Sequence[Payload],
    reuse: Reuse | None = None,
) -> None:
    """Put a run and the graph of one of its assessments on record; what is there already must be the same.

    A run takes over from the one before it for the same slice: see `_succeeding`. Raises AuditError for a run that is
    there with other nodes, SettingsError for another signing key than the one in force.
    """

    def begin_or_compare(connection: sa.Connection) -> None:
        insert(connection, configs)
        if not _exists(connection, runs.c.run_id == run.run_id):
            begun = _succeeding(connection, _later_than_others(connection, run), reuse)
            insert(connection, [begun])
            _log_start(connection, begun, landscape.signer)
        recorded = _nodes(connection, run.run_id, nodes_[0].assessment)
        if not recorded:
            insert(connection, [*nodes_, *edges])
        elif sorted(recorded) != sorted(nodes_):
            told = f"run {run.run_id} is on record with another configuration of {nodes_[0].assessment}"
            raise AuditError(f"{told}: files changed between two attempts of a step. Launch the partition again")

    landscape.decide(begin_or_compare)


def _later_than_others(connection: sa.Connection, run: Run) -> Run:
    """The run as begun after all that are on record, also where its host's clock is behind that of another host.

    Which of two runs came first decides what the later one goes on from.
    """
    last = connection.scalar(sa.select(sa.func.max(runs.c.started_at)))
    is_behind = last is not None and run.started_at <= last
    return run._replace(started_at=last + timedelta(microseconds=1)) if is_behind else run


def _log_start(connection: sa.Connection, run: Run, signer: Signer | None) -> None:
    """Have the installation's log tell that the run began, so that it can't be taken away unnoticed."""
    installation_log.see_to_key(connection, signer)
    installation_log.append(
        connection,
        installation_log.RUN_START,
        run_id=run.run_id,
        root_run_id=run.root_run_id,
        parent_run_id=run.parent_run_id,
        config=run.config_ref,
    )


def _exists(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> bool:
    return connection.scalar(sa.select(sa.exists().where(condition))) or False


def _succeeding(connection: sa.Connection, run: Run, reuse: Reuse | None) -> Run:
    """The run with its parent and lineage; what still goes on for the same slice ends here.

    A slice is an assessment and its partition. An earlier run of it that has no end yet died, or is about to be
    overtaken: it ends as interrupted, and the database takes nothing more of it, so that two runs can't both decide
    what becomes of a slice.
    """
    goes_on = ~sa.exists().where(run_ends.c.run_id == runs.c.run_id)
    for earlier in list(_of_same_slice(connection, run, goes_on)):
        _end(connection, RunEnd(earlier.run_id, RunStatus.INTERRUPTED, f"run {run.run_id} took over", now()))
    parent = _parent(connection, run, reuse)
    root = run.run_id if parent is None or reuse == "none" else parent.root_run_id
    return run._replace(parent_run_id=parent and parent.run_id, root_run_id=root)


def _parent(connection: sa.Connection, run: Run, reuse: Reuse | None) -> Run | None:
    """The run that this one re-executes, or the first of those; where these died before they were on record, and for a
    plain launch, the last run of the slice, if it did not complete or going on with it was asked for. One that found
    no file to read is none to go on with."""
    for known in (run.parent_run_id, run.root_run_id):
        if known not in (None, run.run_id) and _exists(connection, runs.c.run_id == known):
            return get(connection, str(known))
    earlier = _of_same_slice(connection, run, runs.c.mode == run.mode)
    last = next((one for one in earlier if not _made_nothing(connection, one, run)), None)
    return last if last and (reuse == "lineage" or not _completed(connection, last)) else None


def _of_same_slice(connection: sa.Connection, run: Run, condition: sa.ColumnElement[bool]) -> Iterator[Run]:
    """The runs of the same slice, the last one first."""
    same_partition = runs.select().where(runs.c.partition_keys == run.partition_keys, condition)
    last_first = connection.execute(same_partition.order_by(runs.c.started_at.desc()))
    found = (Run(*row) for row in last_first)
    return (one for one in found if set(json.loads(one.assessments)) & set(json.loads(run.assessments)))


def _made_nothing(connection: sa.Connection, earlier: Run, run: Run) -> bool:
    """Whether an earlier run of the same slice completed without making a table of it."""
    same = set(json.loads(earlier.assessments)) & set(json.loads(run.assessments))
    return _completed(connection, earlier) and not same & _collected(connection, earlier.run_id, MADE_A_TABLE)


def _completed(connection: sa.Connection, run: Run) -> bool:
    end = end_of(connection, run.run_id)
    return end is not None and end.status is RunStatus.COMPLETED


def _nodes(connection: sa.Connection, run_id: str, assessment: str) -> list[Node]:
    of_it = nodes.select().where(nodes.c.run_id == run_id, nodes.c.assessment == assessment)
    return [Node(*row) for row in connection.execute(of_it)]


def nodes_of(connection: sa.Connection, run_id: str) -> list[Node]:
    """The nodes of a run."""
    return [Node(*row) for row in connection.execute(nodes.select().where(nodes.c.run_id == run_id))]


def has_others_of_lineage(connection: sa.Connection, run: Run) -> bool:
    """Whether a run goes on with what others began."""
    others = (runs.c.root_run_id == run.root_run_id) & (runs.c.run_id != run.run_id)
    return _exists(connection, others)


def of_lineage_until(connection: sa.Connection, run: Run) -> set[str]:
    """The ids of a run and of those before it in its lineage."""
    until = (runs.c.root_run_id == run.root_run_id) & (runs.c.started_at <= run.started_at)
    return set(connection.scalars(sa.select(runs.c.run_id).where(until)))


def last_collected(connection: sa.Connection, assessment: str, partition_keys: str) -> Run | None:
    """The last run that asked the questions of a slice and made its tables: one that found no file made none."""
    asked = runs.select().where(runs.c.partition_keys == partition_keys, runs.c.mode == Mode.ASK)
    found = (Run(*row) for row in connection.execute(asked.order_by(runs.c.started_at.desc())))
    return next((run for run in found if assessment in _collected(connection, run.run_id, MADE_A_TABLE)), None)


def last_covering(connection: sa.Connection, assessment: str, partitions: Sequence[str]) -> Run | None:
    """The last run that asked about these partitions, maybe beside others, and made a table of any of them."""
    of_several = runs.c.partition_keys.contains('", "')
    these = (runs.c.partition_keys == json.dumps(list(partitions))) | of_several
    asked = runs.select().where(runs.c.mode == Mode.ASK, these if partitions else runs.c.partition_keys == "[]")
    found = (Run(*row) for row in connection.execute(asked.order_by(runs.c.started_at.desc())))
    covering = (run for run in found if set(partitions) <= set(json.loads(run.partition_keys)))
    made = _made_a_table_of(partitions)
    return next((run for run in covering if assessment in _collected(connection, run.run_id, made)), None)


def _made_a_table_of(partitions: Sequence[str]) -> sa.ColumnElement[bool]:
    if not partitions:
        return MADE_A_TABLE
    of_state = artifacts.c.state_id == node_states.c.state_id
    return sa.exists().where(of_state, artifacts.c.partition_key.in_(partitions))


def not_ended(connection: sa.Connection, *assessments: str) -> list[Run]:
    """The runs (of any of these assessments) that have no end on record, in the order in which they began."""
    endless = runs.select().where(~sa.exists().where(run_ends.c.run_id == runs.c.run_id))
    in_order = connection.execute(endless.order_by(runs.c.started_at, runs.c.run_id))
    found = [Run(*row) for row in in_order]
    return [run for run in found if not assessments or set(assessments) & set(json.loads(run.assessments))]


def get(connection: sa.Connection, run_id: str) -> Run:
    """A run by its id, or by the first characters of it. Raises NotOnRecordError, also when several fit."""
    begins_so = sa.func.substr(runs.c.run_id, 1, len(run_id)) == run_id
    in_full_first = sa.func.length(runs.c.run_id)
    found = connection.execute(runs.select().where(begins_so).order_by(in_full_first).limit(2)).all()
    if not found or (len(found) > 1 and found[0].run_id != run_id):
        raise NotOnRecordError(f"{'no' if not found else 'more than one'} run {run_id!r} is on record")
    return Run(*found[0])


def is_on_record(connection: sa.Connection, run_id: str) -> bool:
    """Whether a run has begun in this landscape."""
    return _exists(connection, runs.c.run_id == run_id)


def end_of(connection: sa.Connection, run_id: str) -> RunEnd | None:
    """How a run ended; None while it goes on."""
    row = connection.execute(run_ends.select().where(run_ends.c.run_id == run_id)).first()
    return None if row is None else RunEnd(*row)


def node_config(connection: sa.Connection, run_id: str, node_id: str) -> Json:
    """The configuration that a node of this run works by."""
    ref = connection.scalar(sa.select(nodes.c.config_ref).where(nodes.c.run_id == run_id, nodes.c.node_id == node_id))
    if ref is None:
        raise NotOnRecordError(f"run {run_id} has no node {node_id} on record")
    return payloads.read_json(connection, ref)


def end_if_all_collected(landscape: Landscape, run_id: str) -> None:
    """End a run as completed once each of its assessments has collected its results; leave nothing open."""

    def end_if_so(connection: sa.Connection) -> None:
        expected = set(json.loads(get(connection, run_id).assessments))
        if expected <= _collected(connection, run_id) and end_of(connection, run_id) is None:
            _end(connection, RunEnd(run_id, RunStatus.COMPLETED, None, now()))

    landscape.decide(end_if_so)


def _collected(connection: sa.Connection, run_id: str, *also: sa.ColumnElement[bool]) -> set[str]:
    completed = (
        sa.select(nodes.c.assessment)
        .join(node_states, (node_states.c.run_id == nodes.c.run_id) & (node_states.c.node_id == nodes.c.node_id))
        .join(node_state_ends, node_state_ends.c.state_id == node_states.c.state_id)
        .where(nodes.c.run_id == run_id, nodes.c.op_name.in_(LAST_OPS))
        .where(node_state_ends.c.status == StateStatus.COMPLETED, *also)
    )
    return set(connection.scalars(completed))


def end(landscape: Landscape, run_id: str, status: RunStatus, detail: str) -> bool:
    """End a run that will not go on by itself; False when it has ended already.

    Its open states end as interrupted, its calls without a reply as unknown, and its tokens without a fate as
    interrupted. After that the database takes no more facts of this run.
    """
    run_end = RunEnd(run_id, status, detail, now())

    def end_or_leave(connection: sa.Connection) -> bool:
        on_record = end_of(connection, run_id)
        if on_record is None:
            _end(connection, run_end)
        return on_record in (None, run_end)

    return landscape.decide(end_or_leave)


def _end(connection: sa.Connection, run_end: RunEnd) -> None:
    """End what is open of a run, a page at a time, and the run."""
    open_states = (
        sa.select(node_states.c.state_id)
        .where(node_states.c.run_id == run_end.run_id)
        .where(~sa.exists().where(node_state_ends.c.state_id == node_states.c.state_id))
    )
    for state_id in connection.scalars(open_states).all():
        insert(connection, [*unknown_replies(connection, calls.c.state_id == state_id), interrupted_end(state_id)])
    of_run = sa.select(node_states.c.state_id).where(node_states.c.run_id == run_end.run_id)
    insert(connection, unknown_replies(connection, calls.c.state_id.in_(of_run)))
    last = ""
    while page := _fateless(connection, run_end.run_id, last):
        insert(connection, [TokenOutcome(token, run_end.run_id, Outcome.INTERRUPTED, None, now()) for token in page])
        last = page[-1]
    insert(connection, [run_end])


def _fateless(connection: sa.Connection, run_id: str, after: str) -> Sequence[str]:
    without = sa.select(tokens.c.token_id).where(tokens.c.run_id == run_id, tokens.c.token_id > after)
    without = without.where(~sa.exists().where(token_outcomes.c.token_id == tokens.c.token_id))
    return connection.scalars(without.order_by(tokens.c.token_id).limit(AT_ONCE)).all()


STEP_IS_GONE = "the step that held it is gone"


def interrupted_end(state_id: str, why: str = STEP_IS_GONE) -> NodeStateEnd:
    """The end of a state whose step died or was told to stop."""
    return NodeStateEnd(state_id, StateStatus.INTERRUPTED, None, why, now())


def unknown_replies(connection: sa.Connection, of_calls: sa.ColumnElement[bool]) -> list[Reply]:
    """The reply `unknown` for each of these calls that has none: it was about to be sent, and may have been paid."""
    unanswered = sa.select(calls.c.call_id).where(of_calls, ~sa.exists().where(replies.c.call_id == calls.c.call_id))
    return [_unknown(call_id) for call_id in connection.scalars(unanswered)]


def _unknown(call_id: str) -> Reply:
    blank = dict.fromkeys(Reply._fields)
    lost = {
        "call_id": call_id,
        "outcome": ReplyOutcome.UNKNOWN,
        "error_class": "unknown",
        "detail": "no reply was recorded: it may have been paid",
        "redacted": 0,
        "received_at": now(),
    }
    return Reply(**{**blank, **lost})  # type: ignore[arg-type]
