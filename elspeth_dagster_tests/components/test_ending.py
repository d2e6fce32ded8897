"""What a tick of an assessment's run-ends sensor puts on record, beside real runs in a real Dagster instance."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from elspeth_dagster.core.errors import LandscapeError
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import ATTRIBUTES, Project, rows_of_texts

NOTHING_TO_DO = "Every run on record has its end, or goes on."
BOTH = """
alone = defs

@dg.definitions
def defs():
    walks = dg.AssetSelection.all() - dg.AssetSelection.assets("trial/verification", "other/verification")
    job = dg.define_asset_job("both_job", selection=walks)
    return dg.Definitions.merge(alone(), dg.Definitions(jobs=[job]))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as started:
        yield started


@pytest.fixture
def asking(tmp_path: Path, database_url: str, server: FaultServer) -> Project:
    """A project with an assessment and a row, on SQLite, then on PostgreSQL."""
    server.configure(record=True)
    made = Project(tmp_path / "project", database_url, server.base_url)
    made.declare()
    made.write_rows(rows_of_texts(1))
    return made


def tick(project: Project, assessment: str = "trial") -> str:
    """What a tick of the sensor says."""
    definitions = project.definitions()
    sensor = definitions.resolve_sensor_def(f"{assessment}_run_ends")
    with (
        project.in_env(),
        dg.DagsterInstance.get() as instance,
        dg.build_sensor_context(instance, definitions=definitions) as context,
    ):
        told = sensor.evaluate_tick(context)
    assert told.run_requests == [] and told.skip_message is not None
    return told.skip_message


def end(project: Project, run_id: str) -> dict[str, Any] | None:
    ends = project.facts("SELECT status, detail FROM run_ends WHERE run_id = :run", run=run_id)
    return ends[0] if ends else None


def failed_run(project: Project, job: str = "trial_job", name: str = "trial") -> str:
    """A run that answers its questions and can't write one of its tables."""
    in_the_way = project.home / "storage" / name / "answers.parquet"
    in_the_way.mkdir(parents=True)
    result = project.run(job)
    in_the_way.rmdir()
    assert not result.success
    return result.run_id


def killed_run(project: Project, server: FaultServer) -> str:
    """A run that was killed with a call in flight: Dagster says for ever that it has started."""
    server.configure(latency_ms=60_000)
    command = [sys.executable, "-m", "dagster", "job", "execute", "-f", "trial/definitions.py", "-j", "trial_job"]
    env = {**os.environ, **project.env, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.Popen(command, cwd=project.folder, env=env, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        wait_for_a_call(project)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    return str(project.fact("SELECT run_id FROM runs"))


def wait_for_a_call(project: Project, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.1)
        try:
            if project.fact("SELECT count(*) FROM calls") > 0:
                return
        except LandscapeError:  # it is not made yet
            continue
    raise TimeoutError("no call was made")


def assert_nothing_is_open(project: Project) -> None:
    for table, ends, key in (
        ("node_states", "node_state_ends", "state_id"),
        ("calls", "replies", "call_id"),
        ("tokens", "token_outcomes", "token_id"),
    ):
        assert project.fact(f"SELECT count(*) FROM {table} WHERE {key} NOT IN (SELECT {key} FROM {ends})") == 0


def test_a_failed_run_ends_on_record_with_the_step_that_failed(asking: Project) -> None:
    run_id = failed_run(asking)
    assert end(asking, run_id) is None
    why = "Dagster says it failed in trial.collect_results"
    assert tick(asking) == f"Run {run_id} ended as failed: {why}."
    assert end(asking, run_id) == {"status": "failed", "detail": why}
    assert_nothing_is_open(asking)
    assert tick(asking) == NOTHING_TO_DO


def test_a_killed_run_is_left_alone_until_somebody_terminates_it_in_dagster(
    asking: Project, server: FaultServer
) -> None:
    run_id = killed_run(asking, server)
    assert tick(asking) == NOTHING_TO_DO and end(asking, run_id) is None
    with asking.in_env(), dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(run_id)
        assert run is not None and run.status is dg.DagsterRunStatus.STARTED
        instance.report_run_canceled(run)
    assert tick(asking) == f"Run {run_id} ended as interrupted: it was terminated in Dagster."
    assert end(asking, run_id) == {"status": "interrupted", "detail": "it was terminated in Dagster"}
    assert_nothing_is_open(asking)
    assert asking.fact("SELECT count(*) FROM replies WHERE outcome = 'unknown'") > 0


def test_a_run_that_dagster_has_forgotten_is_told_and_left(asking: Project) -> None:
    run_id = failed_run(asking)
    with asking.in_env(), dg.DagsterInstance.get() as instance:
        instance.delete_run(run_id)
    told = tick(asking)
    assert told.startswith(f"Dagster does not know {run_id}.") and "elspeth-dagster reclaim" in told
    assert end(asking, run_id) is None


def test_a_run_of_two_assessments_is_ended_by_the_first_of_their_sensors(asking: Project) -> None:
    asking.declare("other", source={**ATTRIBUTES["source"], "path": "data/rows.csv"})
    with (asking.folder / "trial" / "definitions.py").open("a") as file:
        file.write(BOTH)
    run_id = failed_run(asking, "both_job", "other")
    assert "in other.collect_results" in tick(asking, "trial")
    assert tick(asking, "other") == NOTHING_TO_DO
    assert end(asking, run_id) is not None


def test_a_sensor_ends_no_run_of_another_assessment(asking: Project) -> None:
    asking.declare("other")
    run_id = failed_run(asking)
    assert tick(asking, "other") == NOTHING_TO_DO and end(asking, run_id) is None


def test_a_failed_verification_ends_on_record_too(asking: Project, server: FaultServer) -> None:
    assert asking.run().success
    server.configure(rules=[{"status": 401}])
    result = asking.run("trial_verify_job")
    assert not result.success and end(asking, result.run_id) is None
    assert tick(asking).startswith(
        f"Run {result.run_id} ended as failed: Dagster says it failed in trial_verification."
    )
    assert_nothing_is_open(asking)


def test_a_run_that_went_its_way_keeps_its_end(asking: Project) -> None:
    result = asking.run()
    assert tick(asking) == NOTHING_TO_DO
    assert end(asking, result.run_id) == {"status": "completed", "detail": None}


def test_where_there_is_no_landscape_a_tick_says_so_and_makes_none(project: Project) -> None:
    project.declare()
    assert "there is no landscape at" in tick(project)
    assert not (project.folder / "landscape.sqlite").exists()


def test_where_the_landscape_can_not_be_reached_a_tick_says_so_without_its_password(project: Project) -> None:
    project.declare()
    project.env["ELSPETH_LANDSCAPE_URL"] = "postgresql://assessor:hunter2@127.0.0.1:1/landscape"
    told = tick(project)
    assert "can't be opened" in told and "hunter2" not in told


def test_the_sensor_is_on_from_the_start(project: Project) -> None:
    project.declare()
    sensor = project.definitions().resolve_sensor_def("trial_run_ends")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 30
