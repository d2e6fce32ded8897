"""A run stops before it would exceed its budget, and goes on with a bigger one; nothing is asked twice."""

from __future__ import annotations

import os
import signal
from typing import Any

import dagster as dg

from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project, rows_of_texts

PRICE = {"input_mtok": 10.0, "output_mtok": 1000.0}
LLM = {"model_name": "own-deployment", "temperature": 0, "max_tokens": 100, "price": PRICE}
TOTAL = "SELECT coalesce(sum(cost_nanousd), 0) FROM replies"
NANO = 10**9
ROWS = 30


def a_project(project: Project, budget: dict[str, Any] | None, rows: int = ROWS, **changes: Any) -> None:
    project.declare(llm=LLM, budget=budget, **changes)
    project.write_rows(rows_of_texts(rows))


def spent_by_the_servers_count(server: FaultServer) -> int:
    """In nano-dollars, from the usage that the server told in its replies."""
    usage = server.stats()["usage"]
    return round(usage["prompt_tokens"] * PRICE["input_mtok"] * 1000 + usage["completion_tokens"] * 1000 * 1000)


def failure_of(result: dg.ExecuteInProcessResult | dg.JobExecutionResult) -> str:
    """What the first step that failed says."""
    [event, *_] = [one for one in result.all_events if one.event_type is dg.DagsterEventType.STEP_FAILURE]
    assert event.step_failure_data.error is not None
    told = event.step_failure_data.user_failure_data
    return str(told.description if told else event.step_failure_data.error.message)


def ends_of_asking(project: Project) -> list[str]:
    found = project.facts(
        "SELECT DISTINCT e.status FROM node_states s JOIN node_state_ends e ON e.state_id = s.state_id "
        "WHERE s.node_id = 'trial.ask_batches' ORDER BY e.status"
    )
    return [row["status"] for row in found]


def whole_cost(project: Project, server: FaultServer) -> int:
    """What the whole run costs without a budget; the server forgets it afterwards."""
    assert project.run(reuse="none").success
    cost = project.fact(TOTAL)
    server.reset()
    return int(cost)


def test_a_run_stops_before_it_would_exceed_its_money_and_a_bigger_budget_continues_it(
    project: Project, server: FaultServer
) -> None:
    a_project(project, None)
    whole = whole_cost(project, server)
    before = project.fact(TOTAL)
    limit = whole / 2 / NANO
    a_project(project, {"max_cost_usd": limit}, aggregate={"rows": 5})
    stopped = project.run(reuse="none")
    assert not stopped.success
    told = failure_of(stopped)
    assert "budget.max_cost_usd" in told and f"of ${limit:g}" in told and "questions are left" in told
    spent = spent_by_the_servers_count(server)
    assert spent == project.fact(TOTAL) - before
    assert whole / 4 < spent <= whole / 2
    assert "failed" not in ends_of_asking(project) and "interrupted" in ends_of_asking(project)
    a_project(project, {"max_cost_usd": 2 * whole / NANO}, aggregate={"rows": 5})
    assert project.run().success
    stats = server.stats()
    assert (stats["received"], stats["paid_extra"]) == (4 * ROWS, 0)
    assert len(project.table("results")) == ROWS


def test_what_a_lineage_has_spent_counts(sqlite_project: Project, server: FaultServer) -> None:
    a_project(sqlite_project, {"max_calls": 50})
    assert not sqlite_project.run().success
    assert server.stats()["received"] == 50
    again = sqlite_project.run()
    assert not again.success and "50 of 50 calls" in failure_of(again)
    assert server.stats()["received"] == 50
    a_project(sqlite_project, {"max_calls": 4 * ROWS})
    assert sqlite_project.run().success
    assert server.stats()["received"] == 4 * ROWS


def test_a_budget_that_is_exactly_enough_is_enough(sqlite_project: Project, server: FaultServer) -> None:
    a_project(sqlite_project, {"max_calls": 4 * ROWS}, rows_per_step=8, aggregate={"rows": 4})
    assert sqlite_project.run().success


def test_every_try_counts(sqlite_project: Project, server: FaultServer) -> None:
    server.configure(first_tries={"status": 500, "times": 1}, record=True)
    a_project(sqlite_project, {"max_calls": 4 * ROWS + 10})
    assert not sqlite_project.run().success
    assert server.stats()["received"] == 4 * ROWS + 10


def test_processes_that_share_a_budget_never_exceed_it(project: Project, server: FaultServer) -> None:
    server.configure(latency_ms=[20, 60], record=True)
    a_project(project, {"max_cost_usd": 1}, rows=24, rows_per_step=12, aggregate={"rows": 3})
    assert not project.run_in_processes().success
    most_of_a_call = project.fact("SELECT max(bound_nanousd) FROM calls")
    assert NANO - most_of_a_call < spent_by_the_servers_count(server) <= NANO
    assert project.fact("SELECT count(DISTINCT pid) FROM node_states WHERE node_id = 'trial.ask_batches'") == 2
    a_project(project, {"max_calls": 1000}, rows=24, rows_per_step=12, aggregate={"rows": 3})
    assert project.run().success
    stats = server.stats()
    assert (stats["received"], stats["paid_extra"]) == (4 * 24, 0)


def test_a_verification_has_the_budget_for_itself(sqlite_project: Project, server: FaultServer) -> None:
    a_project(sqlite_project, {"max_calls": 12}, rows=3)
    assert sqlite_project.run().success
    assert sqlite_project.run("trial_verify_job", sample=1.0).success
    a_project(sqlite_project, {"max_calls": 5}, rows=3)
    assert sqlite_project.run("trial_verify_job", sample=1.0).success  # it goes by what the verified run went by
    assert server.stats()["received"] == 36


def test_what_a_killed_run_spent_or_may_have_spent_counts(sqlite_project: Project, server: FaultServer) -> None:
    server.configure(latency_ms=400, record=True)
    sqlite_project.env["ELSPETH_MAX_CONCURRENCY"] = "8"
    a_project(sqlite_project, {"max_calls": 40})
    run = sqlite_project.launch()
    sqlite_project.wait_for("SELECT count(*) FROM calls", 16)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    assert "40 of 40 calls" in failure_of(sqlite_project.run())
    assert sqlite_project.fact("SELECT count(*) FROM calls") == 40
    assert server.stats()["received"] <= 40
    a_project(sqlite_project, {"max_calls": 4 * ROWS + 20})
    assert sqlite_project.run().success


def test_a_verification_keeps_to_a_budget_whatever_limits_its_replies(
    sqlite_project: Project, server: FaultServer
) -> None:
    llm = {"model_name": "own", "options": {"max_completion_tokens": 100}, "price": PRICE}
    sqlite_project.declare(llm=llm, budget={"max_cost_usd": 50})
    sqlite_project.write_rows(rows_of_texts(2))
    assert sqlite_project.run().success
    assert sqlite_project.run("trial_verify_job", sample=1.0).success
    assert server.stats()["received"] == 16


def test_usage_that_lies_counts_as_not_reported(project: Project, server: FaultServer) -> None:
    server.configure(reports={"usage": {"prompt_tokens": 2**53 - 2, "completion_tokens": 1, "total_tokens": 2**53 - 1}})
    a_project(project, None, rows=1)
    assert project.run().success
    told = project.facts("SELECT DISTINCT prompt_tokens, completion_tokens, cost_nanousd FROM replies")
    assert told == [{"prompt_tokens": None, "completion_tokens": 1, "cost_nanousd": None}]
