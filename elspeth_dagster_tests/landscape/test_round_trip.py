"""What is written is read back equal, on both databases; in people's text the same characters are replaced."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elspeth_dagster.landscape.columns import EPOCH, LARGEST_SCOPE, Hash, Instant, Name, Number, Ref, Text, Word
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.records import (
    TABLES,
    Answer,
    Call,
    Checkpoint,
    Fact,
    LogEntry,
    NodeState,
    Payload,
    Reply,
    Review,
    Run,
    Scope,
    SealTile,
)
from elspeth_dagster.landscape.words import AnswerStatus, ReplyOutcome, Verdict
from elspeth_dagster.landscape.writing import insert
from elspeth_dagster_tests.landscape.sample import a_run, only, parents_of, recorded

EXAMPLES = {"sqlite": 40, "postgresql": 15}
LARGEST = 2**63 - 1
numbers = st.integers(-LARGEST - 1, LARGEST) | st.sampled_from([0, -1, LARGEST, -LARGEST - 1])
instants = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)).map(
    lambda naive: EPOCH + (naive - datetime(1970, 1, 1))
)
texts = st.text() | st.text(alphabet="a\0\ud83d\ude00\udfffé\N{GRINNING FACE}\N{REPLACEMENT CHARACTER}%':\\\n")
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def values_of(column: sa.Column[Any]) -> st.SearchStrategy[Any]:
    """Any value that a column takes."""
    match column.type:
        case Word():
            strategy: st.SearchStrategy[Any] = st.sampled_from(list(column.type.vocabulary))
        case Instant():
            strategy = instants
        case Number():
            strategy = numbers
        case Text():
            strategy = texts
        case Name():
            strategy = names
        case Hash():
            strategy = st.binary(min_size=32, max_size=32).map(lambda digest: "sha256:" + digest.hex())
        case Ref():
            strategy = st.builds(
                lambda name, digest: name + digest.hex(),
                st.just("sha256:") | st.integers(1, LARGEST_SCOPE).map("hmac-sha256:{}:".format),
                st.binary(min_size=32, max_size=32),
            )
        case _:
            strategy = st.binary()
    return strategy | st.none() if column.nullable else strategy


def facts_like(fact: Fact) -> st.SearchStrategy[Fact]:
    """Any fact in the place of this one: the same parents, everything else as it may come."""
    table = TABLES[type(fact)]
    given_by_parents = {name for key in table.foreign_key_constraints for name in key.column_keys} | {"kind"}
    free = {column.name: values_of(column) for column in table.columns if column.name not in given_by_parents}
    return st.fixed_dictionaries(free).map(lambda values: consistent(fact._replace(**values)))


def consistent(fact: Fact) -> Fact:
    """The fact nearest to this one that doesn't contradict itself."""
    match fact:
        case NodeState():
            nearest: Fact = fact._replace(attempt=max(1, fact.attempt))
        case Call():
            nearest = fact._replace(query_attempt=max(1, fact.query_attempt), call_index=max(0, fact.call_index))
        case Scope():
            key = fact.naming_key.ljust(32)[:32] if fact.naming_key else b""
            nearest = fact._replace(scope_id=1 + fact.scope_id % LARGEST_SCOPE, naming_key=key)
        case Payload():
            nearest = fact._replace(ref="sha256:" + fact.ref[-64:])
        case SealTile():
            nearest = fact._replace(hashes=(fact.hashes + bytes(32))[:32])
        case LogEntry():
            nearest = fact._replace(log_index=max(0, fact.log_index))
        case Checkpoint():
            nearest = fact._replace(log_size=max(1, fact.log_size))
        case Reply(outcome=ReplyOutcome.SUCCESS):
            nearest = fact._replace(error_class=None, http_status=fact.http_status or 200)
        case Reply():
            nearest = fact._replace(error_class=fact.error_class or "")
        case Answer():
            refused = fact.status is AnswerStatus.REFUSED
            nearest = fact._replace(reason=fact.reason or "" if refused else None)
        case Review():
            corrects = fact.verdict is Verdict.CORRECT
            nearest = fact._replace(
                number=max(1, fact.number),
                reason=fact.reason or "" if fact.verdict is Verdict.REJECT else fact.reason,
                values_ref=fact.values_ref if corrects else None,
            )
        case _:
            nearest = fact
    return nearest


def as_kept(fact: Fact) -> Fact:
    """A fact with U+FFFD for each character of its texts that no text column keeps on both databases; bytes packed."""
    if isinstance(fact, Payload):
        return fact.packed()
    columns = TABLES[type(fact)].columns
    texts = {column.name for column in columns if isinstance(column.type, Text)}
    given = {name: value for name in texts if (value := getattr(fact, name)) is not None}
    kept: dict[str, Any] = {name: re.sub("[\0\ud800-\udfff]", "\ufffd", value) for name, value in given.items()}
    return fact._replace(**kept)


@pytest.mark.parametrize("kind", TABLES)
def test_what_is_written_is_read_back_equal(unchanged_database: Database, dialect: str, kind: type[Fact]) -> None:
    table, sample = TABLES[kind], only(kind, a_run("r1"))
    make: Any = kind

    with unchanged_database.write() as connection:
        insert(connection, parents_of(table, a_run("r1")))

        @settings(max_examples=EXAMPLES[dialect], deadline=None, suppress_health_check=list(HealthCheck))
        @given(facts_like(sample))
        def round_trip(fact: Fact) -> None:
            savepoint = connection.begin_nested()
            insert(connection, [fact])
            key = [column == getattr(fact, column.name) for column in table.primary_key]
            found = make(*connection.execute(table.select().where(*key)).one())
            savepoint.rollback()
            assert found == as_kept(fact)
            assert [type(value) for value in found] == [type(value) for value in as_kept(fact)]

        round_trip()
        connection.rollback()


def test_an_instant_of_another_zone_is_the_same_instant(unchanged_database: Database) -> None:
    summer_time = timezone(timedelta(hours=2))
    there = only(Run, a_run("r1"))._replace(started_at=datetime(2026, 3, 29, 2, 30, tzinfo=summer_time))
    with unchanged_database.write() as connection:
        insert(connection, [only(Payload, a_run("r1")), there])
        [run] = recorded(connection, Run)
        connection.rollback()
    assert run.started_at.isoformat() == "2026-03-29T00:30:00+00:00"


def test_a_payload_keeps_any_bytes(unchanged_database: Database) -> None:
    @settings(max_examples=EXAMPLES[unchanged_database.engine.dialect.name], deadline=None)
    @given(st.binary(max_size=300) | st.binary(max_size=4).map(lambda few: few * 1000))
    def round_trip(data: bytes) -> None:
        with unchanged_database.write() as connection:
            insert(connection, [Payload.of(data)])
            [found] = recorded(connection, Payload)
            connection.rollback()
        assert found == Payload.of(data).packed()
        assert found.data() == data

    round_trip()
