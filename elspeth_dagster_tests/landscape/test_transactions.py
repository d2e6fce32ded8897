"""Transactions are the same on both databases: who reads sees one state, who decides is alone."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from elspeth_dagster.core.errors import AuditError, LandscapeError
from elspeth_dagster.landscape import runs, schema
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Edge, Node, Payload, Run, Token
from elspeth_dagster.landscape.schema import payloads, token_outcomes
from elspeth_dagster.landscape.words import RunStatus, TokenKind
from elspeth_dagster.landscape.writing import insert
from elspeth_dagster_tests.landscape.sample import a_run, an_open_run, count, only


def grow(database: Database) -> None:
    with database.write() as connection:
        insert(connection, [Payload.of(str(count(connection, payloads)).encode())])


def test_who_reads_sees_one_state_however_much_is_written_meanwhile(database: Database) -> None:
    with database.read() as connection:
        before = count(connection, payloads)
        grow(database)
        assert count(connection, payloads) == before
    with database.read() as connection:
        assert count(connection, payloads) == before + 1


def test_a_plain_connection_to_postgresql_would_see_several_states(postgresql_url: str) -> None:
    database = Database.open(postgresql_url)
    with database.engine.connect() as connection:
        before = count(connection, payloads)
        grow(database)
        assert count(connection, payloads) == before + 1
    database.close()


def test_who_reads_can_not_write(database: Database) -> None:
    for _ in range(2):
        refused = pytest.raises(LandscapeError, match=r"can't be read: .*(read-?only|query_only)")
        with refused, database.read() as connection:
            insert(connection, [Payload.of(b"lost when the block is left")])
        grow(database)


def test_a_transaction_that_raises_leaves_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        insert(connection, [Payload.of(b"undone")])
        raise ZeroDivisionError
    with database.read() as connection:
        assert count(connection, payloads) == 0


def test_nobody_writes_while_another_decides(landscape: Landscape) -> None:
    write = threading.Thread(target=landscape.write, args=[Payload.of(b"later")])

    def decide(connection: sa.Connection) -> None:
        write.start()
        write.join(timeout=0.3)
        assert write.is_alive()
        assert count(connection, payloads) == 0

    landscape.decide(decide)
    write.join(timeout=30)
    with landscape.read() as connection:
        assert count(connection, payloads) == 1


def test_who_decides_waits_for_those_who_write(database: Database, database_url: str) -> None:
    """Else the end of a run would overlook a token that is about to be committed."""
    with database.write() as connection:
        insert(connection, an_open_run("r1"))
    with Landscape.open(database_url) as other:
        end = threading.Thread(target=runs.end, args=[other, "r1", RunStatus.FAILED, "stopped"])
        with database.write() as connection:
            insert(connection, [Token("late", "r1", TokenKind.BATCH, None)])
            end.start()
            end.join(timeout=0.3)
            assert end.is_alive()
        end.join(timeout=30)
    with database.read() as connection:
        assert connection.scalar(sa.select(token_outcomes.c.outcome).where(token_outcomes.c.token_id == "late"))


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_writers_do_not_wait_for_each_other(database: Database) -> None:
    with database.write() as one:
        insert(one, [Payload.of(b"one")])
        with database.write() as another:
            insert(another, [Payload.of(b"another")])


def test_a_run_that_two_steps_begin_at_once_is_begun_once(database_url: str) -> None:
    facts = a_run("r1")
    nodes = [fact for fact in facts if isinstance(fact, Node)]
    edges = [fact for fact in facts if isinstance(fact, Edge)]
    at_once, refused = threading.Barrier(6), []

    def begin() -> None:
        with Landscape.open(database_url) as landscape:
            at_once.wait(timeout=30)
            try:
                runs.begin(landscape, only(Run, facts), nodes, edges, [only(Payload, facts)])
            except AuditError as error:
                refused.append(error)

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == []
    with Landscape.open(database_url) as landscape, landscape.read() as connection:
        assert count(connection, schema.runs) == 1
        assert count(connection, schema.nodes) == 2


def test_a_refused_decision_is_an_audit_error_without_the_statement(landscape: Landscape) -> None:
    orphan = only(Run, a_run("r1"))._replace(host="the row's text")
    with pytest.raises(AuditError) as refused:
        landscape.decide(lambda connection: insert(connection, [orphan]))
    assert "foreign key" in str(refused.value).lower()
    assert "INSERT" not in str(refused.value)
    assert refused.value.__cause__ is None
