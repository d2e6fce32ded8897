"""A budget's shares: processes draw from it together, never more than it holds, and what a dead one held comes back."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from elspeth_dagster.core.errors import OvertakenError
from elspeth_dagster.landscape import budgets
from elspeth_dagster.landscape.budgets import Spent
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Call, NodeState, Reply, Run
from elspeth_dagster.landscape.states import Execution
from elspeth_dagster.landscape.words import ReplyOutcome
from elspeth_dagster.stages.calling import ErrorClass, Exchange
from elspeth_dagster.stages.charging import charge
from elspeth_dagster_tests.landscape.sample import a_run, a_running_run, only, recorded

STEP = Execution("r1", "r1-ask", "a.ask_batches[1]", 1, "host", 8)
"""A second attempt at the step that is on record."""
OTHER = STEP._replace(step_key="a.ask_batches[2]")
BOUND = 900
ALL = Spent(10_000, 90)


@pytest.fixture
def landscape(landscape: Landscape) -> Landscape:
    """With a running run on record, which has made one call, for 42."""
    landscape.write(*a_running_run("r1"))
    return landscape


def drawn_by_a_process(url: str, number: int) -> Spent:
    """All that a step can draw, a call at a time."""
    step = STEP._replace(step_key=f"step {number}")
    with Landscape.open(url) as landscape:
        granted = budgets.begin(landscape, step, f"holder {number}")
        while True:
            more = draw(landscape, step, f"holder {number}", granted)
            if more == granted:
                return granted
            granted = more


def draw(landscape: Landscape, step: Execution, holder: str, granted: Spent, left: Spent = ALL) -> Spent:
    wanted, needed = Spent(640, 6), Spent(100, 1)
    share = budgets.draw(landscape, step, holder, granted=granted, wanted=wanted, needed=needed, left=left)
    return share.granted


def test_processes_never_draw_more_than_there_is_and_leave_nothing_that_one_could_use(
    landscape: Landscape, database_url: str
) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        drawn = list(pool.map(drawn_by_a_process, [database_url] * 4, range(4)))
    nanousd, calls = sum(one.nanousd for one in drawn), sum(one.calls for one in drawn)
    assert nanousd <= 10_000 and calls <= 90
    assert nanousd > 10_000 - 100 or calls == 90


def test_what_a_step_gives_back_another_can_draw(landscape: Landscape) -> None:
    budgets.begin(landscape, STEP, "one")
    budgets.begin(landscape, OTHER, "two")
    left = Spent(42 + 100, 2)
    mine = draw(landscape, STEP, "one", Spent(42, 1), left)
    assert mine == Spent(142, 2)
    assert draw(landscape, OTHER, "two", Spent(0, 0), left) == Spent(0, 0)
    budgets.settle(landscape, STEP, "one")
    assert draw(landscape, OTHER, "two", Spent(0, 0), left) == Spent(100, 1)


def test_of_what_a_dead_attempt_held_only_what_it_spent_stays_granted_and_it_can_do_no_more(
    landscape: Landscape,
) -> None:
    granted = budgets.begin(landscape, STEP, "dead")
    draw(landscape, STEP, "dead", granted)
    assert budgets.begin(landscape, STEP, "alive") == Spent(42, 1, 0)
    with pytest.raises(OvertakenError):
        draw(landscape, STEP, "dead", granted)
    budgets.settle(landscape, STEP, "dead")
    assert draw(landscape, STEP, "alive", Spent(42, 1)) != Spent(42, 1)
    with landscape.read() as connection:
        [state] = recorded(connection, NodeState)
    late = only(Call, a_run("r1"))._replace(call_id="late", call_index=7, query_attempt=7)
    with pytest.raises(Exception, match="this attempt has ended"):
        landscape.write(late._replace(state_id=state.state_id))


def test_a_draw_whose_commit_arrived_although_the_connection_was_lost_is_not_drawn_twice(landscape: Landscape) -> None:
    granted = budgets.begin(landscape, STEP, "one")
    once = draw(landscape, STEP, "one", granted)
    assert draw(landscape, STEP, "one", granted) == once


WAYS = {
    "paid": (ReplyOutcome.SUCCESS, None, 200, 42),
    "paid, price not known": (ReplyOutcome.SUCCESS, None, 200, None),
    "server": (ReplyOutcome.ERROR, ErrorClass.SERVER, 500, None),
    "rate_limited": (ReplyOutcome.ERROR, ErrorClass.RATE_LIMITED, 429, None),
    "timeout": (ReplyOutcome.ERROR, ErrorClass.TIMEOUT, None, None),
    "cut": (ReplyOutcome.ERROR, ErrorClass.CONNECTION, 200, None),
    "oversized": (ReplyOutcome.ERROR, ErrorClass.OVERSIZED, 200, None),
    "unreachable": (ReplyOutcome.ERROR, ErrorClass.UNREACHABLE, None, None),
    "not sent": (ReplyOutcome.ERROR, ErrorClass.NOT_SENT, None, None),
    "unknown": (ReplyOutcome.UNKNOWN, None, None, None),
}
COUNTED = {"paid": 42, "server": 0, "rate_limited": 0, "unreachable": 0, "not sent": 0}
"""All others may have been paid, nobody knows how much."""


@pytest.mark.parametrize("way", [*WAYS, "no reply"])
def test_a_call_counts_by_what_it_cost_or_can_have_cost(landscape: Landscape, way: str) -> None:
    call, reply = only(Call, a_run("r1")), only(Reply, a_run("r1"))
    landscape.write(call._replace(call_id="this", call_index=1, query_attempt=2, bound_nanousd=BOUND))
    outcome, error, status, cost = WAYS.get(way, WAYS["unknown"])
    if way in WAYS:
        landscape.write(
            reply._replace(
                call_id="this",
                outcome=outcome,
                error_class=error or (None if outcome is ReplyOutcome.SUCCESS else "unknown"),
                http_status=status,
                cost_nanousd=cost,
            )
        )
    with landscape.read() as connection:
        spent = budgets.spent_by_step(connection, STEP)
    assert spent == Spent(42 + COUNTED.get(way, BOUND), 1 if way == "not sent" else 2)
    exchange = None if outcome is ReplyOutcome.UNKNOWN else Exchange(status, b"", error=error)
    assert charge(BOUND, cost, exchange) == COUNTED.get(way, BOUND)


def test_what_nobody_can_tell_is_told_apart(landscape: Landscape) -> None:
    call = only(Call, a_run("r1"))
    landscape.write(call._replace(call_id="this", call_index=1, query_attempt=2, bound_nanousd=None))
    with landscape.read() as connection:
        assert budgets.spent_by_step(connection, STEP) == Spent(42, 2, 1)


def test_what_other_runs_of_the_lineage_spent_counts_and_what_strangers_spent_does_not(landscape: Landscape) -> None:
    for run_id, root in (("r2", "r1"), ("r3", "r3")):
        facts = [fact._replace(root_run_id=root) if isinstance(fact, Run) else fact for fact in a_run(run_id)]
        landscape.write(*facts)
    with landscape.read() as connection:
        assert budgets.spent_before(connection, "r2", "r1-ask") == Spent(42, 1)
        assert budgets.spent_before(connection, "r3", "r1-ask") == Spent(0, 0)
