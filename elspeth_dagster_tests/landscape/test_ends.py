"""Rule 3: nothing disappears. An ended run has no open state, no call without a reply, no token without a fate."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from elspeth_dagster.core.errors import AuditError, NotOnRecordError
from elspeth_dagster.landscape import runs, schema, states
from elspeth_dagster.landscape.columns import Number
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import (
    TABLES,
    Call,
    Edge,
    Fact,
    Node,
    NodeState,
    NodeStateEnd,
    Payload,
    Reply,
    Run,
    RunEnd,
    Token,
    TokenOutcome,
)
from elspeth_dagster.landscape.schema import metadata
from elspeth_dagster.landscape.states import Execution
from elspeth_dagster.landscape.words import Outcome, ReplyOutcome, RunStatus, StateStatus
from elspeth_dagster.landscape.writing import insert
from elspeth_dagster_tests.landscape.sample import (
    RECORDS,
    a_run,
    all_of,
    an_open_run,
    count,
    only,
    raw,
    raw_insert,
    recorded,
)

LEFT_OPEN = {
    "states": "SELECT s.state_id FROM node_states s LEFT JOIN node_state_ends e ON e.state_id = s.state_id "
    "WHERE s.run_id = :run AND e.state_id IS NULL",
    "calls": "SELECT c.call_id FROM calls c LEFT JOIN replies r ON r.call_id = c.call_id "
    "WHERE c.run_id = :run AND r.call_id IS NULL",
    "tokens": "SELECT t.token_id FROM tokens t LEFT JOIN token_outcomes o ON o.token_id = t.token_id "
    "WHERE t.run_id = :run AND o.token_id IS NULL",
}
EXECUTION = Execution("r1", "r1-ask", "a.ask_batches[1]", 1, "host", 8)


def left_open(connection: sa.Connection, run_id: str) -> dict[str, set[str]]:
    """What of a run is open."""
    return {what: set(connection.scalars(sa.text(query), {"run": run_id})) for what, query in LEFT_OPEN.items()}


def everything(connection: sa.Connection) -> set[Fact]:
    """The whole record."""
    return {fact for kind in TABLES for fact in recorded(connection, kind)}


def a_died_run(run_id: str) -> list[Fact]:
    """A run whose step was killed: one call answered, the next one sent, nothing ended."""
    facts = [fact for fact in an_open_run(run_id) if not isinstance(fact, NodeStateEnd | TokenOutcome)]
    sent = only(Call, facts)._replace(call_id=f"{run_id}-sent", query_key="cs1_clarity", call_index=1)
    return [*facts, sent]


@pytest.fixture
def died(landscape: Landscape) -> Landscape:
    """A landscape with two runs that died."""
    landscape.write(*a_died_run("r1"))
    landscape.write(*a_died_run("r2"))
    return landscape


def test_ending_a_run_that_died_leaves_nothing_of_it_open(died: Landscape) -> None:
    assert runs.end(died, "r1", RunStatus.INTERRUPTED, "killed")
    with died.read() as connection:
        assert left_open(connection, "r1") == {"states": set(), "calls": set(), "tokens": set()}
        assert runs.end_of(connection, "r1") is not None


def test_before_its_end_all_of_it_was_open(died: Landscape) -> None:
    with died.read() as connection:
        assert left_open(connection, "r1") == {
            "states": {"r1-state"},
            "calls": {"r1-sent"},
            "tokens": {"r1-slice", "r1-row", "r1-batch"},
        }
        assert runs.end_of(connection, "r1") is None


def test_what_was_left_open_ends_as_interrupted_and_unknown_and_all_else_stays(died: Landscape) -> None:
    with died.read() as connection:
        before = everything(connection)
    runs.end(died, "r1", RunStatus.FAILED, "a step failed")
    with died.read() as connection:
        after = everything(connection)
    assert before <= after
    new = after - before
    [reply], [state_end], [run_end] = all_of(Reply, new), all_of(NodeStateEnd, new), all_of(RunEnd, new)
    assert (reply.call_id, reply.outcome, reply.cost_nanousd) == ("r1-sent", ReplyOutcome.UNKNOWN, None)
    assert "may have been paid" in str(reply.detail)
    assert (state_end.state_id, state_end.status) == ("r1-state", StateStatus.INTERRUPTED)
    assert (run_end.run_id, run_end.status, run_end.detail) == ("r1", RunStatus.FAILED, "a step failed")
    fates = all_of(TokenOutcome, new)
    assert sorted(fate.token_id for fate in fates) == ["r1-batch", "r1-row", "r1-slice"]
    assert {fate[1:4] for fate in fates} == {("r1", Outcome.INTERRUPTED, None)}
    assert len(new) == 6


def test_ending_a_run_twice_changes_nothing(died: Landscape) -> None:
    assert runs.end(died, "r1", RunStatus.FAILED, "first")
    with died.read() as connection:
        before = everything(connection)
    assert not runs.end(died, "r1", RunStatus.INTERRUPTED, "second")
    with died.read() as connection:
        assert everything(connection) == before


def test_a_run_that_is_not_on_record_can_not_end(landscape: Landscape) -> None:
    with pytest.raises(AuditError, match=r"(?i)foreign key"):
        runs.end(landscape, "nobody", RunStatus.FAILED, "")


def test_a_run_ends_by_itself_when_all_its_assessments_have_collected(landscape: Landscape) -> None:
    collect = only(NodeState, a_run("r1"))._replace(state_id="r1-collecting", node_id="r1-collect", token_id="r1-slice")
    node = only(Node, a_run("r1"))._replace(node_id="r1-collect", op_name="collect_results")
    landscape.write(*a_died_run("r1"), node, collect)
    runs.end_if_all_collected(landscape, "r1")
    with landscape.read() as connection:
        assert runs.end_of(connection, "r1") is None
    landscape.write(states.end(collect, {}))
    for _ in range(2):
        runs.end_if_all_collected(landscape, "r1")
        with landscape.read() as connection:
            assert getattr(runs.end_of(connection, "r1"), "status", None) is RunStatus.COMPLETED
            assert left_open(connection, "r1") == {"states": set(), "calls": set(), "tokens": set()}


def after_the_end(connection: sa.Connection, table: sa.Table) -> str:
    """What the database says to a fact of a run that has ended; its parents are on record."""
    fact = only(RECORDS[table], an_open_run("r1"))
    values = raw(fact, connection.dialect)
    unique = {column for key in table.constraints if isinstance(key, sa.UniqueConstraint) for column in key.columns}
    for column in {*table.primary_key, *unique}:
        values[column.name] = 2 if isinstance(column.type, Number) else f"{values[column.name]}-2"
    savepoint = connection.begin_nested()
    try:
        if connection.dialect.name == "postgresql":  # so that it isn't the foreign keys that refuse it
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        raw_insert(connection, table, {**values, "run_id": "r1"})
    except sa.exc.DBAPIError as error:
        return str(error.orig)
    finally:
        savepoint.rollback()
    return "taken"


def test_a_run_that_has_ended_takes_no_more_facts_of_any_kind(database: Database) -> None:
    with database.write() as connection:
        insert(connection, an_open_run("r1"))
        insert(connection, a_run("r1")[-1:])
        for table in metadata.sorted_tables:
            if "run_id" in table.columns and table.name not in ("runs", "run_ends", "seals", "seal_tiles"):
                assert "has ended" in after_the_end(connection, table), table.name


def test_without_that_guard_a_step_that_outlived_its_run_would_leave_a_token_open(database: Database) -> None:
    with database.write() as connection:
        insert(connection, a_died_run("r1"))
        insert(connection, a_run("r1")[-1:])
        on_table = " ON tokens" if connection.dialect.name == "postgresql" else ""
        connection.exec_driver_sql(f"DROP TRIGGER tokens_no_more{on_table}")
        assert "this run has ended" not in after_the_end(connection, schema.tokens)


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_no_temporary_table_can_stand_in_for_the_runs_ends(database: Database) -> None:
    with database.write() as connection:
        insert(connection, an_open_run("r1"))
        insert(connection, a_run("r1")[-1:])
        connection.exec_driver_sql("CREATE TEMPORARY TABLE run_ends (run_id text) ON COMMIT DROP")
        assert "this run has ended" in after_the_end(connection, schema.tokens)


def test_the_next_attempt_ends_one_that_is_still_open(died: Landscape) -> None:
    state = states.open_state(died, EXECUTION, "r1-batch")
    assert (state.attempt, state.retry_number, state.token_id) == (2, 1, "r1-batch")
    with died.read() as connection:
        assert left_open(connection, "r1")["states"] == {state.state_id}
        assert left_open(connection, "r1")["calls"] == set()
        assert left_open(connection, "r2")["states"] == {"r2-state"}
        [ended], unknown = recorded(connection, NodeStateEnd), recorded(connection, Reply)
    assert ended[:2] == ("r1-state", StateStatus.INTERRUPTED)
    assert [reply.call_id for reply in unknown if reply.outcome is ReplyOutcome.UNKNOWN] == ["r1-sent"]


def test_attempts_at_a_token_are_numbered_on_whatever_became_of_them(died: Landscape) -> None:
    for attempt in (2, 3, 4):
        with pytest.raises(ZeroDivisionError), states.held(died, EXECUTION, "r1-batch") as (state, _):
            assert state.attempt == attempt
            raise ZeroDivisionError
    with states.held(died, EXECUTION, "r1-batch") as (state, counts):
        counts["questions"] = 4
    assert state.attempt == 5
    with died.read() as connection:
        attempts = {state.state_id: state.attempt for state in recorded(connection, NodeState)}
        ends = {attempts[end.state_id]: end for end in recorded(connection, NodeStateEnd)}
    assert [(number, end.status, end.detail) for number, end in sorted(ends.items())] == [
        (1, StateStatus.INTERRUPTED, None),
        (2, StateStatus.FAILED, None),
        (3, StateStatus.FAILED, None),
        (4, StateStatus.FAILED, None),
        (5, StateStatus.COMPLETED, '{"questions": 4}'),
    ]


def test_the_facts_that_come_with_a_state_are_recorded_with_it_or_not_at_all(died: Landscape) -> None:
    token = only(Token, a_run("r1"))._replace(token_id="new", row_id="nobody")
    with pytest.raises(AuditError):
        states.open_state(died, EXECUTION, "r1-slice", token)
    with died.read() as connection:
        assert count(connection, schema.node_states) == 2


def test_a_run_begun_again_must_be_the_same(landscape: Landscape) -> None:
    facts = a_run("r1")
    run, nodes, edges, configs = only(Run, facts), all_of(Node, facts), all_of(Edge, facts), [only(Payload, facts)]
    lost = run._replace(parent_run_id="died before it recorded anything", root_run_id="died before")
    for _ in range(2):
        runs.begin(landscape, lost, nodes, edges, configs)
    with landscape.read() as connection:
        assert runs.get(connection, "r1") == lost._replace(parent_run_id=None, root_run_id="r1")
    changed = [node._replace(version="2") for node in nodes]
    with pytest.raises(AuditError, match="another configuration of a"):
        runs.begin(landscape, run, changed, edges, configs)


def test_a_run_is_found_by_the_beginning_of_its_id_unless_two_begin_so(landscape: Landscape) -> None:
    for run_id in ("ab1", "ab12", "ab2", "A%"):
        landscape.write(*a_run(run_id)[:4])
    with landscape.read() as connection:
        for begun, found in {"ab2": "ab2", "ab12": "ab12", "ab1": "ab1", "A": "A%", "A%": "A%"}.items():
            assert runs.get(connection, begun).run_id == found
        for begun, how_many in {"ab": "more than one", "": "more than one", "%": "no", "AB1": "no"}.items():
            with pytest.raises(NotOnRecordError, match=f"^{how_many} run"):
                runs.get(connection, begun)


def test_a_run_of_a_host_whose_clock_is_behind_goes_on_from_the_one_before(landscape: Landscape) -> None:
    facts = a_run("r1")
    run, nodes, edges, configs = only(Run, facts), all_of(Node, facts), all_of(Edge, facts), [only(Payload, facts)]
    runs.begin(landscape, run, nodes, edges, configs)
    behind = run._replace(run_id="r2", root_run_id="r2", started_at=run.started_at - timedelta(minutes=1))
    of_it = [node._replace(run_id="r2") for node in nodes]
    runs.begin(landscape, behind, of_it, [edge._replace(run_id="r2") for edge in edges], [])
    with landscape.read() as connection:
        begun = runs.get(connection, "r2")
        assert (begun.parent_run_id, begun.root_run_id) == ("r1", "r1")
        assert runs.of_lineage_until(connection, begun) == {"r1", "r2"}
