"""A run that can't succeed says so after a handful of requests, and leaves its rows to the next one."""

from __future__ import annotations

import threading
import time

import pytest

from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project, rows_of_texts
from elspeth_dagster_tests.walk.test_budgets import ends_of_asking, failure_of

MANY = 2500
"""Rows of four questions each."""
REFUSED = "SELECT count(*) FROM answers WHERE status = 'refused'"


def test_a_wrong_key_costs_a_handful_of_requests(sqlite_project: Project, server: FaultServer) -> None:
    """Also where many steps ask: what one has learnt the others need not learn again."""
    server.configure(expected_key="another", latency_ms=20)
    sqlite_project.env["ELSPETH_MAX_CONCURRENCY"] = "64"
    sqlite_project.declare(rows_per_step=500)
    sqlite_project.write_rows(rows_of_texts(MANY))
    run = sqlite_project.run()
    assert "the key was refused" in failure_of(run)
    assert server.stats()["received"] <= 4
    assert sqlite_project.fact(REFUSED) == 0


def test_a_key_that_is_revoked_stops_the_run_after_those_in_flight(
    sqlite_project: Project, server: FaultServer
) -> None:
    server.configure(latency_ms=30)
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(300))

    def revoke() -> None:
        while server.stats()["received"] < 100:
            time.sleep(0.01)
        server.configure(expected_key="another", latency_ms=30)

    revoking = threading.Thread(target=revoke)
    revoking.start()
    run = sqlite_project.run()
    revoking.join()
    assert "the key was refused" in failure_of(run)
    stats = server.stats()
    assert 0 < stats["outcomes"]["401"] <= 32
    server.configure()
    assert sqlite_project.run().success
    assert server.stats()["paid_extra"] == 0


@pytest.mark.parametrize("status", [500, 429])
def test_a_provider_that_only_fails_is_given_up_and_no_row_is_lost(
    sqlite_project: Project, server: FaultServer, status: int
) -> None:
    server.configure(rules=[{"status": status}], latency_ms=5)
    sqlite_project.declare(errors={"retry_seconds": 3})
    sqlite_project.write_rows(rows_of_texts(200))
    run = sqlite_project.run()
    told = failure_of(run)
    assert "has only failed for" in told and f"HTTP {status}" in told
    assert server.stats()["received"] <= 40
    assert sqlite_project.fact(REFUSED) == 0
    server.configure()
    assert sqlite_project.run().success
    assert len(sqlite_project.table("results")) == 200


def test_a_provider_that_hangs_costs_few_rows(sqlite_project: Project, server: FaultServer) -> None:
    """Here no try can be repeated within the time for retries."""
    server.configure(rules=[{"act": "hang"}])
    (sqlite_project.folder / "trial" / "definitions.py").write_text(IMPATIENT)
    sqlite_project.declare(errors={"retry_seconds": 1})
    sqlite_project.write_rows(rows_of_texts(200))
    assert "× timeout" in failure_of(sqlite_project.run())
    assert sqlite_project.fact(REFUSED) <= 10


def test_a_provider_that_comes_back_in_time_is_asked_on(sqlite_project: Project, server: FaultServer) -> None:
    server.configure(latency_ms=5)
    sqlite_project.declare(errors={"retry_seconds": 60})
    sqlite_project.write_rows(rows_of_texts(100))
    received: list[int] = []

    def break_down() -> None:
        while server.stats()["received"] < 100:
            time.sleep(0.01)
        server.configure(rules=[{"status": 503}], latency_ms=5)
        time.sleep(3)
        received.append(server.stats()["outcomes"]["503"])
        server.configure(latency_ms=5)

    breaking = threading.Thread(target=break_down)
    breaking.start()
    assert sqlite_project.run().success
    breaking.join()
    assert 0 < received[0] <= 60
    assert len(sqlite_project.table("results")) == 100


def test_questions_that_always_fail_among_others_are_refused_and_stop_nothing(
    sqlite_project: Project, server: FaultServer
) -> None:
    server.configure(rules=[{"contains": "poison", "status": 500}])
    rows = rows_of_texts(60)
    for row in rows[::3]:
        row["cs1_text"] = f"poison {row['id']}"
    sqlite_project.declare(errors={"retry_seconds": 1})
    sqlite_project.write_rows(rows)
    assert sqlite_project.run().success
    assert len(sqlite_project.table("failures")) == 20


def test_where_only_such_questions_are_left_one_of_the_next_launches_ends_it(
    sqlite_project: Project, server: FaultServer
) -> None:
    server.configure(rules=[{"contains": "poison", "status": 500}])
    rows = rows_of_texts(15)
    for row in rows[3:]:
        row["cs1_text"] = row["cs2_text"] = f"poison {row['id']}"
    sqlite_project.declare(errors={"retry_seconds": 1})
    sqlite_project.write_rows(rows)
    assert "has only failed for" in failure_of(sqlite_project.run())
    assert any(sqlite_project.run().success for _ in range(5))
    assert len(sqlite_project.table("failures")) == 12
    assert len(sqlite_project.table("results")) == 3


@pytest.mark.parametrize(("most", "allowed"), [(0.1, 20), (7, 7), (0, 0)])
def test_more_failing_rows_than_may_stop_the_run(
    sqlite_project: Project, server: FaultServer, most: float, allowed: int
) -> None:
    server.configure(rules=[{"act": "not_json"}], latency_ms=5)
    sqlite_project.env["ELSPETH_MAX_CONCURRENCY"] = "1"
    sqlite_project.declare(errors={"max_failures": most})
    sqlite_project.write_rows(rows_of_texts(200))
    told = failure_of(sqlite_project.run())
    assert f"{allowed + 1} of 200 rows failed" in told and "errors.max_failures" in told
    assert "× not_json" in told and "of R0:" in told and "questions are left" in told
    assert server.stats()["received"] == 4 * allowed + 1
    assert ends_of_asking(sqlite_project)[-1] == "interrupted"
    server.configure()
    sqlite_project.declare(errors={"max_failures": 200})
    assert sqlite_project.run().success
    assert server.stats()["received"] == 4 * 200


def test_as_many_failing_rows_as_may_stop_nothing(sqlite_project: Project, server: FaultServer) -> None:
    server.configure(rules=[{"contains": "of row 1", "act": "not_json"}])
    sqlite_project.declare(errors={"max_failures": 0.2})
    sqlite_project.write_rows(rows_of_texts(10))
    assert sqlite_project.run().success


def test_rows_with_blank_inputs_were_not_asked_and_dont_count(sqlite_project: Project, server: FaultServer) -> None:
    sqlite_project.declare(errors={"max_failures": 0})
    sqlite_project.write_rows([{**row, "cs1_text": " "} for row in rows_of_texts(5)])
    assert sqlite_project.run().success
    assert len(sqlite_project.table("failures")) == 5


def test_the_failures_of_all_steps_count(sqlite_project: Project, server: FaultServer) -> None:
    """Each step of 10 rows could fail without the others."""
    server.configure(rules=[{"act": "not_json"}])
    sqlite_project.declare(errors={"max_failures": 15}, rows_per_step=10, aggregate={"rows": 5})
    sqlite_project.write_rows(rows_of_texts(40))
    told = failure_of(sqlite_project.run())
    assert "of 40 rows failed" in told
    assert server.stats()["received"] < 4 * 40


IMPATIENT = """
import os
from pathlib import Path
import dagster as dg
from elspeth_dagster import LLMResource, resources_from_env

@dg.definitions
def defs():
    llm = LLMResource(provider="openai", api_key=dg.EnvVar("OPENAI_API_KEY"), base_url=os.environ["OPENAI_BASE_URL"],
                      max_concurrency=16, timeout_seconds=1.5)
    loaded = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    return dg.Definitions.merge(loaded, dg.Definitions(resources={**resources_from_env(), "llm": llm}))
"""
