"""Explain tells the whole chain of a row, that of no other row, and nothing that isn't on record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from elspeth_dagster.core.canonical import sha256
from elspeth_dagster.core.errors import LandscapeError, NotOnRecordError
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.landscape import batches, rows, runs, states
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.explaining import explain
from elspeth_dagster.landscape.explanation import Explanation, QuestionAsked
from elspeth_dagster.landscape.ledger import Landscape, now
from elspeth_dagster.landscape.records import (
    Answer,
    Artifact,
    Batch,
    Call,
    Edge,
    Node,
    NodeState,
    Payload,
    Reply,
    Run,
    Token,
    TokenOutcome,
)
from elspeth_dagster.landscape.words import (
    AnswerStatus,
    Cause,
    Determinism,
    Outcome,
    ReplyOutcome,
    RunStatus,
    TokenKind,
    Trigger,
)

NAMED = {"case_studies": ["cs1"], "criteria": ["clarity", "depth"], "queries": ["summary"]}
SPEC = {part: [{"name": name} for name in names] for part, names in NAMED.items()}
QUESTIONS = ["cs1_clarity", "cs1_depth", "summary"]
HEAD = Payload.of(b'{"headers":{"authorization":"Bearer hmac-sha256:aa"},"method":"POST","url":"http://llm/v1"}')
OPS = ("admit_rows", "aggregate_rows", "ask_batches", "collect_results")


class Sent(NamedTuple):
    """A call that was recorded, with the texts that went and came."""

    call: Call
    asked: bytes
    came: bytes | None


class Recorded:
    """A run in the making: each method puts what an op would on record."""

    def __init__(self, landscape: Landscape, run_id: str, *assessments: str, parent: str | None = None) -> None:
        self.landscape = landscape
        self.run_id = run_id
        self.assessments = assessments or ("trial",)
        config = Payload.of(b"{}")
        self.run = Run(
            run_id, parent, parent or run_id, "trial_job", json.dumps(self.assessments), '["2026-01-05"]', config.ref,
            "0.1.0", sha256(b"code"), "1.13", "3.11", "host", now(),
        )  # fmt: skip
        for name in self.assessments:
            spec = Payload.of(json.dumps({"spec": SPEC, "name": name}).encode())
            nodes = [Node(run_id, f"{name}.{op}", name, op, "v1", Determinism.DETERMINISTIC, spec.ref) for op in OPS]
            edges = [Edge(run_id, nodes[0].node_id, nodes[1].node_id, "rows")]
            runs.begin(landscape, self.run, nodes, edges, [spec, config])
        self.slices = {name: self._slice(name) for name in self.assessments}
        self.batch: Batch

    def _slice(self, name: str) -> str:
        token = Token(new_id(), self.run_id, TokenKind.SLICE, None)
        with states.held(self.landscape, self.execution("admit_rows", name), token.token_id, token):
            return token.token_id

    def execution(self, op: str, name: str = "trial") -> states.Execution:
        return states.Execution(self.run_id, f"{name}.{op}", f"{name}.{op}", 0, "host", 42)

    def admit(self, *keys: str, name: str = "trial", start: int = 0) -> list[str]:
        """The tokens of rows with these keys."""
        facts = [
            rows.admission(
                self.run_id, f"{name}.admit_rows", row_index=index, row_key=key, partition_key="2026-01-05",
                line=index + 2, values={"id": key, "text": f"text of {key}"}, raw=f"{key},text of {key}".encode(),
            )
            for index, key in enumerate(keys, start)
        ]  # fmt: skip
        self.landscape.write(*(fact for each in facts for fact in each))
        return [fact.token_id for each in facts for fact in each if isinstance(fact, Token)]

    def reject(self, index: int, raw: bytes, name: str = "trial") -> None:
        facts = rows.rejection(
            self.run_id, f"{name}.admit_rows", row_index=index, partition_key="2026-01-05", line=index + 2,
            column="text", reason="bad_number", message="It is no number.", raw=raw,
        )  # fmt: skip
        self.landscape.write(*facts)

    def flush(self, *tokens: str, ordinal: int = 0, name: str = "trial") -> Batch:
        node = f"{name}.aggregate_rows"
        self.batch, facts = batches.flush(
            self.run_id, node, ordinal=ordinal, trigger=Trigger.ROWS, shard="shard_00001", members=tokens
        )
        self.landscape.write(*facts)
        return self.batch

    def attempt(self, name: str = "trial") -> NodeState:
        """The next attempt at the batch that was flushed last."""
        return states.open_state(self.landscape, self.execution("ask_batches", name), self.batch.token_id)

    def call(
        self,
        state: NodeState,
        token: str,
        question: str,
        index: int,
        *,
        number: int = 1,
        cause: Cause = Cause.FIRST,
        came: bytes | None = b'{"choices": []}',
        outcome: ReplyOutcome = ReplyOutcome.SUCCESS,
    ) -> Sent:
        """A call whose request names its row and question, and its reply, if anything came."""
        asked = json.dumps({"messages": [{"role": "user", "content": f"{token} {question} {number}"}]}).encode()
        call = Call(
            f"{state.state_id}-{index}", self.run_id, state.state_id, token, question, number, index, cause, "openai",
            "gpt-4o", HEAD.ref, Payload.of(asked).ref, now(),
        )  # fmt: skip
        self.landscape.write(HEAD, Payload.of(asked), call)
        if came is not None:
            self.landscape.write(Payload.of(came), self._reply(call, came, outcome))
        return Sent(call, asked, came)

    def _reply(self, call: Call, came: bytes, outcome: ReplyOutcome) -> Reply:
        error = None if outcome is ReplyOutcome.SUCCESS else "server"
        return Reply(
            call.call_id, outcome, error, None, 200, '{"x-request-id": "r1"}', Payload.of(came).ref, "gpt-4o-1", "fp",
            "stop", 10, 5, 0, 1500, 20_000, 0, now(),
        )  # fmt: skip

    def accept(self, state: NodeState, token: str, question: str, call_id: str, score: int) -> None:
        values = Payload.of(json.dumps({"score": score}).encode())
        answer = Answer(
            state.state_id, token, question, self.run_id, AnswerStatus.ACCEPTED, None, None, values.ref, call_id, now()
        )
        self.landscape.write(values, answer)

    def refuse(self, state: NodeState, token: str, question: str, call_id: str | None, reason: str) -> None:
        refused = AnswerStatus.REFUSED
        self.landscape.write(
            Answer(state.state_id, token, question, self.run_id, refused, reason, "So it is.", None, call_id, now())
        )

    def collect(self, outcomes: dict[str, Outcome], name: str = "trial") -> NodeState:
        """Decide outcomes, and write the four tables."""
        execution, slice_token = self.execution("collect_results", name), self.slices[name]
        with states.held(self.landscape, execution, slice_token) as (state, _):
            for token, outcome in outcomes.items():
                self.landscape.write(TokenOutcome(token, self.run_id, outcome, state.state_id, now()))
            for table in ("results", "answers", "failures", "rejections"):
                self.landscape.write(self._artifact(state, f"{name}/{table}", f"/data/{table}.parquet"))
            return state

    def _artifact(self, state: NodeState, asset_key: str, uri: str) -> Artifact:
        content = sha256(uri.encode())
        return Artifact(new_id(), self.run_id, state.state_id, asset_key, None, uri, content, 10, 1, now())

    def answer_all(self, *tokens: str) -> dict[str, list[Sent]]:
        """Ask these rows everything in one batch and one attempt; the calls by token."""
        self.flush(*tokens)
        state = self.attempt()
        sent: dict[str, list[Sent]] = {token: [] for token in tokens}
        for place, token in enumerate(tokens):
            for number, question in enumerate(QUESTIONS):
                index = place * len(QUESTIONS) + number
                sent[token].append(self.call(state, token, question, index))
                self.accept(state, token, question, f"{state.state_id}-{index}", index)
        self.landscape.write(states.end(state, {"calls": len(tokens) * len(QUESTIONS)}))
        self.collect(dict.fromkeys(tokens, Outcome.ASSESSED))
        return sent


def call_ids(told: Explanation | QuestionAsked) -> list[str]:
    questions = told.questions if isinstance(told, Explanation) else [told]
    return [made.call.call_id for question in questions for made in question.calls]


def question_of(told: Explanation, key: str) -> QuestionAsked:
    return next(question for question in told.questions if question.key == key)


# The chain -----------------------------------------------------------------------------------------------------------


def test_each_row_has_exactly_its_own_calls_with_what_went_and_came(landscape: Landscape) -> None:
    run = Recorded(landscape, "run-1")
    tokens = run.admit("A", "B", "C")
    sent = run.answer_all(*tokens)
    for key, token in zip("ABC", tokens, strict=True):
        told = explain(landscape, "run-1", key)
        assert call_ids(told) == [each.call.call_id for each in sent[token]]
        made = [made for question in told.questions for made in question.calls]
        assert [each.request.data for each in made] == [each.asked for each in sent[token]]
        assert [each.body and each.body.data for each in made] == [each.came for each in sent[token]]
        assert {each.head["headers"]["authorization"] for each in made} == {"Bearer hmac-sha256:aa"}


def test_the_chain_goes_from_the_run_to_the_tables_that_carry_the_row(landscape: Landscape) -> None:
    run = Recorded(landscape, "run-1")
    one, two = run.admit("A", "B")
    run.answer_all(one, two)
    runs.end_if_all_collected(landscape, "run-1")
    told = explain(landscape, "run-1", "B")
    assert told.run == run.run
    assert told.end is not None and told.end.status is RunStatus.COMPLETED
    assert (told.node.assessment, told.node.version) == ("trial", "v1")
    assert told.row is not None and told.row.row.row_key == "B" and told.row.row.line == 3
    assert told.row.token_id == two
    assert told.row.raw is not None and told.row.raw.data == b"B,text of B"
    assert told.row.values == {"id": "B", "text": "text of B"}
    [place] = told.batches
    assert (place.batch, place.ordinal, place.size) == (run.batch, 1, 2)
    [attempt] = told.attempts
    assert attempt.state.token_id == run.batch.token_id and attempt.end is not None
    assert [question.answer and question.answer.values for question in told.questions] == [
        {"score": 3}, {"score": 4}, {"score": 5},
    ]  # fmt: skip
    assert told.outcome is not None and told.outcome.outcome.outcome is Outcome.ASSESSED
    assert told.outcome.decided_by is not None and told.outcome.decided_by.node_id == "trial.collect_results"
    assert [artifact.asset_key for artifact in told.artifacts] == ["trial/results", "trial/answers"]


@pytest.mark.parametrize(
    ("outcome", "carriers"),
    [
        (Outcome.ASSESSED, {"trial/results", "trial/answers"}),
        (Outcome.PARTIAL, {"trial/results", "trial/answers", "trial/failures"}),
        (Outcome.FAILED, {"trial/answers", "trial/failures"}),
        (Outcome.INTERRUPTED, set()),
    ],
)
def test_only_tables_that_carry_the_row_are_named(landscape: Landscape, outcome: Outcome, carriers: set[str]) -> None:
    run = Recorded(landscape, "run-1")
    [token] = run.admit("A")
    run.flush(token)
    run.collect({token: outcome})
    assert {artifact.asset_key for artifact in explain(landscape, "run-1", "A").artifacts} == carriers


def test_tables_of_another_assessment_of_the_run_are_not_named(landscape: Landscape) -> None:
    run = Recorded(landscape, "run-1", "trial", "other")
    [token] = run.admit("A")
    [other] = run.admit("B", name="other")
    run.collect({token: Outcome.ASSESSED})
    run.collect({other: Outcome.ASSESSED}, name="other")
    told = explain(landscape, "run-1", "B").artifacts
    assert [artifact.asset_key for artifact in told] == ["other/results", "other/answers"]


# Questions and their tries -------------------------------------------------------------------------------------------


def test_a_retried_and_repaired_question_shows_every_try_in_order(landscape: Landscape) -> None:
    run = Recorded(landscape, "run-1")
    one, two = run.admit("A", "B")
    run.flush(one, two)
    state = run.attempt()
    run.call(state, one, "cs1_clarity", 0, came=b"slow down", outcome=ReplyOutcome.ERROR)
    run.call(state, two, "cs1_clarity", 3)
    run.call(state, one, "cs1_clarity", 6, number=2, cause=Cause.RETRY)
    run.call(state, two, "cs1_clarity", 7, number=2, cause=Cause.REPAIR)
    last = run.call(state, one, "cs1_clarity", 8, number=3, cause=Cause.REPAIR)
    run.accept(state, one, "cs1_clarity", last.call.call_id, 70)
    told = question_of(explain(landscape, "run-1", "A"), "cs1_clarity")
    assert [made.call.query_attempt for made in told.calls] == [1, 2, 3]
    assert [made.call.cause for made in told.calls] == [Cause.FIRST, Cause.RETRY, Cause.REPAIR]
    assert [made.call.call_index for made in told.calls] == [0, 6, 8]
    assert told.calls[0].reply is not None and told.calls[0].reply.error_class == "server"
    assert told.answer is not None and told.answer.answer.call_id == last.call.call_id


def test_questions_come_in_plan_order_also_when_nothing_is_on_record_of_them(landscape: Landscape) -> None:
    run = Recorded(landscape, "run-1")
    [token] = run.admit("A")
    run.flush(token)
    state = run.attempt()
    run.call(state, token, "summary", 2)
    run.call(state, token, "cs1_depth", 1)
    told = explain(landscape, "run-1", "A")
    assert [question.key for question in told.questions] == QUESTIONS
    assert question_of(told, "cs1_clarity") == QuestionAsked("cs1_clarity", (), None, ())


def test_a_question_that_was_never_asked_tells_why(landscape: Landscape) -> None:
    run = Recorded(landscape, "run-1")
    [token] = run.admit("A")
    run.flush(token)
    run.refuse(run.attempt(), token, "cs1_depth", None, "blank_input")
    told = question_of(explain(landscape, "run-1", "A"), "cs1_depth")
    assert told.calls == () and told.answer is not None
    assert (told.answer.answer.reason, told.answer.answer.detail) == ("blank_input", "So it is.")
    assert told.answer.values is None


def test_one_question_can_be_asked_for(landscape: Landscape) -> None:
    run = Recorded(landscape, "run-1")
    [token] = run.admit("A")
    sent = run.answer_all(token)
    told = explain(landscape, "run-1", "A", "cs1_depth")
    assert [question.key for question in told.questions] == ["cs1_depth"]
    assert call_ids(told) == [sent[token][1].call.call_id]
    assert told.questions[0].answer is not None and told.questions[0].answer.values == {"score": 1}


def test_a_question_that_does_not_exist_is_refused_with_those_near_it(landscape: Landscape) -> None:
    run = Recorded(landscape, "run-1")
    run.answer_all(*run.admit("A"))
    with pytest.raises(NotOnRecordError, match="no question 'cs1_dept'; near it: 'cs1_depth'"):
        explain(landscape, "run-1", "A", "cs1_dept")


def test_every_attempt_at_the_batch_is_told_and_the_last_answer_counts(landscape: Landscape) -> None:
    run = Recorded(landscape, "run-1")
    [token] = run.admit("A")
    run.flush(token)
    first = run.attempt()
    accepted = run.call(first, token, "cs1_clarity", 0)
    run.call(first, token, "cs1_depth", 1, came=None)
    run.accept(first, token, "cs1_clarity", accepted.call.call_id, 50)
    second = run.attempt()
    again = run.call(second, token, "cs1_depth", 1)
    run.accept(second, token, "cs1_clarity", accepted.call.call_id, 50)
    run.accept(second, token, "cs1_depth", again.call.call_id, 60)
    told = explain(landscape, "run-1", "A")
    assert [attempt.state.attempt for attempt in told.attempts] == [1, 2]
    assert told.attempts[0].end is not None and told.attempts[1].end is None
    depth = question_of(told, "cs1_depth")
    assert [made.attempt for made in depth.calls] == [1, 2]
    assert depth.calls[0].reply is not None and depth.calls[0].reply.outcome is ReplyOutcome.UNKNOWN
    clarity = question_of(told, "cs1_clarity")
    assert clarity.answer is not None and clarity.answer.attempt == 2
    assert clarity.answer.answer.call_id == accepted.call.call_id == clarity.calls[0].call.call_id
    assert [earlier.attempt for earlier in clarity.earlier_answers] == [1]


def test_an_answer_that_an_earlier_run_paid_for_shows_that_call(landscape: Landscape) -> None:
    died = Recorded(landscape, "run-1")
    [before] = died.admit("A")
    died.flush(before)
    paid = died.call(died.attempt(), before, "cs1_clarity", 0, came=b"paid by the first run")
    runs.end(landscape, "run-1", RunStatus.INTERRUPTED, "it died")
    run = Recorded(landscape, "run-2", parent="run-1")
    [token] = run.admit("A")
    run.flush(token)
    state = run.attempt()
    run.accept(state, token, "cs1_clarity", paid.call.call_id, 80)
    own = run.call(state, token, "cs1_depth", 1)
    told = explain(landscape, "run-2", "A")
    assert told.run.parent_run_id == "run-1"
    [made] = question_of(told, "cs1_clarity").calls
    assert (made.call.run_id, made.call.state_id, made.attempt) == ("run-1", paid.call.state_id, None)
    assert made.body is not None and made.body.data == b"paid by the first run"
    assert call_ids(question_of(told, "cs1_depth")) == [own.call.call_id]
    assert call_ids(explain(landscape, "run-2", "A", "cs1_depth")) == [own.call.call_id]


def test_a_run_that_goes_on_is_told_as_far_as_it_got(landscape: Landscape) -> None:
    run = Recorded(landscape, "run-1")
    one, _ = run.admit("A", "B")
    run.flush(one)
    run.call(run.attempt(), one, "cs1_clarity", 0, came=None)
    told = explain(landscape, "run-1", "A")
    assert told.end is None and told.outcome is None and told.artifacts == ()
    assert told.attempts[0].end is None
    [made] = question_of(told, "cs1_clarity").calls
    assert made.reply is None and made.body is None
    waiting = explain(landscape, "run-1", "B")
    assert waiting.batches == () and waiting.attempts == () and call_ids(waiting) == []


def test_a_run_that_was_ended_from_outside_leaves_its_rows_interrupted(landscape: Landscape) -> None:
    run = Recorded(landscape, "run-1")
    run.flush(*run.admit("A"))
    runs.end(landscape, "run-1", RunStatus.INTERRUPTED, "it died")
    told = explain(landscape, "run-1", "A")
    assert told.outcome is not None and told.outcome.outcome.outcome is Outcome.INTERRUPTED
    assert told.outcome.decided_by is None
    assert told.end is not None and told.end.detail == "it died"


# Rejections ----------------------------------------------------------------------------------------------------------


def test_a_key_whose_record_was_rejected_leads_to_the_rejection(landscape: Landscape) -> None:
    run = Recorded(landscape, "run-1")
    run.admit("A-1")
    run.reject(1, "A-2,zwölf".encode())
    run.reject(2, b"A-22,x")
    run.collect({})
    told = explain(landscape, "run-1", "A-2")
    assert told.row is None and told.questions == ()
    [rejected] = told.rejections
    assert rejected.rejection.row_index == 1 and rejected.rejection.reason == "bad_number"
    assert rejected.raw.text == "A-2,zwölf"
    assert [artifact.asset_key for artifact in told.artifacts] == ["trial/rejections"]


def test_a_record_is_found_by_its_index_as_a_row_or_as_a_rejection(landscape: Landscape) -> None:
    run = Recorded(landscape, "run-1")
    run.admit("A", "B")
    run.reject(2, b"\xff\xfe")
    found = explain(landscape, "run-1", "#1").row
    assert found is not None and found.row.row_key == "B"
    [rejected] = explain(landscape, "run-1", "#2").rejections
    assert rejected.raw.data == b"\xff\xfe"
    with pytest.raises(NotOnRecordError, match="no row '#3'"):
        explain(landscape, "run-1", "#3")


def test_a_key_that_looks_like_an_index_is_a_key_first(landscape: Landscape) -> None:
    run = Recorded(landscape, "run-1")
    run.admit("A", "#0")
    found = explain(landscape, "run-1", "#0").row
    assert found is not None and found.row.row_index == 1


# What is not there ---------------------------------------------------------------------------------------------------


def test_an_unknown_key_names_at_most_five_that_come_near(landscape: Landscape) -> None:
    run = Recorded(landscape, "run-1")
    run.admit(*(f"S-100{n}" for n in range(8)), "other")
    with pytest.raises(NotOnRecordError, match="run-1 has no row 'S-1O01' on record; near it: ") as raised:
        explain(landscape, "run-1", "S-1O01")
    assert str(raised.value).count("S-100") == 5
    with pytest.raises(NotOnRecordError, match="none comes near it"):
        explain(landscape, "run-1", "zzz")


@pytest.mark.parametrize("key", ["", " ", "%", "_", "'", "A'--"])
def test_odd_keys_are_keys_that_are_not_there(landscape: Landscape, key: str) -> None:
    run = Recorded(landscape, "run-1")
    run.admit("A", "B")
    run.reject(2, b"C,x")
    with pytest.raises(NotOnRecordError):
        explain(landscape, "run-1", key)


def test_a_row_of_another_run_is_not_found(landscape: Landscape) -> None:
    Recorded(landscape, "run-1").admit("A")
    Recorded(landscape, "run-2").admit("B")
    with pytest.raises(NotOnRecordError, match="run run-2 has no row 'A'"):
        explain(landscape, "run-2", "A")


def test_a_run_is_named_by_its_beginning_if_only_one_has_it(landscape: Landscape) -> None:
    Recorded(landscape, "aab1").admit("A")
    Recorded(landscape, "aac1").admit("A")
    Recorded(landscape, "aa").admit("A")
    assert explain(landscape, "aac", "A").run.run_id == "aac1"
    assert explain(landscape, "aa", "A").run.run_id == "aa"
    with pytest.raises(NotOnRecordError, match="more than one run 'a'"):
        explain(landscape, "a", "A")
    with pytest.raises(NotOnRecordError, match="no run 'AAC1'"):
        explain(landscape, "AAC1", "A")


def test_latest_is_the_newest_run_or_the_newest_of_an_assessment(landscape: Landscape) -> None:
    with pytest.raises(NotOnRecordError, match="no run is on record"):
        explain(landscape, "latest", "A")
    Recorded(landscape, "zz-old", "other").admit("A", name="other")
    Recorded(landscape, "aa-new").admit("A")
    assert explain(landscape, "latest", "A").run.run_id == "aa-new"
    assert explain(landscape, "latest", "A", assessment="other").run.run_id == "zz-old"
    with pytest.raises(NotOnRecordError, match="no run of nobody"):
        explain(landscape, "latest", "A", assessment="nobody")


def test_a_key_of_several_assessments_needs_the_assessment_named(landscape: Landscape) -> None:
    run = Recorded(landscape, "run-1", "trial", "other")
    run.admit("A")
    run.admit("A", name="other")
    with pytest.raises(NotOnRecordError, match="several assessments of run run-1 have a row 'A': other, trial"):
        explain(landscape, "run-1", "A")
    assert explain(landscape, "run-1", "A", assessment="other").node.assessment == "other"
    with pytest.raises(NotOnRecordError, match="no assessment 'nobody'; it has other, trial"):
        explain(landscape, "run-1", "A", assessment="nobody")


# Evidence ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def change_payload(database_url: str) -> Callable[[str, bytes], None]:
    """Puts other bytes under a payload's name, as somebody with full rights over the database could."""

    def change(ref: str, body: bytes) -> None:
        engine = sa.create_engine(sa.make_url(database_url).set(drivername=_driver(database_url)))
        with engine.begin() as connection:
            sqlite = engine.dialect.name == "sqlite"
            off = "DROP TRIGGER payloads_no_update" if sqlite else "ALTER TABLE payloads DISABLE TRIGGER ALL"
            connection.execute(sa.text(off))
            statement = sa.text("UPDATE payloads SET body = :body, encoding = 'identity' WHERE ref = :ref")
            changed = connection.execute(statement, {"body": body, "ref": bytes.fromhex(ref.removeprefix("sha256:"))})
            assert changed.rowcount == 1
        engine.dispose()

    return change


def _driver(url: str) -> str:
    return "sqlite" if url.startswith("sqlite") else "postgresql+psycopg"


@pytest.mark.parametrize("which", ["values", "raw", "request", "reply", "head"])
def test_a_payload_that_was_changed_is_said_loudly(
    landscape: Landscape, change_payload: Callable[[str, bytes], None], which: str
) -> None:
    run = Recorded(landscape, "run-1")
    [token] = run.admit("A")
    [first, *_] = run.answer_all(token)[token]
    told = explain(landscape, "run-1", "A").row
    assert told is not None and first.came is not None
    refs = {
        "values": told.row.values_ref,
        "raw": told.row.raw_ref,
        "request": sha256(first.asked),
        "reply": sha256(first.came),
        "head": HEAD.ref,
    }
    change_payload(str(refs[which]), b'{"score": 100}')
    with pytest.raises(LandscapeError, match="the record was changed"):
        explain(landscape, "run-1", "A")


def test_all_of_it_is_read_in_one_state_of_the_record(database_url: str) -> None:
    database = Database.open(database_url)
    with Landscape(database) as landscape, Landscape.open(database_url) as elsewhere:
        run = Recorded(elsewhere, "run-1")
        [token] = run.admit("A")
        run.flush(token)
        state = run.attempt()
        call = run.call(state, token, "cs1_clarity", 0).call
        meanwhile: list[Callable[[], object]] = [
            lambda: run.accept(state, token, "cs1_clarity", call.call_id, 1),
            lambda: run.collect({token: Outcome.ASSESSED}),
        ]

        def write_meanwhile(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if meanwhile and statement.startswith("SELECT"):
                meanwhile.pop(0)()

        event.listen(database.engine, "after_cursor_execute", write_meanwhile)
        told = explain(landscape, "run-1", "A")
        assert not meanwhile
        assert told.outcome is None and question_of(told, "cs1_clarity").answer is None
        after = explain(landscape, "run-1", "A")
        assert after.outcome is not None and question_of(after, "cs1_clarity").answer is not None


# Speed ---------------------------------------------------------------------------------------------------------------


class Statements(NamedTuple):
    """The statements that an engine executed, with their parameters."""

    engine: sa.Engine
    executed: list[tuple[str, Any]]


@pytest.fixture
def statements(database_url: str) -> Iterator[Statements]:
    database = Database.open(database_url)
    with Landscape(database) as landscape:
        run = Recorded(landscape, "run-1")
        run.answer_all(*run.admit("A", "B"))
        run.reject(2, b"C,x")
        executed: list[tuple[str, Any]] = []

        def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            executed.append((statement, parameters))

        event.listen(database.engine, "before_cursor_execute", note)
        for key in ("A", "#1", "#2"):
            explain(landscape, "run-1", key)
        explain(landscape, "run-1", "B", "cs1_depth", assessment="trial")
        event.remove(database.engine, "before_cursor_execute", note)
        yield Statements(database.engine, executed)


def _plan(connection: sa.Connection, statement: str, parameters: Any) -> list[str]:
    sqlite = connection.dialect.name == "sqlite"
    prefix = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
    found = connection.exec_driver_sql(f"{prefix} {statement}", parameters)
    return [row.detail if sqlite else row[0] for row in found]


def test_no_table_is_scanned_to_explain_a_row(statements: Statements) -> None:
    asked = [each for each in statements.executed if each[0].lstrip().startswith("SELECT")]
    assert len(asked) > 30
    with statements.engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SET enable_seqscan = off"))  # then it scans only where no index helps
        for statement, parameters in asked:
            for step in _plan(connection, statement, parameters):
                assert "Seq Scan" not in step, statement
                assert not step.startswith("SCAN"), statement


def test_the_calls_of_a_row_are_found_by_state_and_token(statements: Statements) -> None:
    if statements.engine.dialect.name != "sqlite":
        pytest.skip("on a few rows PostgreSQL takes any index")
    asked = [each for each in statements.executed if "FROM calls" in each[0] and "token_id = ?" in each[0]]
    assert asked
    with statements.engine.connect() as connection:
        for statement, parameters in asked:
            plan = " ".join(_plan(connection, statement, parameters))
            assert "state_id=? AND token_id=?" in plan
    keyed = [each for each in statements.executed if "rows.row_key = ?" in each[0]]
    assert keyed
    with statements.engine.connect() as connection:
        for statement, parameters in keyed:
            assert "run_id=? AND row_key=?" in " ".join(_plan(connection, statement, parameters))


def test_the_number_of_statements_does_not_grow_with_the_calls(landscape: Landscape, database_url: str) -> None:
    run = Recorded(landscape, "run-1")
    one, two = run.admit("A", "B")
    run.flush(one, two)
    state = run.attempt()
    run.call(state, one, "cs1_clarity", 0)
    for number in range(1, 40):
        run.call(state, two, "cs1_clarity", number, number=number, cause=Cause.RETRY)
    database = Database.open(database_url)
    counted: list[int] = []
    event.listen(database.engine, "before_cursor_execute", lambda *_: counted.append(1))
    with Landscape(database) as other:
        explain(other, "run-1", "A")
        few = len(counted)
        explain(other, "run-1", "B")
        assert len(counted) == 2 * few < 50


# As JSON -------------------------------------------------------------------------------------------------------------


def test_the_document_is_json_and_holds_all_of_it(landscape: Landscape) -> None:
    run = Recorded(landscape, "run-1")
    [token] = run.admit("A")
    sent = run.answer_all(token)[token]
    told = explain(landscape, "run-1", "A")
    document = json.loads(json.dumps(told.document(), allow_nan=False))
    assert document["run"]["run_id"] == "run-1" and document["run"]["partition_keys"] == ["2026-01-05"]
    assert document["run"]["started_at"].endswith("+00:00")
    assert document["row"]["values"] == {"id": "A", "text": "text of A"}
    assert document["row"]["raw"] == {"hash": sha256(b"A,text of A"), "size": 11, "text": "A,text of A"}
    assert document["attempts"][0]["end"]["detail"] == {"calls": 3}
    [first, *_] = document["questions"]
    assert (first["key"], first["answer"]["values"]) == ("cs1_clarity", {"score": 0})
    [made] = first["calls"]
    assert made["call"]["call_id"] == sent[0].call.call_id and made["call"]["cause"] == "first"
    assert made["request"]["json"] == json.loads(sent[0].asked) and made["request"]["hash"] == sha256(sent[0].asked)
    assert made["body"]["text"] == '{"choices": []}'
    assert made["reply"]["headers"] == {"x-request-id": "r1"} and made["reply"]["cost_nanousd"] == 1500
    assert set(made["call"]) == set(Call._fields) and set(made["reply"]) == set(Reply._fields)
    assert document["outcome"]["outcome"]["outcome"] == "assessed"
    assert [artifact["uri"] for artifact in document["artifacts"]] == ["/data/results.parquet", "/data/answers.parquet"]


@pytest.mark.parametrize(
    ("came", "shown"),
    [
        (b"\xff\x00", {"base64": "/wA="}),
        (b"[NaN]", {"text": "[NaN]"}),
        (b"1e999", {"text": "1e999"}),
        (b"[" * 100_000, {"text": "[" * 100_000}),
        (b'"\\ud800"', {"text": '"\\ud800"', "json": "\ud800"}),
        ("“née” \u202e".encode(), {"text": "“née” \u202e"}),
        (b"", {"text": ""}),
    ],
)
def test_whatever_a_provider_replied_can_be_told_as_json(
    landscape: Landscape, came: bytes, shown: dict[str, object]
) -> None:
    run = Recorded(landscape, "run-1")
    [token] = run.admit("A")
    run.flush(token)
    run.call(run.attempt(), token, "cs1_clarity", 0, came=came)
    [made] = explain(landscape, "run-1", "A").document()["questions"][0]["calls"]
    assert made["body"] == {"hash": sha256(came), "size": len(came), **shown}
    json.loads(json.dumps(made, allow_nan=False))


def test_instants_are_told_to_the_microsecond(landscape: Landscape) -> None:
    run = Recorded(landscape, "run-1")
    run.admit("A")
    told = explain(landscape, "run-1", "A")
    assert told.run.started_at == run.run.started_at
    assert abs(now() - told.run.started_at) < timedelta(minutes=5)
