"""Runs that were told something about somebody: rows, requests, replies and answers with a text to look for."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import psycopg
import sqlalchemy as sa

from elspeth_dagster.core.canonical import Json, canonical_json
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.landscape import batches, rows, runs, scopes
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.ledger import Landscape, now
from elspeth_dagster.landscape.records import (
    Answer,
    Artifact,
    Call,
    Dictionary,
    Fact,
    LeaningBytes,
    Node,
    NodeState,
    Payload,
    Reply,
    Row,
    Run,
    Scope,
    Token,
)
from elspeth_dagster.landscape.schema import metadata
from elspeth_dagster.landscape.words import AnswerStatus, Cause, Determinism, ReplyOutcome, RunStatus, Trigger

ASSESSMENT = "trial"
OPS = ("admit_rows", "aggregate_rows", "ask_batches", "collect_results")
FILLER = "and so on, as such cases go. " * 20


class Told(NamedTuple):
    """What a run recorded about a row; `refs` are the names of all payloads that its records lead to."""

    row: Row
    scope: Scope
    request: Payload
    call: Call
    came: str
    judged: str

    @property
    def refs(self) -> list[str]:
        return [self.row.values_ref, str(self.row.raw_ref), self.request.ref, self.came, self.judged]


def tell(
    landscape: Landscape,
    run_id: str,
    texts: Mapping[str, str],
    *,
    rejected: Mapping[int, bytes] = {},
    taken_from: Mapping[str, Told] = {},
    ends: bool = True,
    plainly: bool = False,
) -> dict[str, Told]:
    """Record a run about rows, by key; each is asked one question, whose request and reply quote its text.

    `taken_from`: rows whose answer comes from another run's call.
    `plainly`: with names as they were before there were scopes.
    """
    begin(landscape, run_id)
    facts: list[Fact] = []
    of_rows = scopes.of_rows(landscape, ASSESSMENT, texts)
    naming: Mapping[str, Scope | None] = dict.fromkeys(texts) if plainly else of_rows
    admitted = {key: _admit(facts, run_id, index, key, text, of_rows[key], naming[key])
                for index, (key, text) in enumerate(texts.items())}  # fmt: skip
    for index, raw in rejected.items():
        scope = scopes.of_rejections(landscape, ASSESSMENT, run_id)
        facts += rows.rejection(run_id, f"{ASSESSMENT}.admit_rows", row_index=index, partition_key=None, line=None,
                                column="age", reason="type", message="no number", raw=raw, scope=scope)  # fmt: skip
    state = _ask(facts, run_id, [token for _, token, _ in admitted.values()])
    told = {}
    for index, (key, (row, token, values)) in enumerate(admitted.items()):
        request = _request(texts[key], naming[key], values)
        refs = _answer(facts, state, index, token, naming[key], request, texts[key], taken_from.get(key))
        told[key] = Told(row, of_rows[key], *refs)
    facts.append(_table(state))
    landscape.write(*(fact for fact in facts if isinstance(fact, Payload) and not isinstance(fact.body, LeaningBytes)))
    landscape.write(*facts)
    if ends:
        runs.end(landscape, run_id, RunStatus.COMPLETED, "")
    return told


def begin(landscape: Landscape, run_id: str) -> None:
    """Put a run on record, in a slice of its own."""
    config = Payload.of(b'{"spec": {}}')
    run = Run(run_id, None, run_id, "job", json.dumps([ASSESSMENT]), json.dumps([run_id]), config.ref, "0", "0", "1",
              "3", "host", now())  # fmt: skip
    nodes = [Node(run_id, f"{ASSESSMENT}.{op}", ASSESSMENT, op, "1", Determinism.DETERMINISTIC, config.ref)
             for op in OPS]  # fmt: skip
    runs.begin(landscape, run, nodes, [], [config])


def _admit(
    facts: list[Fact], run_id: str, index: int, key: str, text: str, scope: Scope, naming: Scope | None
) -> tuple[Row, str, Payload]:
    values: dict[str, Json] = {"id": key, "text": text}
    admission = rows.admission(run_id, f"{ASSESSMENT}.admit_rows", row_index=index, row_key=key, partition_key=None,
                               line=None, values=values, raw=f"{key};{text}".encode(), scope=naming)  # fmt: skip
    [row] = [fact._replace(scope_id=scope.scope_id) for fact in admission if isinstance(fact, Row)]
    [token] = [fact.token_id for fact in admission if isinstance(fact, Token)]
    facts += [row, *(fact for fact in admission if not isinstance(fact, Row))]
    return row, token, Payload.of(canonical_json(values), naming)


def _ask(facts: list[Fact], run_id: str, tokens: list[str]) -> NodeState:
    batch, flushed = batches.flush(run_id, f"{ASSESSMENT}.aggregate_rows", ordinal=0, trigger=Trigger.ROWS,
                                 shard="shard_00001", members=tuple(tokens))  # fmt: skip
    state = NodeState(new_id(), run_id, f"{ASSESSMENT}.ask_batches", batch.token_id, 1, "ask", 0, "host", 1, now())
    facts += [*flushed, state]
    return state


def _request(text: str, scope: Scope | None, values: Payload) -> Payload:
    """A request that leans on its row's values."""
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": f"Judge: {text}"}]}).encode()
    request = Payload.of(body, scope)
    return request.leaning_on(Dictionary(values.ref, values.body)) if scope else request


def _answer(
    facts: list[Fact],
    state: NodeState,
    index: int,
    token: str,
    scope: Scope | None,
    request: Payload,
    text: str,
    taken_from: Told | None,
) -> tuple[Payload, Call, str, str]:
    came = Payload.of(json.dumps({"choices": [{"message": {"content": f"It says: {text}"}}]}).encode(), scope)
    judged = Payload.of(canonical_json({"score": 1, "rationale": f"because of {text}"}), scope)
    head = Payload.of(b"{}")
    call = Call(f"{state.state_id}-{index}", state.run_id, state.state_id, token, "cs1_depth", 1, index, Cause.FIRST,
                "openai", "gpt-4o", head.ref, request.ref, now())  # fmt: skip
    reply = Reply(call.call_id, ReplyOutcome.SUCCESS, None, None, 200, "{}", came.ref, "gpt-4o", None, "stop",
                  1, 1, None, 1, 1, 0, now())  # fmt: skip
    made: list[Fact] = [] if taken_from else [head, request, came, call, reply]
    linked = taken_from.call if taken_from else call
    answer = Answer(state.state_id, token, "cs1_depth", state.run_id, AnswerStatus.ACCEPTED, None, None, judged.ref,
                    linked.call_id, now())  # fmt: skip
    facts += [*made, judged, answer]
    if taken_from:
        return taken_from.request, linked, taken_from.came, judged.ref
    return request, linked, came.ref, judged.ref


def _table(state: NodeState) -> Artifact:
    return Artifact(new_id(), state.run_id, state.state_id, f"{ASSESSMENT}/results", None,
                    f"file:///data/{state.run_id}.parquet", "sha256:" + "00" * 32, 9, 1, now())  # fmt: skip


def a_text(seed: object) -> str:
    """A text that is nowhere else, long enough to be compressed and to be leant on."""
    words = " ".join(f"{random.Random(f'{seed}{n}').getrandbits(60):x}" for n in range(12))
    return f"canary-{seed} {words} {FILLER}"


def texts_on_record(landscape: Landscape) -> Iterator[str]:
    """Every text and number in every table, and every payload as it is unpacked."""
    with landscape.read() as connection:
        for table in metadata.sorted_tables:
            for row in connection.execute(table.select()):
                yield from (str(value) for value in row)
        yield from (data.decode("utf-8", "replace") for data in unpacked(connection).values())


def unpacked(connection: sa.Connection) -> dict[str, bytes]:
    """The bytes of all payloads that have some."""
    from elspeth_dagster.landscape import payloads

    there = sa.select(metadata.tables["payloads"].c.ref).where(sa.text("length(body) > 0"))
    return payloads.read_many(connection, list(connection.scalars(there)))


def bodies_of(landscape: Landscape, *refs: str) -> list[bytes]:
    """The bodies of payloads as they are stored, compressed."""
    table = metadata.tables["payloads"]
    with landscape.read() as connection:
        return list(connection.scalars(sa.select(table.c.body).where(table.c.ref.in_(refs))))


def files_of(url: str) -> list[Path]:
    """The files of a database; of PostgreSQL those of its tables, after all is written to them."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "")
        return [each for each in path.parent.iterdir() if each.name.startswith(path.name)]
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(2):  # a file that was replaced while one was under way goes with the next
            connection.execute("CHECKPOINT")
        [folder] = connection.execute("SHOW data_directory").fetchone() or [""]
        own = "SELECT oid FROM pg_database WHERE datname = current_database()"
        [number] = connection.execute(own).fetchone() or [0]
    return list((Path(folder) / "base" / str(number)).iterdir())


def is_in_files(url: str, wanted: bytes) -> bool:
    """Whether some bytes are anywhere in the files of a database. A piece is looked for: pages cut what is long."""
    piece = wanted[len(wanted) // 2 :][:24]
    return any(piece in path.read_bytes() for path in files_of(url))


def reopened(url: str) -> Landscape:
    """The landscape, opened once more."""
    with closing(Database.open(url)):
        return Landscape.open(url)
