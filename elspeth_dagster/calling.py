"""Where the money is spent: one call, on record before it is sent, its reply on record before it is used.

call recorded (durable) ─► HTTP ─► reply recorded (durable)
              └── a crash here leaves a call without a reply: it may have been paid, and the record says so
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from elspeth_dagster.counting import Counts
from elspeth_dagster.landscape import batches
from elspeth_dagster.landscape.ledger import Landscape, now
from elspeth_dagster.landscape.records import Call, NodeState, Payload, Reply
from elspeth_dagster.landscape.words import Cause, ReplyOutcome
from elspeth_dagster.llm.prices import cost_nanousd
from elspeth_dagster.stages.answering import Completion, read_completion
from elspeth_dagster.stages.calling import Exchange
from elspeth_dagster.stages.querying import Question

if TYPE_CHECKING:
    from elspeth_dagster.llm.wire import Wire


@dataclass
class BatchAtWork:
    """A batch being asked: its state, how many of its questions are open, the next index of a later try."""

    state: NodeState
    members: list[batches.Member]
    open_questions: int
    next_index: int
    counts: Counts = field(default_factory=Counts)


@dataclass
class Inquiry:
    """One question being asked for one row, and what was tried so far."""

    work: BatchAtWork
    member: batches.Member
    question: Question
    first_index: int
    tries: int = 0
    last_call: str | None = None

    def next_index(self) -> int:
        """The index of the next call: first tries are numbered in plan order, later ones follow as they come."""
        if self.tries == 0:
            return self.first_index
        self.work.next_index += 1
        return self.work.next_index - 1


class Caller:
    """Makes the calls for one model of one provider."""

    def __init__(self, landscape: Landscape, wire: Wire, provider: str, model: str, total: Counts) -> None:
        self.provider = provider
        self.address: str = json.loads(wire.head.evidence)["url"]
        self._landscape = landscape
        self._wire = wire
        self._model = model
        self._total = total
        self._head = Payload.of(wire.head.evidence)

    async def begin(self) -> None:
        """Put on record what all calls have in common: method, address and headers, credentials as fingerprints."""
        await self._landscape.record(self._head)

    async def call(self, inquiry: Inquiry, body: bytes, cause: Cause) -> tuple[Exchange, Completion]:
        """Record, send, record. Raises AuditError, and sends nothing, when the call can't be recorded."""
        request = Payload.of(body)
        call = self._next_call(inquiry, request.ref, cause)
        await self._landscape.record(request, call)
        exchange = await self._wire.send(body, call.call_id)
        completion = read_completion(exchange.body) if exchange.error is None else Completion()
        came = Payload.of(exchange.body)
        reply = self._reply(call, exchange, completion, came.ref)
        await self._landscape.record(came, reply)
        for counts in self._counts(inquiry):
            counts.add_reply(reply)
        return exchange, completion

    def _counts(self, inquiry: Inquiry) -> Iterable[Counts]:
        return self._total, inquiry.work.counts

    def _next_call(self, inquiry: Inquiry, request_ref: str, cause: Cause) -> Call:
        state, index = inquiry.work.state, inquiry.next_index()
        inquiry.tries += 1
        inquiry.last_call = f"{state.state_id}-{index}"
        for counts in self._counts(inquiry):
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
            head_ref=self._head.ref,
            request_ref=request_ref,
            sent_at=now(),
        )

    def _reply(self, call: Call, exchange: Exchange, completion: Completion, body_ref: str) -> Reply:
        usage, succeeded = completion.usage, exchange.error is None
        return Reply(
            call_id=call.call_id,
            outcome=ReplyOutcome.SUCCESS if succeeded else ReplyOutcome.ERROR,
            error_class=exchange.error,
            detail=exchange.detail or None,
            http_status=exchange.status,
            headers=json.dumps(exchange.headers, sort_keys=True),
            body_ref=body_ref,
            model=completion.model,
            system_fingerprint=completion.system_fingerprint,
            finish_reason=completion.finish_reason,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            cost_nanousd=cost_nanousd(self.provider, completion.model or call.model, usage) if succeeded else None,
            latency_us=exchange.latency_us,
            redacted=int(exchange.redacted),
            received_at=now(),
        )
