"""The writer: durable before it returns, many hand-overs to a commit, each of them whole or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TypeVar

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from elspeth_dagster.core.errors import AuditError
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Call, Fact, Payload, Reply, Row, Run, Token
from elspeth_dagster.landscape.schema import payloads, tokens
from elspeth_dagster.landscape.writing import Writer, insert
from elspeth_dagster_tests.landscape.sample import a_run, a_token, an_open_run, count, only, recorded

T = TypeVar("T")
SECRET = "Example, born 1950-04-01"
GOOD = [Payload.of(f"good {number}".encode()) for number in range(4)]


@pytest.fixture
def writer(database: Database) -> Iterator[Writer]:
    """A writer of a database with a run that goes on."""
    with closing(Writer(database)) as opened:
        opened.write(*an_open_run("r1"))
        yield opened


def tokens_seen_from_outside(url: str) -> set[str]:
    """What a connection that knows nothing of ours sees."""
    query = "SELECT token_id FROM tokens"
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(str(sa.make_url(url).database))) as connection:
            return {token for (token,) in connection.execute(query)}
    with psycopg.connect(url) as postgresql:
        return {token for (token,) in postgresql.execute(query)}


@contextmanager
def commits(database: Database) -> Iterator[list[None]]:
    """One entry for each commit while the block runs."""
    counted: list[None] = []

    def count_one(_: sa.Connection) -> None:
        counted.append(None)

    event.listen(database.engine, "commit", count_one)
    yield counted
    event.remove(database.engine, "commit", count_one)


@contextmanager
def held_up(database: Database) -> Iterator[Callable[[], None]]:
    """The writer waits until the block, or whoever calls, lets it go on; what is handed over meanwhile gathers."""
    hold, done = threading.Event(), threading.Event()
    holds = threading.Event()

    def keep() -> None:
        with database.write(alone=True):
            holds.set()
            hold.wait(timeout=60)
        done.set()

    threading.Thread(target=keep).start()
    holds.wait(timeout=60)

    def let_go() -> None:
        hold.set()
        done.wait(timeout=60)

    yield let_go
    let_go()


def gathered(writer: Writer, database: Database, hand_overs: Iterable[Sequence[Fact]]) -> list[BaseException | None]:
    """What becomes of facts handed over while the writer is busy with another one."""

    async def gather() -> list[BaseException | None]:
        with held_up(database) as let_go:
            busy = asyncio.create_task(writer.record(a_token("busy")))
            await asyncio.sleep(0.1)
            waiting = [asyncio.create_task(writer.record(*facts)) for facts in hand_overs]
            await asyncio.sleep(0)
            let_go()
            await busy
            return await asyncio.gather(*waiting, return_exceptions=True)

    return asyncio.run(gather())


def test_a_fact_is_seen_by_everybody_when_write_returns(writer: Writer, database_url: str) -> None:
    for number in range(20):
        writer.write(a_token(f"t{number}"))
        assert f"t{number}" in tokens_seen_from_outside(database_url)


def test_a_fact_is_seen_by_everybody_when_record_returns(writer: Writer, database_url: str) -> None:
    async def hand_over() -> None:
        for number in range(20):
            await writer.record(a_token(f"t{number}"))
            assert f"t{number}" in tokens_seen_from_outside(database_url)

    asyncio.run(hand_over())


def test_a_decision_sees_what_was_handed_over_before_it_and_nothing_that_came_after(writer: Writer) -> None:
    def seen(connection: sa.Connection, was_lost: bool) -> set[str]:
        return set(connection.scalars(sa.select(tokens.c.token_id).where(~tokens.c.token_id.startswith("r1-"))))

    async def hand_over_around() -> set[str]:
        before = [asyncio.ensure_future(writer.record(a_token(f"t{number}"))) for number in range(40)]
        await asyncio.sleep(0)  # all of them are handed over
        decided = asyncio.ensure_future(asyncio.to_thread(writer.decide, seen))
        await asyncio.gather(*before, decided)
        await writer.record(a_token("later"))
        return decided.result()

    assert asyncio.run(hand_over_around()) == {f"t{number}" for number in range(40)}


def test_a_decision_that_fails_is_undone_and_tells_who_asked(writer: Writer, database_url: str) -> None:
    def insert_and_fail(connection: sa.Connection, was_lost: bool) -> None:
        insert(connection, [a_token("undone")])
        raise KeyError("of the decision's own")

    with pytest.raises(KeyError, match="of the decision's own"):
        writer.decide(insert_and_fail)
    writer.write(a_token("kept"))
    seen = tokens_seen_from_outside(database_url)
    assert "kept" in seen and "undone" not in seen


def test_a_decision_within_a_decision_is_refused_instead_of_waiting_for_itself(writer: Writer) -> None:
    with pytest.raises(AssertionError, match="wait for itself"):
        writer.decide(lambda connection, was_lost: writer.decide(lambda connection, was_lost: None))


class Forgetful(Database):
    """A database that acknowledges what it has not committed."""

    def commit(self, work: Callable[[sa.Connection, bool], T], *, alone: bool = False) -> T:
        def work_and_forget(connection: sa.Connection, was_lost: bool) -> T:
            done = work(connection, was_lost)
            connection.rollback()
            return done

        return super().commit(work_and_forget, alone=alone)


def test_a_writer_that_acknowledged_too_early_would_be_seen_through(database: Database, database_url: str) -> None:
    with database.write() as connection:
        insert(connection, an_open_run("r1"))
    with closing(Writer(Forgetful(database.engine))) as writer:
        writer.write(a_token("lost"))
        assert "lost" not in tokens_seen_from_outside(database_url)


WRITE_UNTIL_KILLED = """
import sys
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster_tests.landscape.sample import a_token
landscape = Landscape.open(sys.argv[1])
for number in range(100_000):
    landscape.write(a_token(f"t{number}"))
    print(number, flush=True)
"""


def test_what_was_acknowledged_is_there_after_the_process_was_killed(writer: Writer, database_url: str) -> None:
    command = [sys.executable, "-c", WRITE_UNTIL_KILLED, database_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(50)]
        process.kill()
        acknowledged += [int(line) for line in process.stdout.read().split("\n")[:-1]]
    assert {f"t{number}" for number in acknowledged} <= tokens_seen_from_outside(database_url)


def test_what_gathers_during_a_commit_is_committed_by_halves(writer: Writer, database: Database) -> None:
    with commits(database) as committed:
        assert gathered(writer, database, [[a_token(f"t{number}")] for number in range(60)]) == [None] * 60
    assert 4 <= len(committed) <= 9  # of who held the writer up, of the fact it was busy with, of the sixty by halves


def test_hundreds_of_coroutines_share_a_few_commits(writer: Writer, database: Database) -> None:
    async def hand_all_over() -> None:
        await asyncio.gather(*(writer.record(a_token(f"t{number}")) for number in range(400)))

    with commits(database) as committed:
        asyncio.run(hand_all_over())
    assert len(committed) <= 20


def test_one_bad_fact_loses_its_whole_hand_over_and_nothing_of_its_neighbours(
    writer: Writer, database: Database, database_url: str
) -> None:
    orphan = only(Call, a_run("r1"))._replace(call_id="orphan", state_id="nobody", call_index=9)
    before, bad, after = gathered(
        writer,
        database,
        [[GOOD[0], a_token("before")], [GOOD[1], a_token("with the bad one"), orphan], [GOOD[2], a_token("after")]],
    )
    assert before is after is None
    assert isinstance(bad, AuditError)
    assert "foreign key" in str(bad).lower()
    seen = tokens_seen_from_outside(database_url)
    assert seen >= {"busy", "before", "after"}
    assert "with the bad one" not in seen
    with database.read() as connection:
        kept = {payload.ref for payload in recorded(connection, Payload)}
    assert GOOD[1].ref not in kept
    assert {GOOD[0].ref, GOOD[2].ref} < kept


def test_a_whole_run_can_be_handed_over_in_any_order(writer: Writer) -> None:
    writer.write(*reversed(a_run("r2")))


def bad_facts_with_a_secret() -> list[Fact]:
    """Facts whose refusal could quote what a row holds."""
    facts = a_run("r1")
    return [
        only(Row, facts)._replace(row_key=SECRET),
        only(Row, facts)._replace(row_id=SECRET, row_key=SECRET),
        only(Row, facts)._replace(row_id=f"{SECRET}\0", row_index=7),
        only(Row, facts)._replace(row_id="2", row_key=SECRET, row_index=SECRET),  # type: ignore[arg-type]
        only(Row, facts)._replace(row_id="2", row_key=SECRET, row_index=None),  # type: ignore[arg-type]
        only(Row, facts)._replace(row_id="2", row_index=2, values_ref=SECRET),
        only(Reply, facts)._replace(call_id=SECRET, detail=SECRET),
        only(Reply, facts)._replace(call_id="r1-call", detail=SECRET, http_status=None),
        only(Token, facts)._replace(token_id=SECRET, kind=SECRET),  # type: ignore[arg-type]
        only(Token, facts)._replace(token_id=SECRET, row_id=SECRET),
        only(Run, facts)._replace(run_id=SECRET, config_ref="sha256:" + "00" * 32),
    ]


def test_an_audit_error_holds_neither_text_of_rows_nor_sql(landscape: Landscape) -> None:
    landscape.write(*an_open_run("r1"))
    for fact in bad_facts_with_a_secret():
        for hand_over in (Landscape.write, record, decide):
            with pytest.raises(AuditError) as refused:
                hand_over(landscape, fact)
            told = "".join(traceback.format_exception(refused.value))
            assert not [word for word in ("Example", "1950", "INSERT") if word in told], told


def record(landscape: Landscape, fact: Fact) -> None:
    asyncio.run(landscape.record(fact))


def decide(landscape: Landscape, fact: Fact) -> None:
    landscape.decide(lambda connection: insert(connection, [fact]))


def test_the_databases_own_error_would_hold_them(database: Database) -> None:
    with database.write() as connection:
        insert(connection, an_open_run("r1"))
        with pytest.raises(sa.exc.DBAPIError) as refused:
            insert(connection, [only(Row, a_run("r1"))._replace(row_id="2", row_key=SECRET, node_id="nobody")])
        assert "INSERT" in str(refused.value)
        connection.rollback()


def test_many_threads_hand_over_at_once(writer: Writer, database_url: str) -> None:
    def hand_over(thread: int) -> None:
        for number in range(200):
            writer.write(a_token(f"{thread}-{number}"))

    with ThreadPoolExecutor(max_workers=8) as threads:
        list(threads.map(hand_over, range(8)))
    assert len(tokens_seen_from_outside(database_url)) == 3 + 8 * 200


def test_two_event_loops_hand_over_at_once(landscape: Landscape, database_url: str) -> None:
    landscape.write(*an_open_run("r1"))

    async def hand_over(loop: int) -> None:
        await asyncio.gather(*(landscape.record(a_token(f"{loop}-{number}")) for number in range(100)))

    with ThreadPoolExecutor(max_workers=2) as threads:
        list(threads.map(lambda loop: asyncio.run(hand_over(loop)), range(2)))
    assert len(tokens_seen_from_outside(database_url)) == 3 + 2 * 100


def test_a_waiter_that_is_cancelled_harms_nobody_and_its_fact_stays(
    writer: Writer, database: Database, database_url: str
) -> None:
    async def cancel_one() -> None:
        with held_up(database) as let_go:
            cancelled = asyncio.create_task(writer.record(a_token("cancelled")))
            other = asyncio.create_task(writer.record(a_token("other")))
            await asyncio.sleep(0.05)
            cancelled.cancel()
            await asyncio.sleep(0)
            let_go()
            await other
            with pytest.raises(asyncio.CancelledError):
                await cancelled

    asyncio.run(cancel_one())
    writer.write(a_token("next"))
    assert tokens_seen_from_outside(database_url) >= {"cancelled", "other", "next"}


def test_a_loop_that_is_gone_before_its_facts_are_durable_harms_nobody(
    writer: Writer, database: Database, database_url: str
) -> None:
    async def give_up_soon() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.record(a_token("left behind")), timeout=0.05)

    with held_up(database):
        asyncio.run(give_up_soon())
    writer.write(a_token("next"))
    assert tokens_seen_from_outside(database_url) >= {"left behind", "next"}


def test_closing_makes_durable_what_waits(writer: Writer, database: Database, database_url: str) -> None:
    async def close_before_they_are_durable() -> None:
        with held_up(database) as let_go:
            waiting = [asyncio.create_task(writer.record(a_token(f"t{number}"))) for number in range(5)]
            await asyncio.sleep(0)
            closing_ = asyncio.create_task(asyncio.to_thread(writer.close))
            await asyncio.sleep(0.1)
            assert not closing_.done()
            let_go()
            await asyncio.gather(closing_, *waiting)

    asyncio.run(close_before_they_are_durable())
    assert tokens_seen_from_outside(database_url) >= {f"t{number}" for number in range(5)}


@pytest.mark.parametrize("facts_before", [0, 1])
def test_a_fact_after_closing_is_refused_at_once(database_url: str, facts_before: int) -> None:
    landscape = Landscape.open(database_url)
    for _ in range(facts_before):
        landscape.write(GOOD[0])
    landscape.close()
    landscape.close()
    with pytest.raises(AuditError, match="the landscape is closed"):
        landscape.write(GOOD[1])
    with pytest.raises(AuditError, match="the landscape is closed"):
        asyncio.run(landscape.record(GOOD[1]))


def test_hand_overs_racing_with_closing_are_recorded_or_refused_never_left_hanging(
    database: Database, database_url: str
) -> None:
    with database.write() as connection:
        insert(connection, an_open_run("r1"))
    for round_ in range(5):
        writer, start = Writer(database), threading.Barrier(9)

        def hand_over(
            thread: int, round_: int = round_, writer: Writer = writer, start: threading.Barrier = start
        ) -> str:
            start.wait(timeout=60)
            try:
                writer.write(a_token(f"{round_}-{thread}"))
            except AuditError:
                return ""
            return f"{round_}-{thread}"

        with ThreadPoolExecutor(max_workers=8) as threads:
            futures = [threads.submit(hand_over, thread) for thread in range(8)]
            start.wait(timeout=60)
            writer.close()
            acknowledged = {future.result(timeout=60) for future in futures} - {""}
        assert {
            token for token in tokens_seen_from_outside(database_url) if token.startswith(f"{round_}-")
        } == acknowledged


HOLD_THE_FILE = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(2)
connection.execute("COMMIT")
"""


def test_a_sqlite_file_locked_by_another_process_is_waited_for(sqlite_url: str) -> None:
    command = [sys.executable, "-c", HOLD_THE_FILE, str(sa.make_url(sqlite_url).database)]
    with (
        Landscape.open(sqlite_url) as landscape,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder,
    ):
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        landscape.write(GOOD[0])
        assert holder.wait(timeout=60) == 0
        with landscape.read() as connection:
            assert count(connection, payloads) == 1


def test_a_fact_that_is_no_fact_is_refused_and_the_writer_goes_on(writer: Writer, database_url: str) -> None:
    with pytest.raises(AuditError):
        writer.write("no fact")  # type: ignore[arg-type]
    writer.write()
    writer.write(a_token("next"))
    assert "next" in tokens_seen_from_outside(database_url)
