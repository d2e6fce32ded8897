"""A grid drawn in plain Python, the record of a run that came to it, and what anybody would choose from the drawing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from elspeth_dagster.core.canonical import sha256
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.landscape import batches, rows, runs
from elspeth_dagster.landscape.ledger import Landscape, now
from elspeth_dagster.landscape.records import Answer, Call, Fact, Node, NodeState, NodeStateEnd, Payload, Run, Token
from elspeth_dagster.landscape.words import (
    AnswerStatus,
    Cause,
    Determinism,
    RunStatus,
    StateStatus,
    Trigger,
)

SCORE = {"type": "integer", "minimum": 0, "maximum": 100}
SPEC = {
    "case_studies": [{"name": "cs1"}],
    "criteria": [{"name": "clarity"}, {"name": "depth"}],
    "queries": [{"name": "tone", "answer": {"word": {"type": "enum", "values": ["calm", "loud"]}, "score": SCORE}}],
    "answer": {"score": SCORE, "why": {"type": "string"}},
}
QUESTIONS = ("cs1_clarity", "cs1_depth", "tone")
WORDS = ("alpha", "Beta", "GÄMMA", "de\u0301lta")
HEAD = Payload.of(b'{"method":"POST"}')


@dataclass(frozen=True)
class Try:
    """What one attempt at the row's batch did for a question: its calls, and the answer, if it came to one.

    `score` None: refused, for `reason`. A reused answer is from a call of before, where there is one.
    """

    calls: int
    is_decided: bool
    score: int | None
    word: str
    reason: str
    is_reused: bool


@dataclass(frozen=True)
class DrawnRow:
    """A row: its key, a word of its source record, and for each question what each attempt did."""

    key: str
    word: str
    tries: dict[str, tuple[Try, ...]]


@dataclass(frozen=True)
class DrawnCell:
    """What a cell must show."""

    status: str
    score: int | None
    texts: tuple[str, ...]
    calls: int
    is_reused: bool


@st.composite
def tries(draw: st.DrawFn) -> Try:
    """What an attempt may do."""
    score = draw(st.none() | st.integers(0, 4))
    is_reused = draw(st.integers(0, 5)) == 0
    is_decided = draw(st.integers(0, 4)) > 0
    calls = draw(st.sampled_from([0, 1, 1, 1, 2, 3]))
    if is_decided and score is not None and not is_reused:
        calls = max(1, calls)
    reason = draw(st.sampled_from(["not_json", "truncated", "rate_limited", "blank_input"]))
    return Try(calls, is_decided, score, f"~{draw(st.sampled_from(WORDS))}~", reason, is_reused)


@st.composite
def drawings(draw: st.DrawFn, least: int = 0) -> list[DrawnRow]:
    """Some rows, all of one batch, which was attempted once or twice."""
    attempts = draw(st.integers(1, 2))
    chosen = draw(st.permutations("lkjihgfedcba"))[: draw(st.integers(least, 12))]
    asked = st.fixed_dictionaries({key: st.tuples(*[tries()] * attempts) for key in QUESTIONS})
    return [DrawnRow(key, draw(st.sampled_from(WORDS)), draw(asked)) for key in chosen]


# On record -----------------------------------------------------------------------------------------------------------


def put_on_record(landscape: Landscape, drawn: Sequence[DrawnRow], *, is_over: bool = True) -> str:
    """Record a run that came to this drawing; its id."""
    run_id = new_id()
    _begin(landscape, run_id)
    tokens = _admit(landscape, run_id, drawn)
    if tokens:
        landscape.write(*_asked(run_id, drawn, tokens))
    if is_over:
        runs.end(landscape, run_id, RunStatus.INTERRUPTED, "drawn to an end")
    return run_id


def _begin(landscape: Landscape, run_id: str) -> None:
    config = Payload.of(json.dumps({"spec": SPEC}).encode())
    run = Run(run_id, None, run_id, "trial_job", '["trial"]', "[]", config.ref, "0", "0", "1", "3.11", "host", now())
    ops = ("admit_rows", "aggregate_rows", "ask_batches", "collect_results")
    nodes = [Node(run_id, f"trial.{op}", "trial", op, "v1", Determinism.DETERMINISTIC, config.ref) for op in ops]
    runs.begin(landscape, run, nodes, [], [config])


def _admit(landscape: Landscape, run_id: str, drawn: Sequence[DrawnRow]) -> list[str]:
    admitted = [
        rows.admission(
            run_id, "trial.admit_rows", row_index=2 * place, row_key=row.key, partition_key=None, line=None,
            values={"id": row.key, "text": row.word}, raw=None,
        )
        for place, row in enumerate(drawn)
    ]  # fmt: skip
    landscape.write(*(fact for facts in admitted for fact in facts))
    return [fact.token_id for facts in admitted for fact in facts if isinstance(fact, Token)]


def _asked(run_id: str, drawn: Sequence[DrawnRow], tokens: Sequence[str]) -> Iterator[Fact]:
    batch, facts = batches.flush(
        run_id, "trial.aggregate_rows", ordinal=0, trigger=Trigger.ROWS, shard="s", members=tuple(tokens)
    )
    yield from (HEAD, *facts)
    attempts = len(drawn[0].tries[QUESTIONS[0]])
    made: dict[tuple[str, str], str] = {}
    for attempt in range(attempts):
        state = NodeState(
            new_id(), run_id, "trial.ask_batches", batch.token_id, attempt + 1, "s", attempt, "host", 1, now()
        )
        yield state
        yield from _attempted(state, attempt, drawn, tokens, made)
        yield NodeStateEnd(state.state_id, StateStatus.COMPLETED, "{}", None, now())


def _attempted(
    state: NodeState, attempt: int, drawn: Sequence[DrawnRow], tokens: Sequence[str], made: dict[tuple[str, str], str]
) -> Iterator[Fact]:
    index = 0
    for row, token in zip(drawn, tokens, strict=True):
        for key in QUESTIONS:
            done, before = row.tries[key][attempt], made.get((token, key))
            for number in range(1, done.calls + 1):
                call = _call(state, token, key, number, index)
                index += 1
                made[token, key] = call.call_id
                yield from (Payload.of(b"{}"), call)
            if done.is_decided:
                yield from _answer(state, token, key, done, before if done.is_reused else made.get((token, key)))


def _call(state: NodeState, token: str, key: str, number: int, index: int) -> Call:
    cause = Cause.FIRST if number == 1 else Cause.RETRY
    return Call(
        f"{state.state_id}-{index}", state.run_id, state.state_id, token, key, number, index, cause, "openai", "gpt",
        HEAD.ref, sha256(b"{}"), now(),
    )  # fmt: skip


def _answer(state: NodeState, token: str, key: str, done: Try, call_id: str | None) -> Iterator[Fact]:
    place = state.state_id, token, key, state.run_id
    if done.score is None or call_id is None:
        yield Answer(*place, AnswerStatus.REFUSED, done.reason, done.word, None, call_id, now())
        return
    values = Payload.of(json.dumps(values_of(key, done)).encode())
    yield values
    yield Answer(*place, AnswerStatus.ACCEPTED, None, None, values.ref, call_id, now())


def values_of(key: str, done: Try) -> dict[str, Any]:
    """The values of an accepted answer."""
    return {"word": "calm", "score": done.score} if key == "tone" else {"score": done.score, "why": done.word}


# What anybody would see in it ----------------------------------------------------------------------------------------


def cell_of(row: DrawnRow, key: str, *, is_over: bool = True) -> DrawnCell:
    """The cell: by the last attempt that decided."""
    shown = DrawnCell("missing" if is_over else "in_progress", None, (), 0, False)
    has_call = False
    for done in row.tries[key]:
        has_call_before, has_call = has_call, has_call or done.calls > 0
        calls = shown.calls + done.calls
        shown = DrawnCell(shown.status, shown.score, shown.texts, calls, shown.is_reused)
        if done.is_decided:
            from_call = has_call_before if done.is_reused else has_call
            is_elsewhere = from_call and (done.is_reused or done.calls == 0)
            shown = _decided(key, done, calls, from_call=from_call, is_elsewhere=is_elsewhere)
    return shown


def _decided(key: str, done: Try, calls: int, *, from_call: bool, is_elsewhere: bool) -> DrawnCell:
    if done.score is None or not from_call:
        status = "refused" if done.reason in ("not_json", "truncated") else "failed"
        return DrawnCell(status, None, (done.reason, done.word), calls, is_elsewhere)
    texts = tuple(str(value) for value in values_of(key, done).values())
    return DrawnCell("accepted", done.score, texts, calls, is_elsewhere)
