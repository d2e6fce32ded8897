"""Rule 8: a record's fields are its table's columns, and the database itself refuses what no record could hold."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest
import sqlalchemy as sa

from elspeth_dagster.core.errors import AuditError
from elspeth_dagster.landscape import words
from elspeth_dagster.landscape.columns import Hash, Instant, Name, Number, Ref, Text, Word
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import (
    TABLES,
    Answer,
    Artifact,
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
    Seal,
    SealTile,
    Token,
)
from elspeth_dagster.landscape.schema import metadata
from elspeth_dagster.landscape.words import AnswerStatus, ReplyOutcome, TokenKind, Verdict
from elspeth_dagster.landscape.writing import insert
from elspeth_dagster_tests.landscape.sample import RECORDS, a_run, an_open_run, only, parents_of, raw, raw_insert

KINDS = {Text: str, Name: str, Hash: str, Ref: str, Number: int, Instant: datetime, sa.LargeBinary: bytes}
NUMBERS = [column for table in metadata.sorted_tables for column in table.columns
           if isinstance(column.type, Number | Instant)]  # fmt: skip
WORDS = [column for table in metadata.sorted_tables for column in table.columns if isinstance(column.type, Word)]


def python_type(column: sa.Column[Any]) -> type:
    """What a column's values are in Python."""
    return column.type.vocabulary if isinstance(column.type, Word) else KINDS[type(column.type)]


def test_there_is_a_record_for_every_table_and_a_table_for_every_record() -> None:
    assert set(TABLES.values()) == set(metadata.sorted_tables)
    assert set(TABLES) == set(get_args(Fact))
    assert len(TABLES) == len(set(TABLES.values()))


@pytest.mark.parametrize("kind", TABLES)
def test_a_records_fields_are_its_tables_columns_in_the_same_order(kind: type[Fact]) -> None:
    hints, columns = get_type_hints(kind), TABLES[kind].columns
    assert kind._fields == tuple(column.name for column in columns)
    for column in columns:
        allowed = set(get_args(hints[column.name])) or {hints[column.name]}
        assert allowed == {python_type(column)} | ({NoneType} if column.nullable else set()), column


def test_columns_are_nullable_in_the_database_where_they_are_in_the_record(unchanged_database: Database) -> None:
    found = sa.inspect(unchanged_database.engine)
    for table in metadata.sorted_tables:
        nullable = {column["name"]: column["nullable"] for column in found.get_columns(table.name)}
        assert nullable == {column.name: column.nullable for column in table.columns}, table.name


def test_every_vocabulary_is_used_and_has_no_word_twice() -> None:
    vocabularies = {value for value in vars(words).values() if isinstance(value, type) and issubclass(value, StrEnum)}
    assert vocabularies - {StrEnum} == {column.type.vocabulary for column in WORDS if isinstance(column.type, Word)}


IN_KEEPING: dict[str, dict[str, object]] = {
    "tokens.kind": {"row_id": None},
    "replies.outcome": {"error_class": "timeout"},
    "reviews.verdict": {"values_ref": None},
}


class Refusals:
    """What the database itself says to changed facts, past all checks in Python."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def of(self, fact: Fact, **changes: object) -> str:
        """Its words; nothing when it takes the fact."""
        table = TABLES[type(fact)]
        savepoint = self._connection.begin_nested()
        insert(self._connection, parents_of(table, a_run("r1")))
        try:
            raw_insert(self._connection, table, {**raw(fact, self._connection.dialect), **changes})
        except sa.exc.DBAPIError as error:
            return str(error.orig)
        finally:
            savepoint.rollback()
        return ""


@pytest.fixture
def refusals(unchanged_database: Database) -> Any:
    """A transaction to try facts in."""
    with unchanged_database.write() as connection:
        yield Refusals(connection)
        connection.rollback()


def sample_of(column: sa.Column[Any]) -> Fact:
    return only(RECORDS[column.table], a_run("r1"))


def test_the_sample_itself_is_taken(refusals: Refusals) -> None:
    assert [refusals.of(only(kind, a_run("r1"))) for kind in TABLES] == [""] * len(TABLES)


def test_an_unknown_word_is_refused_by_the_database(refusals: Refusals) -> None:
    assert len(WORDS) == 14
    for column in WORDS:
        for unknown in ("", "COMPLETED", "completed ", "quarantined"):
            said = refusals.of(sample_of(column), **{column.name: unknown}, **IN_KEEPING.get(str(column), {}))
            assert f"ck_{column.table.name}_{column.name}_is_known" in said, column


def test_without_its_check_an_unknown_word_would_be_taken(refusals: Refusals, dialect: str) -> None:
    connection = refusals._connection
    if dialect == "sqlite":
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
    for column in WORDS:
        if dialect == "postgresql":
            check = f"ck_{column.table.name}_{column.name}_is_known"
            connection.exec_driver_sql(f"ALTER TABLE {column.table.name} DROP CONSTRAINT {check}")
    said = refusals.of(only(Reply, a_run("r1")), outcome="lost", error_class="lost")
    if dialect == "sqlite":
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = OFF")
    assert said == ""


IMPOSSIBLE: list[tuple[type[Fact], dict[str, object], str]] = [
    (Token, {"kind": TokenKind.BATCH}, "row_token_has_row"),
    (Token, {"row_id": None}, "row_token_has_row"),
    (NodeState, {"attempt": 0}, "attempt_from_one"),
    (Call, {"query_attempt": 0}, "counted_from_one"),
    (Call, {"call_index": -1}, "counted_from_one"),
    (Call, {"question_hash": b"short"}, "question_hash_is_named"),
    (Reply, {"error_class": "timeout"}, "error_has_class"),
    (Reply, {"outcome": ReplyOutcome.ERROR}, "error_has_class"),
    (Reply, {"outcome": ReplyOutcome.UNKNOWN}, "error_has_class"),
    (Reply, {"http_status": None}, "whole"),
    (Reply, {"body_ref": None}, "whole"),
    (Answer, {"reason": "blank_input"}, "refused_has_reason"),
    (Answer, {"status": AnswerStatus.REFUSED}, "refused_has_reason"),
    (Answer, {"values_ref": None}, "accepted_whole"),
    (Answer, {"call_id": None}, "accepted_whole"),
    (Payload, {"ref": b"short"}, "ref_is_named"),
    (Payload, {"ref": b"\0" * 37}, "ref_is_named"),
    (Payload, {"scope_id": 1}, "ref_is_named"),
    (Scope, {"naming_key": b"short"}, "key_is_whole_or_gone"),
    (Scope, {"scope_id": 0}, "fits_a_name"),
    (Scope, {"scope_id": 2**40}, "fits_a_name"),
    (Review, {"number": 0}, "number_from_one"),
    (Review, {"values_ref": None}, "correction_has_values"),
    (Review, {"verdict": Verdict.AGREE}, "correction_has_values"),
    (Review, {"verdict": Verdict.REJECT, "values_ref": None, "reason": None}, "rejection_has_reason"),
    (Review, {"file_hash": b"short"}, "file_hash_is_sha256"),
    (Artifact, {"content_hash": b"\0" * 33}, "content_hash_is_sha256"),
    (Seal, {"root": b"\0" * 31}, "root_is_sha256"),
    (SealTile, {"hashes": b""}, "hashes_are_whole"),
    (SealTile, {"hashes": b"\0" * 33}, "hashes_are_whole"),
    (SealTile, {"hashes": b"\0" * 8224}, "hashes_are_whole"),
    (LogEntry, {"log_index": -1}, "index_from_zero"),
    (Checkpoint, {"log_size": 0}, "of_something"),
]


def test_facts_that_contradict_themselves_are_refused_by_the_database(refusals: Refusals) -> None:
    for kind, changes, check in IMPOSSIBLE:
        said = refusals.of(only(kind, a_run("r1")), **{name: str(value) if isinstance(value, StrEnum) else value
                                                       for name, value in changes.items()})  # fmt: skip
        assert f"ck_{TABLES[kind].name}_{check}" in said, changes


def test_every_check_of_the_schema_is_broken_by_one_of_these_tests() -> None:
    checks = {f"ck_{column.table.name}_{column.name}_is_known" for column in WORDS}
    checks |= {f"ck_{TABLES[kind].name}_{check}" for kind, _, check in IMPOSSIBLE}
    assert checks == {str(constraint.name) for table in metadata.sorted_tables for constraint in table.constraints
                      if isinstance(constraint, sa.CheckConstraint)}  # fmt: skip


def test_a_missing_value_is_refused_wherever_the_record_must_have_one(refusals: Refusals) -> None:
    for table in metadata.sorted_tables:
        for column in table.columns:
            said = refusals.of(sample_of(column), **{column.name: None}).lower()
            assert column.nullable or "not null" in said or "not-null" in said, column


def test_text_is_no_number_on_either_database(refusals: Refusals) -> None:
    for column in NUMBERS:
        said = refusals.of(sample_of(column), **{column.name: "many"})
        assert "cannot store TEXT value in INTEGER" in said or "invalid input syntax for type bigint" in said, column


def test_what_has_not_the_length_of_a_hash_is_no_hash(refusals: Refusals) -> None:
    for table in metadata.sorted_tables:
        for column in [column for column in table.columns if isinstance(column.type, Hash | Ref)]:
            assert refusals.of(sample_of(column), **{column.name: b"\0" * 31}), column


def test_a_sqlite_table_that_is_not_strict_would_take_text_for_a_number(sqlite_url: str) -> None:
    engine = sa.create_engine(sqlite_url)
    with engine.begin() as connection:
        made = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'run_ends'").scalar_one()
        connection.exec_driver_sql(made.replace("run_ends", "lax", 1).replace("STRICT", ""))
        connection.exec_driver_sql("INSERT INTO lax VALUES ('r1', 'failed', NULL, 'many')")
    engine.dispose()


NOT_AS_DECLARED: list[Callable[[], Fact]] = [
    lambda: only(NodeState, a_run("r1"))._replace(pid=1.5),  # type: ignore[arg-type]
    lambda: only(NodeState, a_run("r1"))._replace(pid="7"),  # type: ignore[arg-type]
    lambda: only(NodeState, a_run("r1"))._replace(pid=2**63),
    lambda: only(NodeState, a_run("r1"))._replace(pid=-(2**63) - 1),
    lambda: only(NodeState, a_run("r1"))._replace(host=7),  # type: ignore[arg-type]
    lambda: only(NodeState, a_run("r1"))._replace(host=b"host"),  # type: ignore[arg-type]
    lambda: only(NodeState, a_run("r1"))._replace(state_id=7),  # type: ignore[arg-type]
    lambda: only(NodeState, a_run("r1"))._replace(started_at=datetime(2026, 1, 1)),
    lambda: only(NodeState, a_run("r1"))._replace(started_at=0),  # type: ignore[arg-type]
    lambda: only(Token, a_run("r1"))._replace(kind="rows"),  # type: ignore[arg-type]
    lambda: only(Run, a_run("r1"))._replace(run_id="r\0"),
    lambda: only(Run, a_run("r1"))._replace(run_id="r\udc80"),
    lambda: only(Run, a_run("r1"))._replace(config_ref="sha256:" + "AB" * 32),
    lambda: only(Run, a_run("r1"))._replace(config_ref="sha256:" + "ab" * 31),
    lambda: only(Run, a_run("r1"))._replace(config_ref="ab" * 32),
    lambda: only(Run, a_run("r1"))._replace(config_ref="sha256:" + "ab" * 32 + "\n"),
    lambda: only(Run, a_run("r1"))._replace(config_ref="hmac-sha256:01:" + "ab" * 32),
    lambda: only(Run, a_run("r1"))._replace(config_ref="hmac-sha256:-1:" + "ab" * 32),
    lambda: only(Run, a_run("r1"))._replace(config_ref="hmac-sha256:1:" + "ab" * 31),
    lambda: only(Run, a_run("r1"))._replace(config_ref=f"hmac-sha256:{2**40}:" + "ab" * 32),
    lambda: only(Payload, a_run("r1"))._replace(ref="../../etc/passwd"),
]


def test_what_is_not_as_declared_is_refused_alike_by_both_databases(landscape: Landscape) -> None:
    facts = an_open_run("r1")
    for make in NOT_AS_DECLARED:
        wrong = make()
        with pytest.raises(AuditError):
            landscape.write(*(wrong if type(fact) is type(wrong) else fact for fact in facts))
    landscape.write(*facts)
