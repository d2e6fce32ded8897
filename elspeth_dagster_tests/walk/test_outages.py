"""A landscape that goes away while a run writes: the run waits, sends nothing meanwhile, and asks nothing twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from elspeth_dagster import ops
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster_tests.cutting_proxy import CuttingProxy, Moment
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project, rows_of_texts

ROWS = 40


@pytest.fixture
def proxy(postgresql_url: str) -> Iterator[CuttingProxy]:
    with CuttingProxy(postgresql_url) as opened:
        yield opened


@pytest.fixture
def project(tmp_path: Path, proxy: CuttingProxy, server: FaultServer) -> Project:
    """A project whose landscape is behind the proxy."""
    made = Project(tmp_path / "project", proxy.url, server.base_url)
    made.declare()
    made.write_rows(rows_of_texts(ROWS))
    return made


def each_question_was_asked_once(project: Project, server: FaultServer) -> bool:
    calls = project.fact("SELECT count(*) FROM calls JOIN replies USING (call_id) WHERE outcome = 'success'")
    answers = project.fact("SELECT count(*) FROM answers WHERE status = 'accepted'")
    stats = server.stats()
    return calls == answers == stats["received"] == stats["paid"] == 4 * ROWS


def test_a_run_whose_commits_are_cut_again_and_again_asks_each_question_once(
    project: Project, proxy: CuttingProxy, server: FaultServer
) -> None:
    for moment in [Moment.AFTER, Moment.BEFORE] * 20:
        proxy.let_pass()
        proxy.cut(moment)
    assert project.run().success
    assert proxy.cuts >= 10
    assert each_question_was_asked_once(project, server)


def test_nothing_is_sent_while_the_landscape_is_away_and_then_the_run_goes_on(
    project: Project, proxy: CuttingProxy, server: FaultServer
) -> None:
    server.configure(latency_ms=300)
    received: list[int] = []

    def go_away() -> None:
        while server.stats()["received"] < ROWS:
            time.sleep(0.02)
        with proxy.away():
            for _ in range(3):
                time.sleep(0.7)
                received.append(server.stats()["received"])

    outage = threading.Thread(target=go_away)
    outage.start()
    assert project.run().success
    outage.join()
    assert received[0] == received[1] == received[2] < 4 * ROWS
    assert each_question_was_asked_once(project, server)


def test_a_step_whose_landscape_is_gone_says_so_and_may_be_retried(proxy: CuttingProxy) -> None:
    """Also where it would look up whether its run was ended meanwhile."""
    with (
        Landscape(Database.open(proxy.url, patience=0.5)) as landscape,
        proxy.away(),
        pytest.raises(dg.Failure, match="the landscape can't be read: connection failed") as stopped,
        ops._plain_errors(dg.build_op_context(), landscape),
    ):
        raise AssertionError("it must not begin")
    assert stopped.value.allow_retries
