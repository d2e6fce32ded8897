"""A landscape filled with calls, fast and truthfully: the package's own rules and records, without the provider.

A run of it is a whole run: rows, batches, states, ten calls a row with their prompts and replies, answers, outcomes.
Facts are handed over as the walk hands them over, so many at a time as calls are in flight.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from workload import SPEC, TEMPLATES, prose

from elspeth_dagster.admitting import admit
from elspeth_dagster.aggregating import flush_batches
from elspeth_dagster.collecting import Collector
from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.canonical import canonical_json
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.core.spec import AssessmentSpec
from elspeth_dagster.landscape import batches, runs, states
from elspeth_dagster.landscape.ledger import Landscape, now
from elspeth_dagster.landscape.records import Answer, Call, Fact, Node, NodeState, Payload, Reply, Run, Token
from elspeth_dagster.landscape.words import AnswerStatus, Cause, Determinism, ReplyOutcome, RunStatus, TokenKind
from elspeth_dagster.stages.prompting import messages
from elspeth_dagster.stages.querying import Question, Request, questions, request
from elspeth_dagster.stages.reading import Record

TABLES = ("results", "answers", "failures", "rejections")
HEAD = Payload.of(b'{"method":"POST","url":"http://127.0.0.1/v1/chat/completions","headers":{}}')
WORDS = ["clear", "vague", "sound", "weak", "honest", "brief", "careful", "bold", "plain", "thin", "even", "odd"]


class Cost(NamedTuple):
    """What a part of the work took: seconds on the clock and of this process's CPU."""

    wall: float
    cpu: float

    def __add__(self, other: tuple[Any, ...]) -> Cost:
        return Cost(self.wall + other[0], self.cpu + other[1])


def measured(work: Callable[[], object]) -> Cost:
    """What some work took."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


class FilledRun(NamedTuple):
    """A run that was put on record, and what its parts took."""

    run_id: str
    rows: int
    admitting: Cost
    asking: Cost
    collecting: Cost


class Asked(NamedTuple):
    """A call in flight."""

    call: Call
    put: Request
    member: batches.Member

    def body(self) -> Payload:
        """What was sent."""
        return self.member.request(self.put.body, self.put.ref)


def fill(landscape: Landscape, calls: int, rows_a_run: int, at_once: int = 500) -> None:
    """Runs of so many rows, until there are so many calls."""
    asked = len(questions(ASSESSMENT))
    for rows in _cut(calls // asked, rows_a_run):
        fill_run(landscape, rows, at_once)


def _cut(whole: int, most: int) -> Iterator[int]:
    while whole > 0:
        yield min(whole, most)
        whole -= most


ASSESSMENT = Assessment(AssessmentSpec.model_validate(SPEC), TEMPLATES)


def fill_run(landscape: Landscape, rows: int, at_once: int, *, collect: bool = False) -> FilledRun:
    """One run; `at_once` calls are in flight. With `collect`, its rows get their outcomes and its tables are read."""
    run_id = new_id()
    begin(landscape, run_id)
    admitting = measured(lambda: _admit(landscape, run_id, rows))
    flushed = list(flush_batches(landscape, run_id, ASSESSMENT, rows))
    asking = measured(lambda: [_ask(landscape, run_id, batch, at_once) for batch in _groups(flushed, 4)])
    state = _slice_state(landscape, run_id, "collect_results")
    collecting = measured(lambda: _collect(landscape, run_id, state)) if collect else Cost(0, 0)
    landscape.write(states.end(state, {}))
    runs.end(landscape, run_id, RunStatus.INTERRUPTED, "filled")
    return FilledRun(run_id, rows, admitting, asking, collecting)


def begin(landscape: Landscape, run_id: str) -> None:
    """Put a run and its nodes on record."""
    config = Payload.of(canonical_json(ASSESSMENT.document()))
    run = Run(
        run_id, None, run_id, "bench", '["bench"]', f'["{run_id}"]', config.ref, "0", "0", "0", "0", "here", now()
    )
    ops = ("admit_rows", "aggregate_rows", "ask_batches", "collect_results")
    nodes = [Node(run_id, f"bench.{op}", "bench", op, "0", Determinism.EXTERNAL_CALL, config.ref) for op in ops]
    runs.begin(landscape, run, nodes, [], [config])


def texts(run_id: str, rows: int) -> Iterator[Record]:
    """Rows that no other run has."""
    for n in range(rows):
        values: dict[str, Any] = {
            "id": f"R{n}",
            "one": f"{run_id} {prose(2 * n, 1000)}",
            "two": f"{prose(2 * n + 1, 1000)} {run_id}",
        }
        yield Record(n, n + 2, f"R{n}", values, None, partition=run_id)


def _admit(landscape: Landscape, run_id: str, rows: int) -> None:
    state = _slice_state(landscape, run_id, "admit_rows")
    admit(landscape, run_id, "bench", "bench.admit_rows", texts(run_id, rows))
    landscape.write(states.end(state, {}))


def _slice_state(landscape: Landscape, run_id: str, op: str) -> NodeState:
    token = Token(new_id(), run_id, TokenKind.SLICE, None)
    execution = states.Execution(run_id, f"bench.{op}", f"bench.{op}", 0, "here", 1)
    return states.open_state(landscape, execution, token.token_id, token)


def _groups(flushed: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(flushed), size):
        yield flushed[start : start + size]


def _ask(landscape: Landscape, run_id: str, some: Sequence[Any], at_once: int) -> None:
    """The calls of some batches that are at work together: calls, then replies with what follows from them."""
    execution = states.Execution(run_id, "bench.ask_batches", "bench.ask_batches[shard_00001]", 0, "here", 1)
    opened = [states.open_state(landscape, execution, batch.token_id) for batch in some]
    asked = itertools.chain.from_iterable(
        _asked(landscape, batch, state) for batch, state in zip(some, opened, strict=True)
    )
    while in_flight := list(itertools.islice(asked, at_once)):
        landscape.write(
            HEAD, *(fact for one in in_flight for fact in (one.member.request(one.put.body, one.put.ref), one.call))
        )
        landscape.write(*(fact for one in in_flight for fact in _replied(one.call, one.member)))
    landscape.write(*(states.end(state, {"rows": 50}) for state in opened))


def _asked(landscape: Landscape, batch: Any, state: NodeState) -> Iterator[Asked]:
    with landscape.read() as connection:
        members = batches.members(connection, batch.batch_id)
    asked = questions(ASSESSMENT)
    for member in members:
        for question in asked:
            put = _request(question, member)
            yield Asked(
                _call(state, member, question, member.ordinal * len(asked) + question.ordinal, put), put, member
            )


def _request(question: Question, member: batches.Member) -> Request:
    return request(
        ASSESSMENT.spec, question, messages(question, member.values, None), member.name, bounded_schema=False
    )


def _call(state: NodeState, member: batches.Member, question: Question, index: int, put: Request) -> Call:
    call_id = f"{state.state_id}-{index}"
    return Call(
        call_id=call_id,
        run_id=state.run_id,
        state_id=state.state_id,
        token_id=member.token_id,
        query_key=question.key,
        query_attempt=1,
        call_index=index,
        cause=Cause.FIRST,
        provider="openai",
        model="gpt-4o-mini",
        head_ref=HEAD.ref,
        request_ref=put.ref,
        sent_at=now(),
        question_hash=put.question_hash,
        bound_nanousd=450_000,
    )


def _replied(call: Call, member: batches.Member) -> list[Fact]:
    values = {"score": random.randrange(101), "rationale": " ".join(random.choices(WORDS, k=20))}
    body = Payload.of(_completion(call, json.dumps(values)), member.scope)
    kept = Payload.of(canonical_json(values), member.scope)
    return [body, _reply(call, body), kept, _answer(call, kept)]


def _completion(call: Call, content: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 310, "completion_tokens": 40, "total_tokens": 350}
    completion = {"id": f"chatcmpl-{call.call_id}", "object": "chat.completion", "model": "gpt-4o-mini-2024-07-18"}
    return json.dumps({**completion, "choices": [choice], "usage": usage}).encode()


def _reply(call: Call, body: Payload) -> Reply:
    return Reply(
        call_id=call.call_id,
        outcome=ReplyOutcome.SUCCESS,
        error_class=None,
        detail=None,
        http_status=200,
        headers='{"content-type": "application/json", "x-request-id": "req_0123456789abcdef"}',
        body_ref=body.ref,
        model="gpt-4o-mini-2024-07-18",
        system_fingerprint=None,
        finish_reason="stop",
        prompt_tokens=310,
        completion_tokens=40,
        cached_tokens=0,
        cost_nanousd=70_500,
        latency_us=400_000,
        redacted=0,
        received_at=now(),
    )


def _answer(call: Call, values: Payload) -> Answer:
    return Answer(
        state_id=call.state_id,
        token_id=call.token_id,
        query_key=call.query_key,
        run_id=call.run_id,
        status=AnswerStatus.ACCEPTED,
        reason=None,
        detail=None,
        values_ref=values.ref,
        call_id=call.call_id,
        decided_at=now(),
    )


def _collect(landscape: Landscape, run_id: str, state: NodeState) -> None:
    collector = Collector(landscape, ASSESSMENT, run_id, state)
    collector.decide_outcomes()
    for table in [collector.table(name, part) for part in collector.parts for name in TABLES]:
        for _ in table.batches:
            pass
