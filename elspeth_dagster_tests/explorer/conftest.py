"""A landscape with what a reader meets: a run that went well and badly, a hostile one, one that has no end yet."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser

from elspeth_dagster.explorer.application import explorer
from elspeth_dagster.explorer.looking import Looking
from elspeth_dagster.explorer.serving import landscape_name, server_of
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Fact, Node, Payload
from elspeth_dagster_tests.conftest import PostgresServer
from elspeth_dagster_tests.explorer.browser import chromium
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.landscape.sample import a_running_run
from elspeth_dagster_tests.project import Project
from elspeth_dagster_tests.trial import run_trial

TOKEN = "a-token-that-is-long-enough"
DAGSTER = "http://dagster.example:3000"
SPELLS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    '"><svg onload=alert(3)>',
    "' onmouseover='alert(4)' autofocus onfocus='alert(5)",
    "javascript:alert(6)",
    "{{ 7 * 191 }}{% for x in y %}${7 * 191}",
    "</pre></textarea></title></span><iframe src=javascript:alert(7)>",
    "[click](javascript:alert(8)) ![x](http://elsewhere.example/x.png) **bold**",
    "<meta http-equiv=refresh content='0;url=http://elsewhere.example/'>",
    "<link rel=stylesheet href=http://elsewhere.example/x.css><base href=http://elsewhere.example/>",
    "&lt;b&gt;entities&amp;",
    "\u202egnp.exe\u2066\u200b\ufeff\U000e0041",
    "\x1b[31m\x07\x7f",
    "W" * 400,
]
PARTITION = "<img src=x onerror=alert(9)> '&amp;"


class Explored(NamedTuple):
    """A project's landscape and the runs in it."""

    project: Project
    trial: str
    again: str
    hostile: str


@pytest.fixture(scope="session")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Explored:
    """A landscape that is a file."""
    folder = tmp_path_factory.mktemp("explorer") / "project"
    return fill(folder, f"sqlite:///{folder}/landscape.sqlite")


@pytest.fixture(scope="session")
def on_postgresql(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Explored:
    """A landscape in a PostgreSQL database."""
    return fill(tmp_path_factory.mktemp("explorer") / "project", postgres.url(postgres.create()))


@pytest.fixture(params=["sqlite", "postgresql"])
def explored(request: pytest.FixtureRequest) -> Explored:
    """On SQLite, then on PostgreSQL."""
    found: Explored = request.getfixturevalue(f"on_{request.param}")
    return found


def fill(folder: Path, url: str) -> Explored:
    """Fill a landscape with real runs, and a run that has no end."""
    with FaultServer() as server:
        project = Project(folder, url, server.base_url)
        project.env["ELSPETH_EXPLORER_URL"] = "http://127.0.0.1:3001/"  # the hostile run knows of none
        trial = run_trial(project, server)
        again = project.run_again(trial).run_id
        del project.env["ELSPETH_EXPLORER_URL"]
        hostile = run_hostile(project, server)
    with Landscape.open(url) as landscape:
        landscape.write(*a_going_run("going"))
    return Explored(project, trial, again, hostile)


def a_going_run(run_id: str) -> list[Fact]:
    """A run at work, whose nodes say what is asked."""
    spec = Payload.of(b'{"spec": {"queries": [{"name": "cs1_depth"}, {"name": "cs2_depth"}]}}')
    return [spec, *(f._replace(config_ref=spec.ref) if isinstance(f, Node) else f for f in a_running_run(run_id))]


def run_hostile(project: Project, server: FaultServer) -> str:
    """Every spell is a key, and all together are a row's text, a reply, an answer, an error and a rejected record."""
    everything = "\n".join(SPELLS)
    server.configure(
        content={"score": 1, "rationale": everything},
        rules=[
            {"status": 400, "contains": "two of the first", "message": everything},
            {"act": "not_json", "contains": "one of the second"},
        ],
    )
    project.declare(
        "hostile",
        structured_output="none",
        partitions={"static": [PARTITION]},
        errors={"row": "keep_partial", "retry_seconds": 10},
        source={
            "path": "data/{partition}.csv", "key": ["id"],
            "columns": {"id": "str", "cs1_text": "str", "cs2_text": "str"},
        },
        answer={"score": {"type": "integer"}, "rationale": {"type": "string", "max_length": 9000}},
    )  # fmt: skip
    rows = [{"id": spell, "cs1_text": f"one {everything}", "cs2_text": f"two {spell}"} for spell in SPELLS]
    rows[0]["cs2_text"] = f"two of the first {everything}"
    rows[1]["cs1_text"] = f"one of the second {everything}"
    rows.append({"id": "", "cs1_text": everything, "cs2_text": everything})
    project.write_rows(rows, f"data/{PARTITION}.csv")
    run = project.run("hostile_job", PARTITION)
    assert run.success
    return run.run_id


# Served --------------------------------------------------------------------------------------------------------------


@contextmanager
def served(url: str, **options: Any) -> Iterator[str]:
    """The address of an explorer of this landscape, on a free port of this machine."""
    with Landscape.look_at(url, patience=5) as landscape:
        app = explorer(Looking(landscape, landscape_name(url), DAGSTER), **options)
        server, listening = server_of(app), socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def address(on_sqlite: Explored) -> Iterator[str]:
    """The explorer of the landscape that is a file."""
    with served(on_sqlite.project.landscape_url) as found:
        yield found


@pytest.fixture(scope="module")
def browser(on_sqlite: Explored) -> Iterator[Browser]:
    """One browser for a module's tests. While it is there nothing else can run an event loop: so runs come first."""
    with chromium() as started:
        yield started
