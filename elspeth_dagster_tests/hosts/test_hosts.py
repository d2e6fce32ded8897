"""An assessment over two hosts: real namespaces, Redis, PostgreSQL and Celery workers, and what is done to them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from elspeth_dagster.landscape.database import MOST_CONNECTIONS
from elspeth_dagster_tests.conftest import PostgresServer
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.hosts.deployment import Deployment, deployed, facts_of, wrong
from elspeth_dagster_tests.hosts.network import missing
from elspeth_dagster_tests.project import rows_of_texts

ROWS = 40
REPLIES_ON_ONE = (
    "SELECT count(*) FROM replies r JOIN calls c ON c.call_id = r.call_id "
    "JOIN node_states s ON s.state_id = c.state_id WHERE s.host = 'host-one'"
)
pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(latency_ms=[200, 600], record=True) as server:
        yield server


@pytest.fixture
def deployment(tmp_path: Path, postgres: PostgresServer, server: FaultServer) -> Iterator[Deployment]:
    if why := missing():
        pytest.skip(why)
    with deployed(tmp_path, postgres, server, ELSPETH_MAX_CONCURRENCY="4") as deployment:
        deployment.project.declare(aggregate={"rows": 2}, rows_per_step=10)
        deployment.project.write_rows(rows_of_texts(ROWS))
        yield deployment


@contextmanager
def launched(deployment: Deployment) -> Iterator[subprocess.Popen[str]]:
    """A run, which is gone when the block is left."""
    run = deployment.project.launch()
    try:
        yield run
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def test_a_host_that_dies_in_a_shard_is_replaced_by_another(deployment: Deployment, server: FaultServer) -> None:
    network, project = deployment.network, deployment.project
    one, two = network.host("host-one", 1), network.host("host-two", 2)
    deployment.worker(one)
    deployment.worker(two)
    deployment.wait_for_workers(2)
    with launched(deployment) as run:
        project.wait_for(REPLIES_ON_ONE, 3)
        one.die()
        assert run.wait(timeout=150) == 0, run.communicate()[1]
    assert wrong(deployment, server, ROWS, questions=4) == []
    assert facts_of(project)["hosts"] == {"host-one", "host-two"}
    assert deployment.most_connections <= (2 * 2 + 1) * MOST_CONNECTIONS
    assert not list(project.home.rglob("storage/**/*")), "something is local to the launcher"
