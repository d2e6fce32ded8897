"""Runs by any sequence of steps, deaths included, beside a model of plain sets: nothing of an ended run is open, and
an attempt that another one took over from records nothing more.

The model knows only what each operation promises; the database is asked by plain SQL, not by the code under test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    rule,
    run_state_machine_as_test,
)

from elspeth_dagster.core.errors import AuditError
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.landscape import batches, rows, runs, states
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Answer, Call, Fact, Node, NodeState, Payload, Reply, Run, TokenOutcome
from elspeth_dagster.landscape.states import Execution
from elspeth_dagster.landscape.words import (
    AnswerStatus,
    Cause,
    Determinism,
    Outcome,
    ReplyOutcome,
    RunStatus,
    Trigger,
)
from elspeth_dagster_tests.landscape.sample import NOON, a_run, only

EXAMPLES = {"sqlite": (15, 25), "postgresql": (8, 25)}
TEXT = Payload.of(b"a request, a reply or a value")
RECORDED = {
    "tokens": "SELECT t.token_id, o.outcome FROM tokens t LEFT JOIN token_outcomes o ON o.token_id = t.token_id "
    "WHERE t.run_id = :run",
    "states": "SELECT s.state_id, e.status FROM node_states s LEFT JOIN node_state_ends e ON e.state_id = s.state_id "
    "WHERE s.run_id = :run",
    "calls": "SELECT c.call_id, r.outcome FROM calls c LEFT JOIN replies r ON r.call_id = c.call_id "
    "WHERE c.run_id = :run",
    "attempts": "SELECT state_id, attempt FROM node_states WHERE run_id = :run",
    "records": "SELECT row_index, 'row' FROM rows WHERE run_id = :run UNION ALL "
    "SELECT row_index, 'rejection' FROM row_rejections WHERE run_id = :run",
    "answers": "SELECT query_key, status FROM answers WHERE run_id = :run",
    "ends": "SELECT run_id, status FROM run_ends WHERE run_id = :run",
}


@dataclass
class Life:
    """What should be on record of a run: each token, state and call with its end, None while it has none."""

    run_id: str
    tokens: dict[str, str | None] = field(default_factory=dict)
    states: dict[str, str | None] = field(default_factory=dict)
    calls: dict[str, str | None] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    records: dict[int, str] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    batches: dict[str, list[str]] = field(default_factory=dict)
    states_of: dict[str, list[str]] = field(default_factory=dict)
    calls_of: dict[str, list[str]] = field(default_factory=dict)

    def end(self, status: str) -> None:
        """What the end of a run promises."""
        self.ends[self.run_id] = status
        self.tokens = {token: fate or "interrupted" for token, fate in self.tokens.items()}
        self.states = {state: end or "interrupted" for state, end in self.states.items()}
        self.calls = {call: reply or "unknown" for call, reply in self.calls.items()}

    def end_state(self, state: str, status: str) -> None:
        """A state's end; one that was interrupted knows nothing of the calls under way."""
        self.states[state] = status
        if status == "interrupted":
            self.calls.update({call: "unknown" for call in self.calls_of[state] if self.calls[call] is None})


@dataclass(frozen=True)
class Held:
    """A state as the step that opened it holds it; it may have been taken over meanwhile."""

    life: Life
    state: NodeState
    token: str


class Lives(RuleBasedStateMachine):
    """The operations of the walk's steps, in any order that they allow."""

    landscape: Landscape
    lives: Bundle[Life] = Bundle("lives")
    held: Bundle[Held] = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[Life] = []

    @initialize(target=lives)
    def begin_first_run(self) -> Life:
        return self.begin()

    @rule(target=lives)
    def begin_run(self) -> Life:
        return self.begin()

    def begin(self) -> Life:
        """A run with a row, a rejection and a batch."""
        run_id = new_id()
        nodes = [Node(run_id, name, run_id, name, "1", Determinism.DETERMINISTIC, TEXT.ref) for name in ("read", "ask")]
        run = only(Run, a_run(run_id))._replace(config_ref=TEXT.ref, assessments=f'["{run_id}"]')
        runs.begin(self.landscape, run, nodes, [], [TEXT])
        life = Life(run_id)
        self.begun.append(life)
        self.admit(life, [True, False])
        self.flush(life)
        return life

    @rule(life=lives, as_row=st.lists(st.booleans(), min_size=1, max_size=4))
    def admit(self, life: Life, as_row: list[bool]) -> None:
        for good in as_row:
            index = len(life.records)
            where: dict[str, Any] = {"row_index": index, "partition_key": None, "line": index + 2}
            facts = (
                rows.admission(life.run_id, "read", row_key=f"k{index}", values={"n": index}, raw=b"raw", **where)
                if good
                else rows.rejection(life.run_id, "read", column=None, reason="type", message="", raw=b"x", **where)
            )
            if self.taken(not life.ends, *facts):
                life.records[index] = "row" if good else "rejection"
                if good:
                    token: str = facts[-1].token_id  # type: ignore[union-attr]
                    life.tokens[token] = None
                    life.waiting.append(token)

    @rule(life=lives)
    def flush(self, life: Life) -> None:
        members = tuple(life.waiting)
        batch, facts = batches.flush(
            life.run_id, "ask", ordinal=len(life.batches), trigger=Trigger.ROWS, shard="shard_00001", members=members
        )
        if self.taken(not life.ends, *facts):
            life.waiting.clear()
            life.tokens[batch.token_id] = None
            life.batches[batch.token_id] = list(members)

    @rule(target=held, life=lives, data=st.data())
    def open_state(self, life: Life, data: st.DataObject) -> Any:
        token = data.draw(st.sampled_from(sorted(life.batches)))
        execution = Execution(life.run_id, "ask", "ask", 0, "host", 1)
        if life.ends:
            with pytest.raises(AuditError, match="this run has ended"):
                states.open_state(self.landscape, execution, token)
            return multiple()
        state = states.open_state(self.landscape, execution, token)
        earlier = life.states_of.setdefault(token, [])
        for open_ in [open_ for open_ in earlier if life.states[open_] is None]:
            life.end_state(open_, "interrupted")
        earlier.append(state.state_id)
        life.states[state.state_id], life.attempts[state.state_id] = None, len(earlier)
        life.calls_of[state.state_id] = []
        return Held(life, state, token)

    @rule(held=held, data=st.data())
    def call(self, held: Held, data: st.DataObject) -> None:
        life, made = held.life, held.life.calls_of[held.state.state_id]
        if not life.batches[held.token]:
            return
        token = data.draw(st.sampled_from(life.batches[held.token]))
        call_id, index = new_id(), len(made)
        call = Call(call_id, life.run_id, held.state.state_id, token, "q", index + 1, index, Cause.FIRST, "openai",
                    "gpt", TEXT.ref, TEXT.ref, NOON)  # fmt: skip
        if self.taken(life.states[held.state.state_id] is None, call):
            life.calls[call_id] = None
            made.append(call_id)

    @rule(held=held, data=st.data(), outcome=st.sampled_from([ReplyOutcome.SUCCESS, ReplyOutcome.ERROR]))
    def reply(self, held: Held, data: st.DataObject, outcome: ReplyOutcome) -> None:
        life, made = held.life, held.life.calls_of[held.state.state_id]
        if not made:
            return
        call_id = data.draw(st.sampled_from(made))
        error = None if outcome is ReplyOutcome.SUCCESS else "timeout"
        reply = only(Reply, a_run("r"))._replace(call_id=call_id, outcome=outcome, error_class=error, body_ref=TEXT.ref)
        if self.taken(life.calls[call_id] is None, reply):
            life.calls[call_id] = outcome.value

    @rule(held=held, data=st.data())
    def answer(self, held: Held, data: st.DataObject) -> None:
        life, state = held.life, held.state.state_id
        if not life.batches[held.token]:
            return
        token = data.draw(st.sampled_from(life.batches[held.token]))
        answer = Answer(state, token, new_id(), life.run_id, AnswerStatus.REFUSED, "blank", None, None, None, NOON)
        if self.taken(life.states[state] is None, answer):
            life.answers[answer.query_key] = "refused"

    @rule(held=consumes(held))
    def end_state(self, held: Held) -> None:
        state = held.state.state_id
        if self.taken(held.life.states[state] is None, states.end(held.state, {})):
            held.life.states[state] = "completed"

    @rule(held=consumes(held))
    def fail_state(self, held: Held) -> None:
        state = held.state.state_id
        if self.taken(held.life.states[state] is None, states.failure(held.state, ValueError("x"))):
            held.life.states[state] = "failed"

    @rule(held=consumes(held))
    def die(self, held: Held) -> None:
        """The step is gone without a word."""

    @rule(life=lives, data=st.data(), outcome=st.sampled_from(Outcome))
    def decide_outcome(self, life: Life, data: st.DataObject, outcome: Outcome) -> None:
        if not life.tokens:
            return
        token = data.draw(st.sampled_from(sorted(life.tokens)))
        fate = TokenOutcome(token, life.run_id, outcome, None, NOON)
        if self.taken(life.tokens[token] is None and not life.ends, fate):
            life.tokens[token] = outcome.value

    @rule(life=lives, status=st.sampled_from(RunStatus))
    def end_run(self, life: Life, status: RunStatus) -> None:
        assert runs.end(self.landscape, life.run_id, status, "by the test") is not bool(life.ends)
        if not life.ends:
            life.end(status.value)
        self.check(life)

    def taken(self, expected: bool, *facts: Fact) -> bool:
        """Hand facts over; they are taken exactly when the model expects it."""
        if expected:
            self.landscape.write(*facts)
        else:
            with pytest.raises(AuditError):
                self.landscape.write(*facts)
        return expected

    def check(self, life: Life) -> None:
        """The record is what the model says; of an ended run nothing is open."""
        with self.landscape.read() as connection:
            for what, query in RECORDED.items():
                recorded = {row[0]: row[1] for row in connection.execute(sa.text(query), {"run": life.run_id})}
                assert recorded == getattr(life, what), what
        if life.ends:
            assert None not in {*life.tokens.values(), *life.states.values(), *life.calls.values()}

    def teardown(self) -> None:
        for life in self.begun:
            self.check(life)
            self.end_run(life, RunStatus.INTERRUPTED)


def live(landscape: Landscape, how: settings) -> None:
    """Run the machine on a landscape."""
    machine = type("LivesHere", (Lives,), {"landscape": landscape})
    run_state_machine_as_test(machine, settings=settings(how, deadline=None, suppress_health_check=list(HealthCheck)))


def test_whatever_happens_nothing_of_an_ended_run_is_open(landscape: Landscape, dialect: str) -> None:
    examples, steps = EXAMPLES[dialect]
    live(landscape, settings(max_examples=examples, stateful_step_count=steps))


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize("broken", ["unknown_replies", "interrupted_end"])
def test_an_end_that_left_something_open_would_be_noticed(
    landscape: Landscape, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    nothing = {"unknown_replies": lambda *_: [], "interrupted_end": lambda *_: TEXT}
    monkeypatch.setattr(runs, broken, nothing[broken])
    with pytest.raises(AssertionError):
        live(
            landscape, settings(max_examples=200, phases=[Phase.generate], derandomize=True, report_multiple_bugs=False)
        )
