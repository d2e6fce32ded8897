"""A user's project on several hosts: the run on this machine, its steps on Celery workers of the hosts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from elspeth_dagster_tests.conftest import PostgresServer
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.hosts.network import FAKETIME, Host, Network
from elspeth_dagster_tests.project import Project

EXAMPLE = Path(__file__).parents[2] / "examples" / "hosts"
WORKER = [
    sys.executable,
    "-m",
    "celery",
    "-A",
    "elspeth_dagster.celery_app",
    "worker",
    "-n",
    "%h",
    "--loglevel",
    "INFO",
]
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}'"


class Deployment:
    """The project, the network and what is on it."""

    def __init__(self, network: Network, project: Project, postgres: PostgresServer, landscape: str) -> None:
        self.network, self.project = network, project
        self._postgres, self._landscape = postgres, landscape
        self.most_connections = 0
        self._watching = True
        threading.Thread(target=self._watch, daemon=True).start()

    def worker(self, host: Host, at_a_time: int = 2, skew: str | None = None, **more: str) -> subprocess.Popen[bytes]:
        """Start a worker on a host, with a DAGSTER_HOME of its own; the launcher's is not there."""
        home = self.project.folder / f"home_of_{host.name}"
        home.mkdir(exist_ok=True)
        (home / "dagster.yaml").write_text((self.project.home / "dagster.yaml").read_text())
        env = {**os.environ, **self.project.env, "PYTHONPATH": os.pathsep.join(sys.path), "DAGSTER_HOME": str(home)}
        if skew is not None:
            env |= {"LD_PRELOAD": str(FAKETIME), "FAKETIME": skew, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        command = [*WORKER, "--concurrency", str(at_a_time)]
        return host.start(command, {**env, **more}, self.project.folder, hidden=self.project.home)

    def wait_for_workers(self, count: int, seconds: float = 90) -> None:
        """Wait until so many workers have said that they are ready."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            logs = [path.read_text(errors="replace") for path in self.project.folder.glob("*.log")]
            if sum(" ready." in log for log in logs) >= count:
                return
            time.sleep(0.2)
        raise TimeoutError(f"no {count} workers: {logs}")

    def close(self) -> None:
        """Look at connections no more."""
        self._watching = False

    def _watch(self) -> None:
        engine = sa.create_engine(self._postgres.url("postgres").replace("postgresql://", "postgresql+psycopg://"))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while self._watching:
                found = connection.scalar(sa.text(CONNECTIONS.format(self._landscape)))
                self.most_connections = max(self.most_connections, int(found or 0))
                time.sleep(0.2)


@contextmanager
def deployed(
    folder: Path, postgres: PostgresServer, server: FaultServer, lost_seconds: int = 30, **settings: str
) -> Iterator[Deployment]:
    """A deployment as `examples/hosts` has it."""
    landscape, storage = postgres.create(), postgres.create()
    socket = str(sa.make_url(postgres.url(landscape)).query["host"]) + "/.s.PGSQL.5432"
    with Network(folder) as network, network.relays(postgres=socket, provider=str(server.port)) as ports:
        at = f"{network.address}:{ports['postgres']}"
        project = Project(
            folder / "project",
            f"postgresql://postgres@{at}/{landscape}",
            f"http://{network.address}:{ports['provider']}/v1",
        )
        (project.home / "dagster.yaml").write_text((EXAMPLE / "dagster.yaml").read_text())
        (folder / "share").mkdir()
        project.env |= {
            "ELSPETH_EXECUTOR": "celery",
            "ELSPETH_CELERY_BROKER": network.broker,
            "ELSPETH_HOST_LOST_SECONDS": str(lost_seconds),
            "ELSPETH_STORAGE": str(folder / "share"),
            "DAGSTER_PG_URL": f"postgresql+psycopg2://postgres@{at}/{storage}",
            **settings,
        }
        deployment = Deployment(network, project, postgres, landscape)
        try:
            yield deployment
        finally:
            deployment.close()


def facts_of(project: Project) -> dict[str, Any]:
    """What the record says of the only run."""
    [run] = project.facts("SELECT r.run_id, e.status FROM runs r LEFT JOIN run_ends e ON e.run_id = r.run_id")
    fates = "SELECT o.outcome, count(*) AS number FROM tokens t LEFT JOIN token_outcomes o ON o.token_id = t.token_id"
    by_fate = project.facts(f"{fates} WHERE t.kind = 'row' GROUP BY o.outcome")
    twice = (
        "SELECT count(*) FROM (SELECT c.token_id, c.query_key FROM calls c JOIN replies p ON p.call_id = c.call_id "
        "WHERE p.outcome = 'success' GROUP BY c.token_id, c.query_key HAVING count(*) > 1) AS twice"
    )
    replied = "SELECT outcome, count(*) AS number FROM replies GROUP BY outcome"
    hosts = "SELECT DISTINCT host FROM node_states WHERE node_id = 'trial.ask_batches'"
    return {
        **run,
        "fates": {row["outcome"]: row["number"] for row in by_fate},
        "answered_twice": project.fact(twice),
        "replies": {row["outcome"]: row["number"] for row in project.facts(replied)},
        "hosts": {row["host"] for row in project.facts(hosts)},
    }


VERIFY = [sys.executable, "-c", "from elspeth_dagster.cli import main; main()", "verify"]


def wrong(deployment: Deployment, server: FaultServer, rows: int, questions: int) -> list[str]:
    """What record, provider and verification disagree on after a run; nothing is what is wanted."""
    facts, stats = facts_of(deployment.project), server.stats()
    successes, unknown = facts["replies"].get("success", 0), facts["replies"].get("unknown", 0)
    command = [*VERIFY, facts["run_id"], "--landscape", deployment.project.landscape_url]
    verified = subprocess.run(command, check=False, capture_output=True, text=True)
    figures = {
        "run": (facts["status"], "completed"),
        "fates of rows": (facts["fates"], {"assessed": rows}),
        "questions answered twice": (facts["answered_twice"], 0),
        "questions answered": (successes, rows * questions),
        "paid without being on record": (max(0, stats["paid"] - successes - unknown), 0),
        "verify": (verified.returncode, 0),
    }
    return [f"{name}: {found}, not {wanted}" for name, (found, wanted) in figures.items() if found != wanted]


def most_in_a_minute(server: FaultServer) -> int:
    """The most requests that the provider got in any minute, by its own log."""
    at = sorted(request["at"] for request in server.stats()["requests"])
    first, most = 0, 0
    for last, instant in enumerate(at):
        while instant - at[first] >= 60:
            first += 1
        most = max(most, last - first + 1)
    return most
