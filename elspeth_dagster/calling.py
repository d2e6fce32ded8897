"""Where the money is spent: one call, on record before it is sent, its reply on record with what is made of it.

call recorded (durable) ─► HTTP ─► reply read ─► reply and answer recorded (durable)
              └── a crash here leaves a call without a reply: it may have been paid, and the record says so

A call carries two names to the provider: its own, and an idempotency key that stays the same until a whole response
has come.
A provider that honours the key does not bill what was lost on the way a second time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from elspeth_dagster.counting import Counts
from elspeth_dagster.landscape import batches
from elspeth_dagster.landscape.ledger import Landscape, now
from elspeth_dagster.landscape.records import Call, Fact, NodeState, Payload, Reply
from elspeth_dagster.landscape.words import Cause, ReplyOutcome
from elspeth_dagster.llm.prices import Listing, bound_nanousd, cost_nanousd
from elspeth_dagster.stages.answering import Completion, read_completion
from elspeth_dagster.stages.calling import ErrorClass, Exchange, is_fatal, is_open, retry_after_seconds
from elspeth_dagster.stages.querying import Question, Request
from elspeth_dagster.stopping import Stop, Stopped

if TYPE_CHECKING:
    from elspeth_dagster.llm.wire import Head, Wire

NOT_SENT = Exchange(None, b"", error=ErrorClass.NOT_SENT, detail="the step was stopped before it was sent")


@dataclass
class BatchAtWork:
    """A batch being asked: its state, how many of its questions are open, how many later tries there were.

    First tries are numbered in plan order, a place for each question of each row; later tries follow as they come.
    `total` counts for the whole shard.
    """

    state: NodeState
    members: list[batches.Member]
    open_questions: int
    questions_a_row: int
    total: Counts
    counts: Counts = field(default_factory=Counts)
    later_tries: int = 0

    def first_index(self, member: batches.Member, question: Question) -> int:
        """The index of a question's first call."""
        return member.ordinal * self.questions_a_row + question.ordinal

    def next_index(self) -> int:
        """The index of the next call that is not a question's first."""
        self.later_tries += 1
        return len(self.members) * self.questions_a_row + self.later_tries - 1


@dataclass
class Inquiry:
    """One question being asked for one row, and what was tried so far.

    `has_blanks` tells whether any value of the row is blank. `last_call` is the call that its latest reply comes from,
    also when that was made earlier and is on record; `open_key` the idempotency key of a call to which no response has
    come; `has_failed` whether it is on record that an earlier run got transient errors for it; `reply` what has come
    and goes on record together with what is made of it; `waited` the seconds that its calls have waited at gates;
    `refusal` why it was refused in the end; `tried_at` the places of the endpoints at which a try of it failed.
    """

    work: BatchAtWork
    member: batches.Member
    question: Question
    first_index: int
    has_blanks: bool = True
    tries: int = 0
    last_call: str | None = None
    open_key: str | None = None
    has_failed: bool = False
    reply: tuple[Fact, ...] = ()
    waited: float = 0.0
    refusal: str | None = None
    tried_at: tuple[int, ...] = ()

    @property
    def counts(self) -> Iterable[Counts]:
        """What counts for it: the shard's and its batch's."""
        return self.work.total, self.work.counts

    def take_reply(self) -> tuple[Fact, ...]:
        """The reply that is to be put on record, to be put there once."""
        reply, self.reply = self.reply, ()
        return reply

    def next_index(self) -> int:
        """The index of its next call."""
        return self.first_index if self.tries == 0 else self.work.next_index()


class Gate(Protocol):
    """What a call waits for before it is recorded and sent: a place in flight, a share of a limit or of a budget."""

    async def enter(self, request: Request) -> Any:
        """Wait until one more call may be made; returns what was taken for it, for `leave`.

        Raises ProviderError where it may never be made, Stopped where the step is told to stop meanwhile.
        """

    def leave(self, taken: Any, exchange: Exchange | None, reply: Reply | None) -> None:
        """The call is over: with what came back, or with None where it was not sent or its fate is not known."""


class Watch(Gate, Protocol):
    """The gate that watches the provider itself."""

    @property
    def is_shut(self) -> bool:
        """Whether the provider only fails: then a try that fails says nothing about its question."""

    def suspect(self, request: Request) -> None:
        """A question that has failed in an earlier run may itself be at fault: it says nothing about the provider."""


@dataclass
class _Passage:
    """What became of a call between its gates."""

    exchange: Exchange | None = None
    reply: Reply | None = None


class Caller:
    """Makes the calls for one model of one provider, until it is told to stop; each passes the gates, in order.

    The first gate is `watch`, where there is one. `price` is the assessment's own for its model, which goes before the
    list's.
    """

    def __init__(
        self,
        landscape: Landscape,
        wire: Wire,
        provider: str,
        model: str,
        stop: Stop,
        gates: Sequence[Gate] = (),
        watch: Watch | None = None,
        price: Listing | None = None,
    ) -> None:
        self.provider = provider
        self.address: str = orjson.loads(wire.head.evidence)["url"]
        self._known_head = wire.head
        self._landscape = landscape
        self._wire = wire
        self._model = model
        self._stop = stop
        self._gates: Sequence[Gate] = gates if watch is None else [watch, *gates]
        self._watch = watch
        self._price = price
        self._head = Payload.of(wire.head.evidence)

    async def begin(self) -> None:
        """Put on record what all calls have in common: method, address and headers, credentials as fingerprints."""
        await self._landscape.record(self._head)

    async def call(self, inquiry: Inquiry, request: Request, cause: Cause) -> tuple[Exchange, Completion]:
        """Pass the gates, record, send; record what is no reply to read, and leave one that is with the inquiry.

        Raises AuditError, and sends nothing, when the call can't be recorded; Stopped when nothing more may be sent;
        ProviderError when a gate lets nothing more through.
        """
        if inquiry.reply:
            await self._landscape.record(*inquiry.take_reply())
        passage, came = _Passage(), time.monotonic()
        passed: list[tuple[Gate, Any]] = []
        try:
            caller = await self._pass(inquiry, request, passed)
            inquiry.waited += time.monotonic() - came
            return await caller._made(inquiry, request, cause, passage)
        finally:
            for gate, taken in reversed(passed):
                gate.leave(taken, passage.exchange, passage.reply)

    async def _pass(self, inquiry: Inquiry, request: Request, passed: list[tuple[Gate, Any]]) -> Caller:
        """Pass the gates, and note what was taken at each; who makes the call then."""
        for gate in self._gates:
            passed.append((gate, await gate.enter(request)))
        return self

    def may_succeed_elsewhere(self, inquiry: Inquiry) -> bool:
        """Whether another endpoint, at which this question was not tried yet, can be asked."""
        return False

    def asked_to_wait(self, exchange: Exchange) -> float | None:
        """For how many seconds the question must wait, as what came back asks."""
        return retry_after_seconds(exchange.headers, now())

    def gives_up_at(self, exchange: Exchange) -> bool:
        """Whether no question can succeed after this."""
        return is_fatal(exchange.error)

    @property
    def is_held_up(self) -> bool:
        """Whether a gate is shut until the provider answers again: a try that fails is not its question's fault."""
        return self._watch is not None and self._watch.is_shut

    def suspect(self, request: Request) -> None:
        """What this asks has failed in an earlier run: that it fails again says nothing about the provider."""
        if self._watch is not None:
            self._watch.suspect(request)

    async def _made(
        self, inquiry: Inquiry, request: Request, cause: Cause, passage: _Passage
    ) -> tuple[Exchange, Completion]:
        if self._stop.is_closed:
            raise Stopped
        head, head_ref = await self._see_to_the_head()
        body = inquiry.member.request(request.body, request.ref)
        call = self._next_call(inquiry, request, head_ref, cause)
        await self._landscape.record(body, call)
        exchange = await self._send(call, request.body, head)
        completion = read_completion(exchange.body) if exchange.error is None else Completion()
        came = Payload.of(exchange.body, inquiry.member.scope)
        reply = self._reply(call, exchange, completion, came.ref)
        if exchange.error is None:
            inquiry.reply = came, reply
        else:
            await self._landscape.record(came, reply)
        for counts in inquiry.counts:
            counts.add_reply(reply)
        if exchange is NOT_SENT:
            raise Stopped
        passage.exchange, passage.reply = exchange, reply
        inquiry.open_key = call.key if is_open(exchange.status, exchange.error) else None
        return exchange, completion

    async def _see_to_the_head(self) -> tuple[Head, str]:
        """The head of the next call; one that is new, since another token was given out, is put on record."""
        head = await self._wire.refresh()
        if head is self._known_head:
            return head, self._head.ref
        self._known_head, self._head = head, (payload := Payload.of(head.evidence))
        await self._landscape.record(payload)
        return head, payload.ref

    async def _send(self, call: Call, body: bytes, head: Head) -> Exchange:
        if self._stop.is_closed:
            return NOT_SENT
        return await self._wire.send(body, call.call_id, call.key, head)

    async def pause(self, seconds: float) -> None:
        """Wait before the next try, but not beyond being told to stop."""
        await self._stop.sleep(seconds)

    def _next_call(self, inquiry: Inquiry, request: Request, head_ref: str, cause: Cause) -> Call:
        state, index = inquiry.work.state, inquiry.next_index()
        inquiry.tries += 1
        inquiry.last_call = f"{state.state_id}-{index}"
        for counts in inquiry.counts:
            counts.add_call(cause)
        return Call(
            call_id=inquiry.last_call,
            run_id=state.run_id,
            state_id=state.state_id,
            token_id=inquiry.member.token_id,
            query_key=inquiry.question.key,
            query_attempt=inquiry.tries,
            call_index=index,
            cause=cause,
            provider=self.provider,
            model=self._model,
            head_ref=head_ref,
            request_ref=request.ref,
            sent_at=now(),
            question_hash=request.question_hash,
            idempotency_key=inquiry.open_key,
            bound_nanousd=bound_nanousd(self.provider, self._model, len(request.body), request.max_tokens, self._price),
        )

    def _cost(self, completion: Completion, call: Call) -> int | None:
        return cost_nanousd(self.provider, completion.model or call.model, completion.usage, self._price)

    def _reply(self, call: Call, exchange: Exchange, completion: Completion, body_ref: str) -> Reply:
        usage, succeeded = completion.usage, exchange.error is None
        return Reply(
            call_id=call.call_id,
            outcome=ReplyOutcome.SUCCESS if succeeded else ReplyOutcome.ERROR,
            error_class=exchange.error,
            detail=exchange.detail or None,
            http_status=exchange.status,
            headers=orjson.dumps(exchange.headers, option=orjson.OPT_SORT_KEYS).decode(),
            body_ref=body_ref,
            model=completion.model,
            system_fingerprint=completion.system_fingerprint,
            finish_reason=completion.finish_reason,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            cost_nanousd=self._cost(completion, call) if succeeded else None,
            latency_us=exchange.latency_us,
            redacted=int(exchange.redacted),
            received_at=now(),
        )
