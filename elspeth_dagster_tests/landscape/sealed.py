"""Two small runs, the second going on from the first, sealed with a key and anchored: for tests that tamper with them.

Each table has three records or more of each run, but those that have one of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from elspeth_dagster.core.notes import Signer, new_signer_key
from elspeth_dagster.landscape import runs, sealing
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import (
    Answer,
    Artifact,
    Batch,
    BatchMember,
    Call,
    Edge,
    Fact,
    Node,
    NodeState,
    NodeStateEnd,
    Payload,
    Reply,
    Row,
    RowRejection,
    Run,
    Token,
    TokenOutcome,
    TokenParent,
)
from elspeth_dagster.landscape.scopes import of_rejections, of_rows
from elspeth_dagster.landscape.words import (
    AnswerStatus,
    Cause,
    Determinism,
    Outcome,
    ReplyOutcome,
    RunStatus,
    StateStatus,
    TokenKind,
    Trigger,
)
from elspeth_dagster_tests.landscape.sample import NOON

OURS = Signer.read(new_signer_key("ours"))
FIRST, SECOND = "run-1", "run-2"
ROWS, QUESTIONS = 3, ("cs1_depth", "cs1_style")
CONFIG = Payload.of(b'{"as": "declared"}')
READ, GROUP, ASK, COLLECT = "a.admit_rows", "a.aggregate_rows", "a.ask_batches", "a.collect_results"


def write_sealed_runs(url: str, anchor: Path | None = None, signer: Signer | None = OURS) -> None:
    """Put both runs on record, each begun, ended and sealed as a deployment does it."""
    with Landscape.open(url, signer=signer, anchors=[str(anchor)] if anchor else []) as landscape:
        for run_id, parent in ((FIRST, None), (SECOND, FIRST)):
            write_run(landscape, run_id, parent)
            assert sealing.seal_ended(landscape).run_ids == [run_id]


def write_run(landscape: Landscape, run_id: str, parent: str | None = None, rows: int = ROWS) -> None:
    """Put a whole run on record, up to its end."""
    begin_run(landscape, run_id, parent)
    landscape.write(*facts_of(landscape, run_id, rows))
    runs.end(landscape, run_id, RunStatus.FAILED, "its tables could not be written")


def begin_run(landscape: Landscape, run_id: str, parent: str | None = None) -> None:
    """Put a run and its nodes on record."""
    run = Run(run_id, parent, parent or run_id, "a_job", '["a"]', "[]", CONFIG.ref, "0", "0", "1", "3.11", "h", NOON)
    ops = [READ, GROUP, ASK, COLLECT]
    nodes = [Node(run_id, op, "a", op.partition(".")[2], "1", Determinism.DETERMINISTIC, CONFIG.ref) for op in ops]
    edges = [Edge(run_id, source, target, "rows") for source, target in pairwise(ops)]
    runs.begin(landscape, run, nodes, edges, [CONFIG])


def facts_of(landscape: Landscape, run_id: str, rows: int = ROWS) -> Iterator[Fact]:
    """What a run records between its begin and its end."""
    keys = [f"R{number}" for number in range(rows)]
    scopes = of_rows(landscape, "a", keys)
    slice_ = Token(f"{run_id}-slice", run_id, TokenKind.SLICE, None)
    admitted = NodeState(f"{run_id}-admit", run_id, READ, slice_.token_id, 1, "a.admit_rows", 0, "h", 7, NOON)
    yield from (slice_, admitted)
    for index in range(ROWS):
        raw = Payload.of(f"rejected {index} of {run_id}".encode(), of_rejections(landscape, "a", run_id))
        yield raw
        yield RowRejection(run_id, READ, rows + index, None, index, "age", "type", "'x' is no number", raw.ref)
    for index, key in enumerate(keys):
        yield from _row(run_id, index, key, lambda text, scope=scopes[key]: Payload.of(text.encode(), scope))
    for name in ("results", "answers", "failures"):
        yield Artifact(f"{run_id}-{name}", run_id, admitted.state_id, f"a/{name}", None, f"file:///{name}", CONFIG.ref,
                       9, 1, NOON)  # fmt: skip
    yield TokenOutcome(slice_.token_id, run_id, Outcome.COMPLETED, admitted.state_id, NOON)
    yield NodeStateEnd(admitted.state_id, StateStatus.COMPLETED, "{}", None, NOON)


def _row(run_id: str, index: int, key: str, make: Callable[[str], Payload]) -> Iterator[Fact]:
    name = f"{run_id}-{index:07d}"
    values = make(f"what {key} says, as {run_id} read it " * 9)
    token = Token(f"{name}-row", run_id, TokenKind.ROW, name)
    batch = Token(f"{name}-batch", run_id, TokenKind.BATCH, None)
    state = NodeState(f"{name}-state", run_id, ASK, batch.token_id, 1, "a.ask_batches[1]", 0, "h", 7, NOON)
    yield from (
        values,
        Row(name, run_id, READ, index, key, None, index, values.ref, values.ref, values.scope_id),
        token,
        batch,
        TokenParent(batch.token_id, 0, run_id, token.token_id),
        Batch(f"{name}-flush", run_id, ASK, index, batch.token_id, Trigger.ROWS, "shard_00001"),
        BatchMember(f"{name}-flush", 0, run_id, token.token_id),
        state,
    )
    for number, question in enumerate(QUESTIONS):
        asked, said = make(f"{question} of {name}? " * 20), make(f"the reply to {question} of {name} " * 9)
        given = make(f'{{"score": {index}, "of": "{name} {question}"}}')
        call_id = f"{state.state_id}-{number}"
        yield from (
            asked,
            said,
            given,
            Call(call_id, run_id, state.state_id, token.token_id, question, 1, number, Cause.FIRST, "openai", "gpt",
                 CONFIG.ref, asked.ref, NOON),
            Reply(call_id, ReplyOutcome.SUCCESS, None, None, 200, "{}", said.ref, "gpt", "fp", "stop", 10, 5, 0, 42,
                  1500, 0, NOON),
            Answer(state.state_id, token.token_id, question, run_id, AnswerStatus.ACCEPTED, None, None, given.ref,
                   call_id, NOON),
        )  # fmt: skip
    yield TokenOutcome(token.token_id, run_id, Outcome.ASSESSED, state.state_id, NOON)
    yield TokenOutcome(batch.token_id, run_id, Outcome.COMPLETED, state.state_id, NOON)
    yield NodeStateEnd(state.state_id, StateStatus.COMPLETED, "{}", None, NOON)
