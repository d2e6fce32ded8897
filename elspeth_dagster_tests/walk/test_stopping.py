"""A step that is told to stop sends nothing more, waits for what is in flight, and loses nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import DAGSTER, Project, rows_of_texts

IN_FLIGHT, QUEUED = 4, 8
NO_REPLY = "SELECT count(*) FROM calls WHERE call_id NOT IN (SELECT call_id FROM replies)"
SHORT_GRACE = """
import os
from pathlib import Path
import dagster as dg
from elspeth_dagster import LLMResource, resources_from_env

@dg.definitions
def defs():
    llm = LLMResource(provider="openai", api_key=dg.EnvVar("OPENAI_API_KEY"), base_url=os.environ["OPENAI_BASE_URL"],
                      max_concurrency=4, grace_seconds=1)
    loaded = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    return dg.Definitions.merge(loaded, dg.Definitions(resources={**resources_from_env(), "llm": llm}))
"""


def a_run_with_four_in_flight_and_eight_queued(project: Project, server: FaultServer) -> subprocess.Popen[str]:
    """Three rows of four questions; the first four are under way."""
    project.env["ELSPETH_MAX_CONCURRENCY"] = str(IN_FLIGHT)
    project.declare(aggregate={"rows": 1})
    project.write_rows(rows_of_texts(3))
    run = project.launch()
    project.wait_for("SELECT count(*) FROM calls", IN_FLIGHT)
    wait_until_all_in_flight(server)
    return run


def wait_until_all_in_flight(server: FaultServer) -> None:
    """Wait until so many requests have been in flight at once, and not for ever."""
    until = time.monotonic() + 60
    while server.stats()["in_flight_max"] < IN_FLIGHT:
        assert time.monotonic() < until
        time.sleep(0.05)


def stop(run: subprocess.Popen[str], times: int = 1) -> str:
    """Send SIGTERM to the run's process; what it logged until it ended."""
    for _ in range(times):
        os.kill(run.pid, signal.SIGTERM)
        time.sleep(0.3)
    _, log = run.communicate(timeout=60)
    return log


def on_record(project: Project) -> dict[str, Any]:
    """How many calls came back how, how the asking states ended, and how many rows have a fate."""
    outcomes = project.facts("SELECT outcome, count(*) AS n FROM replies GROUP BY outcome")
    states = project.facts(
        "SELECT e.status, e.error FROM node_states s JOIN node_state_ends e ON e.state_id = s.state_id "
        "WHERE s.node_id = 'trial.ask_batches'"
    )
    return {
        "replies": {row["outcome"]: row["n"] for row in outcomes},
        "states": [state["status"] for state in states],
        "fates": project.fact("SELECT count(*) FROM token_outcomes"),
    }


def test_what_is_in_flight_comes_back_and_what_is_queued_is_not_sent(project: Project, server: FaultServer) -> None:
    server.configure(latency_ms=6000, record=True)
    run = a_run_with_four_in_flight_and_eight_queued(project, server)
    log = stop(run)
    assert run.returncode != 0 and "interrupted" in log.lower()
    assert server.stats()["received"] == server.stats()["paid"] == IN_FLIGHT
    found = on_record(project)
    assert found["replies"] == {"success": IN_FLIGHT}
    assert "interrupted" in found["states"] and "failed" not in found["states"]
    assert found["fates"] == 0
    server.configure(record=True)
    assert project.run().success
    assert server.stats()["received"] == IN_FLIGHT + QUEUED
    assert len(project.table("results")) == 3


@pytest.mark.parametrize("times", [1, 2])
def test_what_does_not_come_back_in_time_counts_as_unknown(
    sqlite_project: Project, server: FaultServer, times: int
) -> None:
    if times == 1:
        (sqlite_project.folder / "trial" / "definitions.py").write_text(SHORT_GRACE)
    server.configure(rules=[{"act": "hang"}], record=True)
    run = a_run_with_four_in_flight_and_eight_queued(sqlite_project, server)
    stop(run, times)
    assert on_record(sqlite_project)["replies"] == {"unknown": IN_FLIGHT}
    assert sqlite_project.fact(NO_REPLY) == 0
    assert server.stats()["received"] == IN_FLIGHT


def test_a_question_that_waits_for_its_next_try_is_not_tried_again(
    sqlite_project: Project, server: FaultServer
) -> None:
    server.configure(rules=[{"status": 429, "retry_after": "60"}], record=True)
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(1))
    run = sqlite_project.launch()
    sqlite_project.wait_for("SELECT count(*) FROM replies", 4)
    began = time.monotonic()
    stop(run)
    assert time.monotonic() - began < 30
    assert server.stats()["received"] == 4
    assert on_record(sqlite_project)["replies"] == {"error": 4}


def test_the_rest_of_the_slice_is_not_flushed_when_aggregation_is_stopped(
    sqlite_project: Project, server: FaultServer
) -> None:
    stopping = """
import os, signal
from elspeth_dagster import aggregating

def stopped(*args, real=aggregating._flushes):
    for flush in real(*args):
        yield flush
        os.kill(os.getpid(), signal.SIGTERM)

aggregating._flushes = stopped
aggregating.ROWS_AT_ONCE = 2
"""
    with (sqlite_project.folder / "trial" / "definitions.py").open("a") as file:
        file.write(stopping)
    sqlite_project.declare(aggregate={"rows": 2})
    sqlite_project.write_rows(rows_of_texts(5))
    sqlite_project.launch().communicate(timeout=60)
    batches = sqlite_project.facts("SELECT trigger_fired FROM batches")
    assert [batch["trigger_fired"] for batch in batches] == ["rows"]
    [end] = sqlite_project.facts(
        "SELECT e.status FROM node_states s JOIN node_state_ends e ON e.state_id = s.state_id "
        "WHERE s.node_id = 'trial.aggregate_rows'"
    )
    assert end["status"] == "interrupted"
    assert server.stats()["received"] == 0


LAUNCH = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename
    ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
TERMINATE = """mutation($id: String!) { terminateRun(runId: $id, terminatePolicy: SAFE_TERMINATE) { __typename } }"""
STATUS = """query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"""


class Pages:
    """Dagster's webserver and daemon, spoken to as its pages do."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/graphql"

    def ask(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(self._url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            said = json.load(answer)
        assert "errors" not in said, said
        [value] = said["data"].values()
        return value

    def wait_until(self, wanted: str, query: str, **variables: Any) -> None:
        until = time.monotonic() + 120
        while (found := self.ask(query, **variables)["status"]) != wanted:
            assert time.monotonic() < until, found
            time.sleep(0.5)


@contextmanager
def dagster_dev(project: Project) -> Iterator[Pages]:
    """`dagster dev` on the project."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*DAGSTER, "dev", "-f", "trial/definitions.py", "-p", str(port)]
    env = {**os.environ, **project.env, "PYTHONPATH": os.pathsep.join(sys.path)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=project.folder, env=env, start_new_session=True, **quiet) as dev:
        try:
            pages = Pages(port)
            until = time.monotonic() + 120
            while time.monotonic() < until:
                with suppress(OSError):
                    pages.ask("{ version }")
                    break
                time.sleep(0.5)
            yield pages
        finally:
            os.killpg(dev.pid, signal.SIGKILL)


def test_a_run_terminated_in_dagsters_pages_loses_nothing_and_its_end_is_recorded(
    sqlite_project: Project, server: FaultServer
) -> None:
    server.configure(latency_ms=8000, record=True)
    sqlite_project.env["ELSPETH_MAX_CONCURRENCY"] = str(IN_FLIGHT)
    sqlite_project.declare(aggregate={"rows": 1})
    sqlite_project.write_rows(rows_of_texts(3))
    selector = {
        "repositoryLocationName": "definitions.py",
        "repositoryName": "__repository__",
        "pipelineName": "trial_job",
    }
    with dagster_dev(sqlite_project) as pages:
        run_id = pages.ask(LAUNCH, p={"selector": selector, "mode": "default", "runConfigData": {}})["run"]["runId"]
        sqlite_project.wait_for("SELECT count(*) FROM calls", IN_FLIGHT)
        wait_until_all_in_flight(server)
        pages.ask(TERMINATE, id=run_id)
        pages.wait_until("CANCELED", STATUS, id=run_id)
        assert server.stats()["received"] == server.stats()["paid"] == IN_FLIGHT
        assert on_record(sqlite_project)["replies"] == {"success": IN_FLIGHT}
        sqlite_project.wait_for("SELECT count(*) FROM run_ends", 1)
    end = sqlite_project.facts("SELECT status FROM run_ends WHERE run_id = :run", run=run_id)
    fates = sqlite_project.facts("SELECT DISTINCT outcome FROM token_outcomes")
    assert (end, fates) == ([{"status": "interrupted"}], [{"outcome": "interrupted"}])
    server.configure(record=True)
    assert sqlite_project.run_again(run_id).success
    assert server.stats()["received"] == IN_FLIGHT + QUEUED
