"""Node states: one token at one node, one attempt, executed by one op."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from typing import NamedTuple

import sqlalchemy as sa

from elspeth_dagster.core.errors import ElspethError, LandscapeError, OvertakenError, ProviderError
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.landscape import guards, runs
from elspeth_dagster.landscape.ledger import Landscape, insert, now
from elspeth_dagster.landscape.records import Fact, NodeState, NodeStateEnd
from elspeth_dagster.landscape.schema import calls, node_state_ends, node_states
from elspeth_dagster.landscape.words import StateStatus


class Execution(NamedTuple):
    """Which op execution does the work: Dagster's names for it, and the process."""

    run_id: str
    node_id: str
    step_key: str
    retry_number: int
    host: str
    pid: int


def open_state(landscape: Landscape, execution: Execution, token_id: str, *also: Fact) -> NodeState:
    """Begin the next attempt at a token's state, with facts that go into the record together with it.

    An earlier attempt that is still open belongs to a step that is gone: it ends as interrupted, and its calls
    without a reply as unknown.
    """
    first = NodeState(
        state_id=new_id(),
        run_id=execution.run_id,
        node_id=execution.node_id,
        token_id=token_id,
        attempt=1,
        step_key=execution.step_key,
        retry_number=execution.retry_number,
        host=execution.host,
        pid=execution.pid,
        started_at=now(),
    )

    def open_next(connection: sa.Connection) -> NodeState:
        earlier = _attempts(connection, execution.node_id, token_id)
        if own := [one for one, _ in earlier if one.state_id == first.state_id]:
            return own[0]
        state = first._replace(attempt=len(earlier) + 1)
        left = [one.state_id for one, ended in earlier if not ended]
        insert(connection, [*also, *_close(connection, left), state])
        return state

    return landscape.decide(open_next)


def _attempts(connection: sa.Connection, node_id: str, token_id: str) -> list[tuple[NodeState, bool]]:
    found = (
        sa.select(*node_states.columns, node_state_ends.c.state_id.is_not(None))
        .outerjoin(node_state_ends, node_state_ends.c.state_id == node_states.c.state_id)
        .where(node_states.c.token_id == token_id, node_states.c.node_id == node_id)
    )
    return [(NodeState(*state), ended) for *state, ended in connection.execute(found)]


def _close(
    connection: sa.Connection, state_ids: list[str], why: str = runs.STEP_IS_GONE, *, failed: bool = False
) -> Iterator[Fact]:
    for state_id in state_ids:
        yield from runs.unknown_replies(connection, calls.c.state_id == state_id)
        failure = NodeStateEnd(state_id, StateStatus.FAILED, None, why, now())
        yield failure if failed else runs.interrupted_end(state_id, why)


def close(landscape: Landscape, at_work: Sequence[NodeState], why: str, *, failed: bool) -> None:
    """End states whose step failed or was told to stop; what has ended meanwhile stays as it is.

    Their calls without a reply may have been paid: unknown.
    """
    landscape.write()  # what was handed over before is on record first
    state_ids = [state.state_id for state in at_work]

    def close_those_open(connection: sa.Connection) -> None:
        ended = sa.select(node_state_ends.c.state_id).where(node_state_ends.c.state_id.in_(state_ids))
        left = set(state_ids) - set(connection.scalars(ended))
        insert(connection, _close(connection, sorted(left), why, failed=failed))

    landscape.decide(close_those_open)


def end_earlier(landscape: Landscape, execution: Execution) -> None:
    """End what earlier attempts at a step left open: they can record nothing more. What this one opened stays open."""
    same_step = [node_states.c[name] == getattr(execution, name) for name in ("run_id", "node_id", "step_key")]
    own = sa.and_(*(node_states.c[name] == getattr(execution, name) for name in ("retry_number", "host", "pid")))
    left = (
        sa.select(node_states.c.state_id)
        .outerjoin(node_state_ends, node_state_ends.c.state_id == node_states.c.state_id)
        .where(*same_step, ~own, node_state_ends.c.state_id.is_(None))
    )

    def close_those_left(connection: sa.Connection) -> None:
        insert(connection, _close(connection, sorted(connection.scalars(left))))

    landscape.decide(close_those_left)


def gave_up(connection: sa.Connection, execution: Execution) -> str | None:
    """Why another step of the same op has given the provider up in this run, if one has."""
    of_op = (node_states.c.run_id == execution.run_id, node_states.c.node_id == execution.node_id)
    ended = (
        sa.select(node_state_ends.c.error)
        .join(node_states, node_states.c.state_id == node_state_ends.c.state_id)
        .where(*of_op, node_states.c.step_key != execution.step_key, node_state_ends.c.status == StateStatus.FAILED)
        .where(node_state_ends.c.error.startswith(f"{ProviderError.__name__}: "))
    )
    error = connection.scalar(ended.limit(1))
    return error and error.removeprefix(f"{ProviderError.__name__}: ")


def check_goes_on(landscape: Landscape, state: NodeState) -> None:
    """Raise OvertakenError when the state has an end on record: another attempt, or another run, took over."""
    ended = sa.select(node_state_ends.c.state_id).where(node_state_ends.c.state_id == state.state_id)
    with landscape.read() as connection:
        if connection.scalar(ended) is not None:
            raise OvertakenError(guards.ATTEMPT_ENDED)


def is_overtaken(connection: sa.Connection, execution: Execution) -> bool:
    """Whether another attempt, or the end of the run, has closed a state of this execution."""
    own = (
        sa.select(node_states.c.state_id)
        .join(node_state_ends, node_state_ends.c.state_id == node_states.c.state_id)
        .where(
            *(node_states.c[name] == value for name, value in execution._asdict().items()),
            node_state_ends.c.status == StateStatus.INTERRUPTED,
        )
    )
    return connection.scalar(sa.select(own.exists())) or False


def end(state: NodeState, counts: Mapping[str, object]) -> NodeStateEnd:
    """The end of a state that went its way."""
    return NodeStateEnd(state.state_id, StateStatus.COMPLETED, json.dumps(counts, sort_keys=True), None, now())


def failure(state: NodeState, error: BaseException) -> NodeStateEnd:
    """The end of a state by an error."""
    return NodeStateEnd(state.state_id, StateStatus.FAILED, None, told(error), now())


def told(error: BaseException) -> str:
    """An error as a state's end keeps it: in its own words where they are ours, which quote no row.

    Of any other, which may quote anything, only where it came up. (The step's log has it whole.)
    """
    if isinstance(error, ElspethError):
        return f"{type(error).__name__}: {error}"[:2000]
    frames = extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}: the step's log says more"


@contextmanager
def held(
    landscape: Landscape, execution: Execution, token_id: str, *also: Fact
) -> Iterator[tuple[NodeState, dict[str, object]]]:
    """A state for as long as the block runs, and the counts that its end will tell.

    It ends as completed, as failed with the error that leaves the block, or as interrupted when the step is told to
    stop.
    """
    state = open_state(landscape, execution, token_id, *also)
    counts: dict[str, object] = {}
    try:
        yield state, counts
    except GeneratorExit:  # how Dagster leaves a step of which an output could not be kept
        landscape.write(failure(state, LandscapeError("an output could not be written: the step's log says why")))
        raise
    except Exception as error:
        landscape.write(failure(state, error))
        raise
    except BaseException as error:
        close(landscape, [state], str(error) or type(error).__name__, failed=False)
        raise
    landscape.write(end(state, counts))
