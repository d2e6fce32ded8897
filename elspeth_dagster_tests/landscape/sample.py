"""A small run on record: one fact of every kind, each with the parents it needs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any, TypeVar

import sqlalchemy as sa

from elspeth_dagster.core.canonical import sha256
from elspeth_dagster.landscape.compressing import COMMON
from elspeth_dagster.landscape.records import (
    TABLES,
    AnchorReceipt,
    Answer,
    Artifact,
    Batch,
    BatchMember,
    Call,
    Checkpoint,
    Edge,
    ErasedPayload,
    ErasedScope,
    Erasure,
    Fact,
    LegalHold,
    LegalHoldRelease,
    LogEntry,
    Node,
    NodeState,
    NodeStateEnd,
    Payload,
    Reply,
    Review,
    Row,
    RowRejection,
    Run,
    RunEnd,
    Scope,
    Seal,
    SealTile,
    Token,
    TokenOutcome,
    TokenParent,
)
from elspeth_dagster.landscape.schema import metadata
from elspeth_dagster.landscape.words import (
    AnswerStatus,
    Cause,
    Determinism,
    Outcome,
    ReplyOutcome,
    RunStatus,
    ScopeKind,
    StateStatus,
    TokenKind,
    Trigger,
    Verdict,
)

F = TypeVar("F", bound=Fact)
NOON = datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)
RECORDS = {table: kind for kind, table in TABLES.items()}


def a_run(run_id: str) -> list[Fact]:
    """A run's facts, parents first, its end last. All of its ids begin with the run's own."""
    scope, text = a_scope(run_id), Payload.of(f"what {run_id} read, sent and got".encode())
    slice_, row, batch = (Token(f"{run_id}-{kind.value}", run_id, kind, None) for kind in TokenKind)
    read, ask, state, row_id, call_id, batch_id = (
        f"{run_id}-{name}" for name in ("read", "ask", "state", "first", "call", "flush")
    )
    return [
        scope,
        Payload.of(f"what {run_id} asked about its row".encode(), scope),
        text,
        Run(run_id, None, run_id, "job", '["a"]', "[]", text.ref, "0", "0", "1", "3.11", "host", NOON),
        Node(run_id, read, "a", "admit_rows", "1", Determinism.EXTERNAL_READ, text.ref),
        Node(run_id, ask, "a", "ask_batches", "1", Determinism.EXTERNAL_CALL, text.ref),
        Edge(run_id, read, ask, "rows"),
        Row(row_id, run_id, read, 0, "key", "2026-01-31", 2, text.ref, text.ref, scope.scope_id),
        RowRejection(run_id, read, 1, "2026-01-31", 3, "age", "type", "'x' is no number", text.ref),
        slice_,
        batch,
        row._replace(row_id=row_id),
        TokenParent(batch.token_id, 0, run_id, row.token_id),
        Batch(batch_id, run_id, ask, 0, batch.token_id, Trigger.ROWS, "shard_00001"),
        BatchMember(batch_id, 0, run_id, row.token_id),
        NodeState(state, run_id, ask, batch.token_id, 1, "a.ask_batches[1]", 0, "host", 7, NOON),
        Call(call_id, run_id, state, row.token_id, "cs1_depth", 1, 0, Cause.FIRST, "openai", "gpt",
             text.ref, text.ref, NOON),
        Reply(call_id, ReplyOutcome.SUCCESS, None, None, 200, "{}", text.ref, "gpt", "fp", "stop",
              10, 5, 0, 42, 1500, 0, NOON),
        Answer(state, row.token_id, "cs1_depth", run_id, AnswerStatus.ACCEPTED, None, None, text.ref, call_id, NOON),
        NodeStateEnd(state, StateStatus.COMPLETED, "{}", None, NOON),
        TokenOutcome(row.token_id, run_id, Outcome.ASSESSED, state, NOON),
        Artifact(f"{run_id}-artifact", run_id, state, "a/results", None, "file:///x", text.ref, 9, 1, NOON),
        Review(state, row.token_id, "cs1_depth", "Ada", 1, Verdict.CORRECT, "too kind", text.ref, text.ref, NOON),
        Seal(run_id, 1, text.ref, "{}", "a note", NOON),
        SealTile(run_id, "runs", 0, bytes(32)),
        LogEntry(scope.scope_id, "begin", "{}"),
        Checkpoint(scope.scope_id, "a note", NOON),
        AnchorReceipt(scope.scope_id, "file", "appended", NOON),
        Erasure(f"{run_id}-erasure", "a request", "a clerk", "{}", NOON),
        ErasedPayload(text.ref, f"{run_id}-erasure", None),
        ErasedScope(scope.scope_id, f"{run_id}-erasure"),
        LegalHold(f"{run_id}-hold", ScopeKind.ROW, "a", "key", "a case", "a counsel", NOON),
        LegalHoldRelease(f"{run_id}-hold", "case closed", "a counsel", NOON),
        RunEnd(run_id, RunStatus.COMPLETED, None, NOON),
    ]  # fmt: skip


def a_scope(run_id: str) -> Scope:
    """The scope of a run's row."""
    number = int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:3]) + 1
    return Scope(number, run_id, ScopeKind.ROW, "key", 1, hashlib.sha256(run_id.encode()).digest())


def an_open_run(run_id: str) -> list[Fact]:
    """The same without the run's end."""
    return a_run(run_id)[:-1]


def a_running_run(run_id: str) -> list[Fact]:
    """The same, with its state still at work."""
    return [fact for fact in an_open_run(run_id) if not isinstance(fact, NodeStateEnd)]


def a_token(name: str) -> Token:
    """A fact that needs nothing but run r1."""
    return Token(name, "r1", TokenKind.BATCH, None)


def all_of(kind: type[F], facts: Iterable[Fact]) -> list[F]:
    """The facts of a kind."""
    return [fact for fact in facts if isinstance(fact, kind)]


def only(kind: type[F], facts: Iterable[Fact]) -> F:
    """The last fact of a kind."""
    return all_of(kind, facts)[-1]


def parents_of(table: sa.Table, facts: Iterable[Fact]) -> list[Fact]:
    """Those of a run's facts that a fact of `table` may refer to."""
    before = set(takewhile(lambda other: other is not table, metadata.sorted_tables))
    ends = (RunEnd, NodeStateEnd)  # after these nothing more is taken
    return [fact for fact in facts if TABLES[type(fact)] in before and not isinstance(fact, ends)]


def recorded(connection: sa.Connection, kind: type[F]) -> list[F]:
    """All facts of a kind that are on record; but the dictionary, which is there from the start."""
    make: Any = kind
    found = [make(*row) for row in connection.execute(TABLES[make].select())]
    return [fact for fact in found if fact[0] != sha256(COMMON)]


def raw(fact: Fact, dialect: sa.Dialect) -> dict[str, Any]:
    """A fact's columns as the driver gets them, past the checks of our column types."""
    processors = {column.name: column.type.bind_processor(dialect) for column in TABLES[type(fact)].columns}
    return {name: process(value) if (process := processors[name]) else value for name, value in fact._asdict().items()}


def raw_insert(connection: sa.Connection, table: sa.Table, values: dict[str, Any]) -> None:
    """Insert by plain SQL."""
    names = ", ".join(f'"{name}"' for name in values)
    places = ", ".join(f":{name}" for name in values)
    connection.execute(sa.text(f"INSERT INTO {table.name} ({names}) VALUES ({places})"), values)


def count(connection: sa.Connection, table: sa.Table) -> int:
    """How many rows a table has; but the dictionary of payloads, which is there from the start."""
    found: int = connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
    return found - (table is TABLES[Payload])
