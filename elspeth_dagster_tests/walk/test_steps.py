"""Steps that die, are retried, or are re-executed without the steps before them."""

import hashlib
import os
import signal
import threading
import time

import dagster as dg
import pytest

from elspeth_dagster.core.errors import LandscapeError
from elspeth_dagster.landscape import states
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.states import Execution
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project, rows_of_texts

RETRYING = """
alone = defs

@dg.definitions
def defs():
    results = dg.AssetSelection.assets("trial/results").required_multi_asset_neighbors()
    job = dg.define_asset_job("retrying_job", selection=results, op_retry_policy=dg.RetryPolicy(max_retries=1))
    return dg.Definitions.merge(alone(), dg.Definitions(jobs=[job]))
"""


def kill_the_asking_step(project: Project, killed: list[int]) -> None:
    """Kill -9 the process that asks, once it has a call in flight."""
    pids = "SELECT s.pid FROM node_states s JOIN calls c ON c.state_id = s.state_id"
    for _ in range(600):
        time.sleep(0.1)
        try:
            found = project.facts(pids)
        except LandscapeError:  # it is not made yet
            continue
        if found:
            os.kill(found[0]["pid"], signal.SIGKILL)
            killed.append(found[0]["pid"])
            return


def test_a_killed_steps_next_attempt_closes_it_and_goes_on(project: Project, server: FaultServer) -> None:
    server.configure(first_tries={"act": "hang", "times": 1}, record=True)
    project.declare()
    project.write_rows(rows_of_texts(1))
    with (project.folder / "trial" / "definitions.py").open("a") as file:
        file.write(RETRYING)
    killed: list[int] = []
    killer = threading.Thread(target=kill_the_asking_step, args=(project, killed))
    killer.start()
    assert project.run_in_processes("retrying_job").success
    killer.join()
    assert len(killed) == 1
    states = project.facts(
        "SELECT s.attempt, s.retry_number, e.status FROM node_states s JOIN node_state_ends e USING (state_id) "
        "WHERE s.node_id = 'trial.ask_batches' ORDER BY s.attempt"
    )
    assert [tuple(state.values()) for state in states] == [(1, 0, "interrupted"), (2, 1, "completed")]
    calls = project.facts(
        "SELECT s.attempt, p.outcome, count(*) AS n FROM calls c JOIN node_states s USING (state_id) "
        "JOIN replies p USING (call_id) GROUP BY s.attempt, p.outcome ORDER BY s.attempt"
    )
    assert [(call["attempt"], call["outcome"]) for call in calls] == [(1, "unknown"), (2, "success")]
    assert calls[1]["n"] == 4
    assert len(project.table("results")) == 1


@pytest.mark.parametrize("job", ["trial_job", "retrying_job"])
def test_an_automatic_retry_would_walk_from_the_start_however_the_run_was_launched(
    sqlite_project: Project, job: str
) -> None:
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(1))
    with (sqlite_project.folder / "trial" / "definitions.py").open("a") as file:
        file.write(RETRYING)
    run_id = sqlite_project.run(job).run_id
    with sqlite_project.in_env(), dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(run_id)
    assert run is not None and run.tags["dagster/retry_strategy"] == "FROM_ASSET_FAILURE"


def test_a_step_re_executed_without_those_before_it_is_told_what_to_do(sqlite_project: Project) -> None:
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(1))
    run = sqlite_project.run_in_processes()
    assert run.success
    again = sqlite_project.run_again(run.run_id, steps=["trial.collect_results"])
    [failure] = [event for event in again.all_events if event.event_type_value == "STEP_FAILURE"]
    assert not again.success
    assert "re-execute all steps" in failure.step_failure_data.error_display_string


def test_a_table_that_can_not_be_written_leaves_the_old_one_and_a_failed_state(sqlite_project: Project) -> None:
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(1))
    assert sqlite_project.run().success
    before = (sqlite_project.home / "storage" / "trial" / "results.parquet").read_bytes()
    (sqlite_project.home / "storage" / "trial" / "answers.parquet").unlink()
    (sqlite_project.home / "storage" / "trial" / "answers.parquet").mkdir()
    sqlite_project.write_rows(rows_of_texts(2))
    assert not sqlite_project.run().success
    after = (sqlite_project.home / "storage" / "trial" / "results.parquet").read_bytes()
    assert after != before
    leftovers = [path.name for path in (sqlite_project.home / "storage" / "trial").iterdir() if path.name[0] == "."]
    assert leftovers == []
    states = sqlite_project.facts(
        "SELECT e.status FROM node_states s JOIN node_state_ends e USING (state_id) "
        "WHERE s.node_id = 'trial.collect_results' ORDER BY s.started_at"
    )
    assert [state["status"] for state in states] == ["completed", "failed"]
    assert sqlite_project.fact("SELECT count(*) FROM run_ends") == 1


@pytest.mark.parametrize("name", ["results", "answers", "failures", "rejections"])
def test_every_table_is_an_artifact_with_the_hash_of_its_file(sqlite_project: Project, name: str) -> None:
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(1))
    assert sqlite_project.run().success
    [artifact] = sqlite_project.facts("SELECT * FROM artifacts WHERE asset_key = :key", key=f"trial/{name}")
    data = (sqlite_project.home / "storage" / "trial" / f"{name}.parquet").read_bytes()
    assert artifact["uri"].endswith(f"storage/trial/{name}.parquet")
    assert (artifact["size"], bytes(artifact["content_hash"])) == (len(data), hashlib.sha256(data).digest())


def test_a_launch_after_a_killed_run_takes_over_and_leaves_nothing_open(project: Project, server: FaultServer) -> None:
    server.configure(rules=[{"act": "hang"}])
    project.declare()
    project.write_rows(rows_of_texts(2))
    run = project.launch()
    project.wait_for("SELECT count(*) FROM calls", 1)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    server.configure()
    result = project.run()
    assert result.success
    first, second = project.facts(
        "SELECT r.run_id, r.parent_run_id, r.root_run_id, e.status, e.detail "
        "FROM runs r JOIN run_ends e USING (run_id) "
        "ORDER BY r.started_at"
    )
    assert (first["status"], first["detail"]) == ("interrupted", f"run {result.run_id} took over")
    assert (second["status"], second["parent_run_id"], second["root_run_id"]) == (
        "completed", first["run_id"], first["run_id"],
    )  # fmt: skip
    open_states = "SELECT count(*) FROM node_states WHERE state_id NOT IN (SELECT state_id FROM node_state_ends)"
    assert project.fact(open_states) == 0
    assert project.fact("SELECT count(*) FROM calls WHERE call_id NOT IN (SELECT call_id FROM replies)") == 0
    assert project.fact("SELECT count(*) FROM tokens WHERE token_id NOT IN (SELECT token_id FROM token_outcomes)") == 0
    fates = project.facts("SELECT outcome, count(*) AS n FROM token_outcomes GROUP BY outcome ORDER BY outcome")
    assert {fate["outcome"]: fate["n"] for fate in fates} == {"assessed": 2, "completed": 2, "interrupted": 4}


def test_of_two_live_runs_of_a_slice_the_earlier_stops_and_says_why(project: Project, server: FaultServer) -> None:
    server.configure(latency_ms=1500)
    project.env["ELSPETH_MAX_CONCURRENCY"] = "1"
    project.declare()
    project.write_rows(rows_of_texts(2))
    results: list[dg.ExecuteInProcessResult] = []
    early = threading.Thread(target=lambda: results.append(project.run()))
    with project.in_env():
        early.start()
        while not results:
            time.sleep(0.2)
            try:
                if project.fact("SELECT count(*) FROM calls") > 0:
                    break
            except LandscapeError:
                continue
        server.configure(latency_ms=0)
        late = project.run()
        early.join()
    assert late.success and not results[0].success
    [failure] = [event for event in results[0].all_events if event.event_type_value == "STEP_FAILURE"]
    assert f"run {late.run_id} took over" in failure.step_failure_data.error_display_string
    decided = project.facts("SELECT run_id, outcome FROM token_outcomes WHERE outcome = 'assessed'")
    assert {row["run_id"] for row in decided} == {late.run_id}


def test_a_run_after_a_completed_one_starts_a_lineage_of_its_own(sqlite_project: Project) -> None:
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(1))
    assert sqlite_project.run().success and sqlite_project.run().success
    lineages = sqlite_project.facts("SELECT run_id, parent_run_id, root_run_id FROM runs")
    assert all(run["parent_run_id"] is None and run["root_run_id"] == run["run_id"] for run in lineages)


def test_a_step_that_another_attempt_took_over_from_records_nothing_more_and_says_why(
    project: Project, server: FaultServer
) -> None:
    server.configure(latency_ms=1500, record=True)
    project.env["ELSPETH_MAX_CONCURRENCY"] = "1"
    project.declare()
    project.write_rows(rows_of_texts(2))
    results: list[dg.ExecuteInProcessResult] = []
    given_up = threading.Thread(target=lambda: results.append(project.run()))
    with project.in_env():
        given_up.start()
        project.wait_for("SELECT count(*) FROM calls", 1)
        [batch] = project.facts("SELECT run_id, token_id FROM batches")
        later = Execution(batch["run_id"], "trial.ask_batches", "trial.ask_batches[shard_00001]", 1, "elsewhere", 7)
        with Landscape.open(project.landscape_url) as landscape:
            state = states.open_state(landscape, later, batch["token_id"])
        given_up.join()
    assert state.attempt == 2 and not results[0].success
    [failure] = [event for event in results[0].all_events if event.event_type_value == "STEP_FAILURE"]
    assert "A later attempt at this step has begun" in failure.step_failure_data.error_display_string
    assert failure.step_failure_data.user_failure_data is not None
    left = project.facts("SELECT c.state_id, p.outcome FROM calls c JOIN replies p ON p.call_id = c.call_id")
    assert {row["outcome"] for row in left} == {"unknown"} and server.stats()["received"] == len(left) == 1
    assert project.fact("SELECT count(*) FROM answers") == 0
