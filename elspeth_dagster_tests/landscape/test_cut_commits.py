"""A connection that is cut during a commit: every fact is on record once, whether the commit had arrived or not.

ELSPETH_SOAK=1 in the environment makes each loop as long as it has to be before a release.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import cycle, islice

import psycopg
import pytest

from elspeth_dagster.core.errors import AuditError, StorageError
from elspeth_dagster.landscape import runs, states
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import (
    TABLES,
    Edge,
    Fact,
    Node,
    NodeState,
    NodeStateEnd,
    Payload,
    Run,
    RunEnd,
    Token,
)
from elspeth_dagster.landscape.words import RunStatus, StateStatus, TokenKind
from elspeth_dagster.landscape.writing import Writer
from elspeth_dagster_tests.cutting_proxy import CuttingProxy, Moment
from elspeth_dagster_tests.landscape.sample import a_run, a_token, all_of, an_open_run, only, recorded
from elspeth_dagster_tests.landscape.test_writing import gathered, tokens_seen_from_outside

SOAK = "ELSPETH_SOAK" in os.environ
CUTS = 60 if SOAK else 9
KILLS = 250 if SOAK else 25
EXECUTION = states.Execution("r1", "r1-ask", "a.ask_batches[shard_00001]", 0, "host", 7)


@pytest.fixture
def proxy(postgresql_url: str) -> Iterator[CuttingProxy]:
    """Before a PostgreSQL with a run that goes on."""
    with Landscape.open(postgresql_url) as landscape:
        landscape.write(*an_open_run("r1"))
    with CuttingProxy(postgresql_url) as opened:
        yield opened


@pytest.fixture
def database(proxy: CuttingProxy) -> Iterator[Database]:
    """Opened by way of the proxy."""
    with closing(Database.open(proxy.url)) as opened:
        yield opened


@pytest.fixture
def writer(database: Database) -> Iterator[Writer]:
    with closing(Writer(database)) as opened:
        yield opened


@pytest.fixture
def landscape(proxy: CuttingProxy) -> Iterator[Landscape]:
    with Landscape.open(proxy.url) as opened:
        yield opened


def facts_of(url: str, kind: type[Fact]) -> list[Fact]:
    """All facts of a kind, as a connection sees them that nobody cuts."""
    with closing(Database.open(url)) as database, database.read() as connection:
        return recorded(connection, kind)


def put(url: str, *facts: Fact) -> None:
    """Somebody else records facts."""
    with Landscape.open(url) as landscape:
        landscape.write(*facts)


def of_another_kind(token: Token) -> Token:
    return token._replace(kind=TokenKind.SLICE)


@pytest.mark.parametrize("moment", Moment)
def test_a_fact_whose_commit_is_cut_is_on_record_once(
    writer: Writer, proxy: CuttingProxy, postgresql_url: str, moment: Moment
) -> None:
    number = 3 if moment is Moment.LATE and not SOAK else CUTS
    for done in range(1, number + 1):
        proxy.cut(moment)
        writer.write(a_token(f"t{done}"), Payload.of(f"{done}".encode()))
        assert proxy.cuts == done
        assert f"t{done}" in tokens_seen_from_outside(postgresql_url)
    assert len(facts_of(postgresql_url, Token)) == 3 + number
    assert len(facts_of(postgresql_url, Payload)) == 2 + number


def test_a_commit_that_is_cut_several_times_is_on_record_once(
    writer: Writer, proxy: CuttingProxy, postgresql_url: str
) -> None:
    for moment in islice(cycle(Moment), 5):
        proxy.cut(moment)
    writer.write(a_token("t"))
    assert proxy.cuts == 5
    assert facts_of(postgresql_url, Token).count(a_token("t")) == 1


@pytest.mark.parametrize("moment", Moment)
def test_a_whole_run_whose_commit_is_cut_is_on_record_as_it_was(
    writer: Writer, proxy: CuttingProxy, postgresql_url: str, moment: Moment
) -> None:
    """With its end: the run takes nothing more, but what it has needn't be taken again."""
    facts = a_run("r2")
    proxy.cut(moment)
    writer.write(*facts)
    assert proxy.cuts == 1
    for kind in TABLES:
        of_kind = all_of(kind, facts)
        assert [fact for fact in facts_of(postgresql_url, kind) if fact in of_kind] == of_kind, kind


def test_a_run_that_somebody_ends_after_the_commit_arrived_is_no_refusal(
    writer: Writer, proxy: CuttingProxy, postgresql_url: str
) -> None:
    proxy.cut(Moment.AFTER, lambda: put(postgresql_url, only(RunEnd, a_run("r1"))))
    writer.write(a_token("before the end"))
    assert "before the end" in tokens_seen_from_outside(postgresql_url)


def test_a_run_that_somebody_ends_before_the_commit_arrived_is_a_refusal(
    writer: Writer, proxy: CuttingProxy, postgresql_url: str
) -> None:
    proxy.cut(Moment.BEFORE, lambda: put(postgresql_url, only(RunEnd, a_run("r1"))))
    with pytest.raises(AuditError, match="this run has ended"):
        writer.write(a_token("too late"))
    assert "too late" not in tokens_seen_from_outside(postgresql_url)


def test_a_fact_that_is_there_with_other_values_is_an_audit_error(
    writer: Writer, proxy: CuttingProxy, postgresql_url: str
) -> None:
    proxy.cut(Moment.BEFORE, lambda: put(postgresql_url, of_another_kind(a_token("t"))))
    with pytest.raises(AuditError, match="tokens holds another record with this key"):
        writer.write(a_token("t"))
    assert facts_of(postgresql_url, Token).count(of_another_kind(a_token("t"))) == 1


def test_a_fact_whose_place_is_taken_by_another_is_an_audit_error(
    writer: Writer, proxy: CuttingProxy, postgresql_url: str
) -> None:
    second = only(NodeState, a_run("r1"))._replace(state_id="ours", attempt=2)
    proxy.cut(Moment.BEFORE, lambda: put(postgresql_url, second._replace(state_id="theirs")))
    with pytest.raises(AuditError, match="node_states does not take this record"):
        writer.write(second)
    assert "ours" not in {state.state_id for state in all_of(NodeState, facts_of(postgresql_url, NodeState))}


@pytest.mark.parametrize("how", ["as it is", "with other values"])
def test_in_a_group_that_was_cut_only_the_one_at_fault_fails(
    writer: Writer, proxy: CuttingProxy, postgresql_url: str, how: str
) -> None:
    """Another process records the first as it is, and the second otherwise, so that the whole group is refused."""
    first, second, third = (a_token(name) for name in ("t1", "t2", "t3"))
    told = first if how == "as it is" else of_another_kind(first)

    proxy.let_pass()  # of what keeps the writer busy while the three gather
    proxy.cut(Moment.BEFORE, lambda: put(postgresql_url, told, of_another_kind(second)))
    with closing(Database.open(postgresql_url)) as another:
        errors = gathered(writer, another, [[first], [second, Payload.of(b"beside it")], [third]])
    assert proxy.cuts == 1
    assert [type(error) for error in errors] == [type(None) if told is first else AuditError, AuditError, type(None)]
    assert Payload.of(b"beside it") not in facts_of(postgresql_url, Payload)
    assert third in facts_of(postgresql_url, Token)


def test_a_fact_that_was_never_cut_is_not_taken_twice(writer: Writer, postgresql_url: str) -> None:
    put(postgresql_url, a_token("t"))
    with pytest.raises(AuditError, match="duplicate key"):
        writer.write(a_token("t"))


@pytest.mark.parametrize("moment", Moment)
def test_a_state_whose_commit_is_cut_is_opened_once(
    landscape: Landscape, proxy: CuttingProxy, postgresql_url: str, moment: Moment
) -> None:
    first = states.open_state(landscape, EXECUTION, "r1-row")
    proxy.cut(moment)
    second = states.open_state(landscape, EXECUTION, "r1-row")
    assert proxy.cuts == 1
    assert (first.attempt, second.attempt) == (1, 2)
    on_record = facts_of(postgresql_url, NodeState)
    assert [state for state in on_record if state.token_id == "r1-row"] == [first, second]
    ends = {end.state_id: end.status for end in facts_of(postgresql_url, NodeStateEnd)}
    assert ends[first.state_id] is StateStatus.INTERRUPTED
    assert second.state_id not in ends


@pytest.mark.parametrize("moment", Moment)
def test_a_state_whose_interruption_is_cut_ends_once(
    landscape: Landscape, proxy: CuttingProxy, postgresql_url: str, moment: Moment
) -> None:
    state = states.open_state(landscape, EXECUTION, "r1-row")
    proxy.cut(moment)
    states.close(landscape, [state], "told to stop", failed=False)
    assert proxy.cuts == 1
    ends = all_of(NodeStateEnd, facts_of(postgresql_url, NodeStateEnd))
    assert [end.error for end in ends if end.state_id == state.state_id] == ["told to stop"]


@pytest.mark.parametrize("moment", Moment)
def test_a_run_whose_beginning_is_cut_is_begun_once(
    landscape: Landscape, proxy: CuttingProxy, postgresql_url: str, moment: Moment
) -> None:
    facts = a_run("r2")
    run, nodes, edges = only(Run, facts), all_of(Node, facts), all_of(Edge, facts)
    proxy.cut(moment)
    runs.begin(landscape, run, nodes, edges, [only(Payload, facts)])
    assert proxy.cuts == 1
    assert [one.run_id for one in facts_of(postgresql_url, Run)] == ["r1", "r2"]
    assert [node for node in facts_of(postgresql_url, Node) if node.run_id == "r2"] == nodes


@pytest.mark.parametrize("moment", Moment)
def test_who_ends_a_run_is_told_so_although_the_commit_is_cut(
    landscape: Landscape, proxy: CuttingProxy, postgresql_url: str, moment: Moment
) -> None:
    proxy.cut(moment)
    assert runs.end(landscape, "r1", RunStatus.FAILED, "stopped")
    assert proxy.cuts == 1
    assert not runs.end(landscape, "r1", RunStatus.FAILED, "stopped")
    assert [end.detail for end in facts_of(postgresql_url, RunEnd)] == ["stopped"]


def test_who_was_cut_and_then_overtaken_has_not_ended_the_run(
    landscape: Landscape, proxy: CuttingProxy, postgresql_url: str
) -> None:
    proxy.cut(Moment.BEFORE, lambda: put(postgresql_url, only(RunEnd, a_run("r1"))))
    assert not runs.end(landscape, "r1", RunStatus.FAILED, "stopped")


def test_a_completed_run_whose_end_is_cut_has_one(
    landscape: Landscape, proxy: CuttingProxy, postgresql_url: str
) -> None:
    node, state = only(Node, a_run("r1")), only(NodeState, a_run("r1"))
    collect = node._replace(node_id="r1-collect", op_name="collect_results")
    landscape.write(collect, state._replace(state_id="collected", node_id="r1-collect"))
    landscape.write(only(NodeStateEnd, a_run("r1"))._replace(state_id="collected"))
    proxy.cut(Moment.AFTER)
    runs.end_if_all_collected(landscape, "r1")
    assert proxy.cuts == 1
    assert [end.status for end in facts_of(postgresql_url, RunEnd)] == [RunStatus.COMPLETED]


def terminate(url: str) -> int:
    """End every connection to a database, but this one; how many there were."""
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    with psycopg.connect(url) as connection:
        return len(connection.execute(f"{others} AND pid <> pg_backend_pid()".encode()).fetchall())


def test_whatever_is_terminated_what_was_acknowledged_is_there_once(proxy: CuttingProxy, postgresql_url: str) -> None:
    """Threads that write, coroutine or not, and one that decides, while every connection is ended again and again."""
    over, chance = threading.Event(), random.Random(25)
    opened: list[NodeState] = []

    def write(thread: int) -> list[str]:
        written = []
        while not over.is_set():
            landscape.write(a_token(f"{thread}-{len(written)}"), Payload.of(f"{thread} {len(written)}".encode()))
            written.append(f"{thread}-{len(written)}")
        return written

    def decide() -> None:
        while not over.is_set():
            opened.append(states.open_state(landscape, EXECUTION, "r1-row"))

    with Landscape.open(postgresql_url) as landscape, ThreadPoolExecutor(max_workers=6) as threads:
        writing_ = [threads.submit(write, thread) for thread in range(5)]
        deciding = threads.submit(decide)
        killed = 0
        while killed < KILLS and not any(work.done() for work in [*writing_, deciding]):
            over.wait(chance.uniform(0.0, 0.1))
            killed += terminate(postgresql_url)
        over.set()
        deciding.result(timeout=120)
        acknowledged = [token for work in writing_ for token in work.result(timeout=120)]
    tokens = [token.token_id for token in all_of(Token, facts_of(postgresql_url, Token))]
    assert killed >= KILLS
    assert sorted(tokens) == sorted([*acknowledged, "r1-slice", "r1-row", "r1-batch"])
    assert len(facts_of(postgresql_url, Payload)) == 2 + len(acknowledged)
    on_record = [state for state in facts_of(postgresql_url, NodeState) if state.token_id == "r1-row"]
    assert sorted(on_record, key=lambda state: state.attempt) == opened
    assert [state.attempt for state in opened] == list(range(1, len(opened) + 1))


def test_an_outage_that_passes_is_waited_for(writer: Writer, proxy: CuttingProxy, postgresql_url: str) -> None:
    with ThreadPoolExecutor() as threads:
        with proxy.away():
            waiting = threads.submit(writer.write, a_token("t"))
            with pytest.raises(TimeoutError):
                waiting.result(timeout=1)
        waiting.result(timeout=30)
    assert facts_of(postgresql_url, Token).count(a_token("t")) == 1


def test_an_outage_that_lasts_stops_all_who_wait_in_bounded_time(proxy: CuttingProxy, postgresql_url: str) -> None:
    """Each of them would wait for a minute in turn, if patience were not one for all."""
    database = Database.open(proxy.url, patience=1.5)
    with closing(database), closing(Writer(database)) as writer:
        with proxy.away():
            started = time.monotonic()
            for number in range(4):
                with pytest.raises(
                    StorageError, match=r"has been away for \d+ seconds: .* Nothing was sent after that"
                ):
                    writer.write(a_token(f"t{number}"))
            assert 1.5 <= time.monotonic() - started < 5
        writer.write(a_token("later"))
    assert len(facts_of(postgresql_url, Token)) == 4
