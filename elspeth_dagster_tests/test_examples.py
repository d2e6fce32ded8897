"""The example instances, started as they are: a run launched from Dagster's pages comes to its end in each."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from elspeth_dagster_tests.conftest import PostgresServer
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import DAGSTER, Project, rows_of_texts
from elspeth_dagster_tests.walk.test_stopping import LAUNCH, STATUS, Pages, dagster_dev

EXAMPLES = Path(__file__).parents[1] / "examples"


LOADED = """{ repositoryOrError(repositorySelector: {repositoryLocationName: "%s", repositoryName: "__repository__"}) {
    __typename } }"""
ONE_PROCESS = {"execution": {"config": {"in_process": {}}}}


@pytest.fixture
def provider() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


def project_with(example: str, folder: Path, landscape_url: str, provider: FaultServer) -> Project:
    """A user's project whose DAGSTER_HOME has the example's settings."""
    project = Project(folder / "project", landscape_url, provider.base_url)
    shutil.copy(EXAMPLES / example / "dagster.yaml", project.home / "dagster.yaml")
    project.declare()
    project.write_rows(rows_of_texts(2))
    return project


def launch_to_success(pages: Pages, location: str) -> str:
    """Launch the project's job once it is there; the run's id once it has succeeded."""
    until = time.monotonic() + 60
    while not is_loaded(pages, location):
        assert time.monotonic() < until, "Dagster's pages did not come up"
        time.sleep(0.3)
    selector = {
        "repositoryLocationName": location,
        "repositoryName": "__repository__",
        "pipelineName": "trial_job",
    }
    launched = pages.ask(LAUNCH, p={"selector": selector, "mode": "default", "runConfigData": ONE_PROCESS})
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run_id = str(launched["run"]["runId"])
    pages.wait_until("SUCCESS", STATUS, id=run_id)
    return run_id


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def started(project: Project, *command: str) -> Iterator[None]:
    """A service of the project, until the block is left."""
    env = {**os.environ, **project.env, "PYTHONPATH": os.pathsep.join(sys.path)}
    log = (project.folder / f"{len(list(project.folder.glob('*.log')))}.log").open("w")
    with (
        log,
        subprocess.Popen(
            command, cwd=project.folder, env=env, start_new_session=True, stdout=log, stderr=log
        ) as service,
    ):
        try:
            yield
        finally:
            os.killpg(service.pid, signal.SIGKILL)


def is_loaded(pages: Pages, location: str) -> bool:
    """Whether the pages are up and have the project's definitions."""
    with suppress(OSError):
        return bool(pages.ask(LOADED % location)["__typename"] == "Repository")
    return False


def test_the_example_for_one_machine_runs(tmp_path: Path, provider: FaultServer) -> None:
    project = project_with("one_machine", tmp_path, f"sqlite:///{tmp_path}/project/home/landscape.sqlite", provider)
    with dagster_dev(project) as pages:
        run_id = launch_to_success(pages, "definitions.py")
    assert project.fact("SELECT status FROM run_ends WHERE run_id = :run", run=run_id) == "completed"


def test_the_example_for_a_team_runs(tmp_path: Path, provider: FaultServer, postgres: PostgresServer) -> None:
    project = project_with("team", tmp_path, postgres.url(postgres.create()), provider)
    storage = postgres.url(postgres.create()).replace("postgresql://", "postgresql+psycopg2://")
    code_port, port = free_port(), free_port()
    project.env |= {"DAGSTER_PG_URL": storage, "CODE_SERVER_HOST": "127.0.0.1", "CODE_SERVER_PORT": str(code_port)}
    shutil.copy(EXAMPLES / "team" / "workspace.yaml", project.folder)
    python = [sys.executable, "-m"]
    with ExitStack() as services:
        where = ["-h", "127.0.0.1", "-p", str(code_port)]
        services.enter_context(started(project, *DAGSTER, "code-server", "start", "-m", "trial.definitions", *where))
        workspace = ["-w", "workspace.yaml"]
        services.enter_context(started(project, *python, "dagster._daemon", "run", *workspace))
        pages_at = ["-h", "127.0.0.1", "-p", str(port)]
        services.enter_context(started(project, *python, "dagster_webserver", *workspace, *pages_at))
        run_id = launch_to_success(Pages(port), "assessments")
    assert project.fact("SELECT status FROM run_ends WHERE run_id = :run", run=run_id) == "completed"
    assert not list(project.home.rglob("*.db")), "Dagster keeps something in SQLite files"
