"""What the pages ask the database for, on both databases, of runs that went well and badly."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa

from elspeth_dagster.core.errors import NotOnRecordError
from elspeth_dagster.landscape import browsing, costs, runs, surveying
from elspeth_dagster.landscape.browsing import Going, Order, Wanted
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.explaining import explain_record
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Answer, Call, NodeState, Payload, Row, Run, Token, TokenOutcome
from elspeth_dagster.landscape.remembering import Memory
from elspeth_dagster.landscape.surveying import Place
from elspeth_dagster.landscape.words import AnswerStatus, Outcome, RunStatus, StateStatus, TokenKind, Trigger
from elspeth_dagster_tests.explorer.conftest import PARTITION, SPELLS, Explored, a_going_run
from elspeth_dagster_tests.landscape.sample import NOON, a_run, a_running_run, only


@pytest.fixture
def connection(explored: Explored) -> Iterator[sa.Connection]:
    database = Database.open(explored.project.landscape_url, read_only=True)
    with database.read() as found:
        yield found
    database.close()


def ids(connection: sa.Connection, wanted: Wanted, order: Order = Order.NEWEST) -> list[str]:
    """The runs that are wanted, a page after another, one run on each."""
    found: list[str] = []
    after = None
    while len(found) < 9:
        page = browsing.page_of_runs(connection, wanted, order, limit=1, after=after)
        found += [line.run_id for line in page.lines]
        if (after := page.next) is None:
            return found
    raise AssertionError(f"pages never end: {found}")


# Runs ----------------------------------------------------------------------------------------------------------------


def test_pages_of_runs_hold_each_run_once_in_the_order_asked_for(connection: sa.Connection, explored: Explored) -> None:
    oldest = ["going", explored.trial, explored.again, explored.hostile]
    assert ids(connection, Wanted(), Order.OLDEST) == oldest
    assert ids(connection, Wanted(), Order.NEWEST) == oldest[::-1]
    lines = {line.run_id: line for line in browsing.page_of_runs(connection, limit=9).lines}
    for order, name in ((Order.DEAREST, "cost_nanousd"), (Order.MOST_ROWS, "rows")):
        numbers = [getattr(lines[run_id], name) or 0 for run_id in ids(connection, Wanted(), order)]
        assert numbers == sorted(numbers, reverse=True) and len(numbers) == 4


def test_runs_are_chosen_by_assessment_partition_status_and_cost(connection: sa.Connection, explored: Explored) -> None:
    assert ids(connection, Wanted(assessment="hostile")) == [explored.hostile]
    assert ids(connection, Wanted(assessment="tria")) == []
    assert ids(connection, Wanted(partition=PARTITION)) == [explored.hostile]
    assert ids(connection, Wanted(partition=PARTITION[:-1])) == []
    assert ids(connection, Wanted(status=Going.OPEN)) == ["going"]
    assert len(ids(connection, Wanted(status=RunStatus.COMPLETED))) == 3
    cost = browsing.line_of_run(connection, explored.trial).cost_nanousd
    assert cost and ids(connection, Wanted(least_nanousd=cost, most_nanousd=cost)) == [explored.trial]
    assert explored.trial not in ids(connection, Wanted(least_nanousd=cost + 1))
    assert browsing.names_of_assessments(connection) == ["a", "hostile", "trial"]


def test_the_counts_of_a_run_are_remembered_once_it_is_over(landscape: Landscape) -> None:
    """A run that goes on is counted anew each time; of one that is over the same is told without asking again."""
    landscape.write(*a_going_run("going"))
    memory, asked = Memory(), []

    def calls() -> int:
        with landscape.read() as connection:
            asked.clear()
            sa.event.listen(connection, "before_cursor_execute", lambda *told: asked.append(told[2]))
            return browsing.line_of_run(connection, "going", memory).calls

    before = calls()
    [call] = [fact for fact in a_running_run("going") if isinstance(fact, Call)]
    landscape.write(call._replace(call_id="later", call_index=7, query_attempt=7))
    assert calls() == before + 1 and any("FROM node_states JOIN calls" in query for query in asked)
    runs.end(landscape, "going", RunStatus.FAILED, "over")
    assert calls() == calls() == before + 1
    assert asked and not any("calls" in query for query in asked)


def test_a_run_is_told_alike_with_its_calls_added_up_before(connection: sa.Connection, explored: Explored) -> None:
    for run_id in (explored.trial, explored.again, "going"):
        total = costs.total(costs.costs(connection, run_id))
        assert browsing.line_of_run(connection, run_id, spent=total) == browsing.line_of_run(connection, run_id)


def test_no_more_is_remembered_than_there_is_room_for() -> None:
    memory = Memory(most=2)
    for number in range(3):
        memory.keep("counts", f"r{number}", number + 1)
    assert [memory.recall("counts", f"r{number}") for number in range(3)] == [None, 2, 3]


def test_runs_that_began_at_the_same_instant_are_told_apart_by_their_ids(landscape: Landscape) -> None:
    for name in ("r3", "r1", "r2"):
        landscape.write(*a_run(name))
    facts = a_run("r0")
    landscape.write(*(f._replace(started_at=NOON + timedelta(1)) if f == only(Run, facts) else f for f in facts))
    with landscape.read() as connection:
        assert ids(connection, Wanted()) == ["r0", "r3", "r2", "r1"]
        assert ids(connection, Wanted(), Order.MOST_ROWS) == ["r3", "r2", "r1", "r0"]


def test_a_run_that_only_verified_has_no_fates_to_count(landscape: Landscape) -> None:
    facts = a_run("r1")
    outcome = only(TokenOutcome, facts)
    landscape.write(*(f._replace(outcome=Outcome.COMPLETED) if f == outcome else f for f in facts))
    with landscape.read() as connection:
        line = browsing.line_of_run(connection, "r1")
    assert (line.rows, line.assessed, line.partial, line.failed, line.interrupted) == (1, 0, 0, 0, 0)


# One run -------------------------------------------------------------------------------------------------------------


def test_a_run_is_as_far_as_its_questions_have_answers(connection: sa.Connection, explored: Explored) -> None:
    assert surveying.progress(connection, explored.trial) == (20, 20)
    assert surveying.progress(connection, "going") == (1, 2)


def test_steps_tell_how_their_states_ended(connection: sa.Connection, explored: Explored) -> None:
    steps = {step.step_key: step for step in surveying.steps(connection, explored.trial)}
    assert list(steps) == [
        "trial.admit_rows", "trial.aggregate_rows", "trial.ask_batches[shard_00001]", "trial.collect_results",
    ]  # fmt: skip
    asked = steps["trial.ask_batches[shard_00001]"]
    assert (asked.states, asked.failed, asked.interrupted, asked.open) == (3, 0, 0, 0)
    assert asked.ended_at and asked.ended_at > asked.started_at
    [going] = surveying.steps(connection, "going")
    assert (going.open, going.ended_at) == (1, None)


def test_batches_come_in_order_a_part_at_a_time(connection: sa.Connection, explored: Explored) -> None:
    lines = surveying.batch_lines(connection, explored.trial, limit=9)
    assert [(line.rows, line.batch.trigger_fired) for line in lines] == [
        (2, Trigger.ROWS), (2, Trigger.ROWS), (1, Trigger.END_OF_SLICE),
    ]  # fmt: skip
    assert all([end.end and end.end.status for end in line.attempts] == [StateStatus.COMPLETED] for line in lines)
    first = lines[0].batch
    rest = surveying.batch_lines(connection, explored.trial, limit=9, after=Place(first.node_id, first.ordinal))
    assert rest == lines[1:]
    assert surveying.batch_line(connection, explored.trial, first.batch_id) == lines[0]
    assert surveying.batch_line(connection, explored.again, first.batch_id) is None


def test_a_batch_has_its_rows_with_their_outcomes(connection: sa.Connection, explored: Explored) -> None:
    second = surveying.batch_lines(connection, explored.trial, limit=9)[1].batch
    found = [tuple(member) for member in surveying.members(connection, second.batch_id, limit=9)]
    assert found == [(0, 2, "R2", Outcome.ASSESSED), (1, 3, "R3", Outcome.FAILED)]
    assert [m.row_key for m in surveying.members(connection, second.batch_id, limit=9, after=0)] == ["R3"]


def test_rejected_records_come_in_order_a_part_at_a_time(connection: sa.Connection, explored: Explored) -> None:
    [line] = surveying.rejection_lines(connection, explored.trial, limit=9)
    assert (line.assessment, line.row_index, line.line, line.column_name) == ("trial", 5, 7, "id")
    assert surveying.rejection_lines(connection, explored.trial, limit=9, after=Place(line.node_id, 5)) == []
    assert surveying.rejection_lines(connection, explored.trial, limit=9, after=Place(line.node_id, 4)) == [line]


def test_refusals_are_counted_by_reason_with_three_examples(connection: sa.Connection, explored: Explored) -> None:
    found = {(each.question, each.reason): each for each in surveying.refusals(connection, explored.trial)}
    assert found["cs2_depth", "not_json"].rows == 1
    assert [row[:2] for row in found["cs2_depth", "not_json"].examples] == [(3, "R3")]
    assert {reason for _, reason in found} == {"not_json", "blank_input", "row_not_asked"}
    assert surveying.refusals(connection, explored.again) != []


def test_a_refusal_that_a_later_attempt_has_answered_does_not_count(landscape: Landscape) -> None:
    facts = a_run("r1")
    answer, state = only(Answer, facts), only(NodeState, facts)
    refused = answer._replace(status=AnswerStatus.REFUSED, reason="not_json", values_ref=None)
    later = state._replace(state_id="later", attempt=2)
    landscape.write(*[refused if fact == answer else fact for fact in facts[:-4]])
    with landscape.read() as connection:
        assert [each.reason for each in surveying.refusals(connection, "r1")] == ["not_json"]
    landscape.write(later, answer._replace(state_id="later"))
    with landscape.read() as connection:
        assert surveying.refusals(connection, "r1") == []


# One record ----------------------------------------------------------------------------------------------------------


def test_a_record_is_found_by_its_index(explored: Explored) -> None:
    with Landscape.look_at(explored.project.landscape_url, patience=1) as opened:
        found = explain_record(opened, explored.hostile, "hostile", 1)
        assert found.row and found.row.row.row_key == SPELLS[1]
        assert explain_record(opened, explored.trial, "trial", 5).rejections[0].rejection.row_index == 5
        with pytest.raises(NotOnRecordError, match="has no record 99 of trial"):
            explain_record(opened, explored.trial, "trial", 99)


def test_a_record_is_found_by_its_index_whatever_its_key(landscape: Landscape) -> None:
    facts, values = a_going_run("r1"), Payload.of(b"{}")
    first = only(Row, facts)._replace(row_key="#1", values_ref=values.ref)
    second = first._replace(row_id="second", row_key="R", row_index=1)
    token = Token("of-second", "r1", TokenKind.ROW, "second")
    landscape.write(values, *(first if f == only(Row, facts) else f for f in facts[:13]), second, token)
    found = explain_record(landscape, "r1", "a", 1).row
    assert found and found.row.row_key == "R"


def test_neighbours_are_the_rows_before_and_after(connection: sa.Connection, explored: Explored) -> None:
    def beside(index: int) -> tuple[int | None, int | None]:
        return surveying.neighbours(connection, explored.trial, "trial.admit_rows", index)

    assert [beside(0), beside(2), beside(4), beside(5)] == [(None, 1), (1, 3), (3, None), (4, None)]
