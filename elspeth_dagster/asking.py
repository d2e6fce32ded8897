"""Where the money is spent: the questions of a shard, many in flight at once, each call on record before it is sent.

    plan ─► call recorded (durable) ─► HTTP ─► reply recorded (durable) ─► answer parsed, recorded

All batches of a shard share one concurrency limit, so that a slow row never holds back another batch. Each batch has
one node state; every call names it, and the row, question and try it is made for. Retrying a question never asks its
siblings again. A provider that can't be used at all (wrong key, unknown deployment, nothing listens) stops the shard
with one error; a fact that can't be recorded stops it at once, before anything more is sent.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.canonical import Json, canonical_json
from elspeth_dagster.core.errors import ElspethError, ProviderError
from elspeth_dagster.landscape import batches, states
from elspeth_dagster.landscape.ledger import Landscape, now
from elspeth_dagster.landscape.records import Answer, Batch, Call, NodeState, Payload, Reply
from elspeth_dagster.landscape.words import AnswerStatus, Cause, ReplyOutcome
from elspeth_dagster.llm.prices import cost_nanousd
from elspeth_dagster.llm.wire import Wire
from elspeth_dagster.stages.answering import FINAL, Completion, Refusal, Refused, accepted_values, read_completion
from elspeth_dagster.stages.calling import (
    ErrorClass,
    Exchange,
    is_fatal,
    is_transient,
    retry_after_seconds,
    retry_delay,
)
from elspeth_dagster.stages.prompting import RENDER_ERRORS, messages, repair_messages
from elspeth_dagster.stages.querying import Message, Question, questions, request_body

PROGRESS_SECONDS = 10.0


@dataclass
class Counts:
    """What has been done so far, in questions and calls; costs in nano-US-dollars."""

    rows: int = 0
    questions: int = 0
    accepted: int = 0
    refused: int = 0
    calls: int = 0
    retries: int = 0
    repairs: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nanousd: int = 0
    unpriced_calls: int = 0

    def add_call(self, cause: Cause) -> None:
        """Count a call that is about to be sent."""
        self.calls += 1
        self.retries += cause is Cause.RETRY
        self.repairs += cause is Cause.REPAIR

    def add_reply(self, reply: Reply) -> None:
        """Count what a reply reports."""
        self.prompt_tokens += reply.prompt_tokens or 0
        self.completion_tokens += reply.completion_tokens or 0
        self.cost_nanousd += reply.cost_nanousd or 0
        self.unpriced_calls += reply.outcome is ReplyOutcome.SUCCESS and reply.cost_nanousd is None


@dataclass
class _BatchAtWork:
    """A batch being asked: its state, and how many of its questions are still open."""

    state: NodeState
    members: list[batches.Member]
    open_questions: int
    next_index: int
    counts: Counts = field(default_factory=Counts)


@dataclass
class _Inquiry:
    """One question being asked for one row."""

    work: _BatchAtWork
    member: batches.Member
    question: Question
    first_index: int
    tries: int = 0
    last_call: str | None = None

    def next_index(self) -> int:
        """First tries are numbered in plan order; later tries follow, in the order in which they come."""
        if self.tries == 1:
            return self.first_index
        self.work.next_index += 1
        return self.work.next_index - 1


class Desk:
    """Asks shards: holds the wire to the provider and the landscape that everything is written to."""

    def __init__(
        self,
        landscape: Landscape,
        wire: Wire,
        assessment: Assessment,
        *,
        provider: str,
        max_concurrency: int,
        report: Callable[[Counts], None] = lambda counts: None,
    ) -> None:
        self.counts = Counts()
        self._landscape = landscape
        self._wire = wire
        self._assessment = assessment
        self._spec = assessment.spec
        self._questions = questions(assessment)
        self._provider = provider
        self._max_concurrency = max_concurrency
        self._report = report
        self._head = Payload.of(wire.head.evidence)
        self._address = json.loads(wire.head.evidence)["url"]
        self._at_work: list[_BatchAtWork] = []
        self._reached = False
        self._stopped: ProviderError | None = None

    async def ask(self, shard: Sequence[Batch], execution: states.Execution) -> Counts:
        """Ask every question of every row of these batches; return what that took.

        Raises ProviderError when the provider can't be used at all, AuditError when a fact can't be recorded.
        """
        self._landscape.write(self._head)
        waiting: asyncio.Queue[_Inquiry | None] = asyncio.Queue(maxsize=self._max_concurrency)
        try:
            async with asyncio.TaskGroup() as group:
                progress = group.create_task(self._tell_progress())
                workers = [group.create_task(self._work(waiting)) for _ in range(self._max_concurrency)]
                await self._plan(shard, execution, waiting)
                await asyncio.wait(workers)
                progress.cancel()
        except BaseExceptionGroup as errors:
            self._fail_open_states(errors)
            raise _first(errors) from errors
        if self._stopped is not None:
            self._fail_open_states(self._stopped)
            raise self._stopped
        return self.counts

    async def _plan(
        self, shard: Sequence[Batch], execution: states.Execution, waiting: asyncio.Queue[_Inquiry | None]
    ) -> None:
        async for inquiry in self._inquiries(shard, execution):
            await waiting.put(inquiry)
            if self._stopped is not None:
                break
        for _ in range(self._max_concurrency):
            await waiting.put(None)

    async def _inquiries(self, shard: Sequence[Batch], execution: states.Execution) -> AsyncIterator[_Inquiry]:
        """Batch by batch, row by row, question by question."""
        for batch in shard:
            work = await asyncio.to_thread(self._open, batch, execution)
            for member in work.members:
                for question in self._questions:
                    plan_index = member.ordinal * len(self._questions) + question.ordinal
                    yield _Inquiry(work, member, question, plan_index)

    def _open(self, batch: Batch, execution: states.Execution) -> _BatchAtWork:
        with self._landscape.read() as connection:
            members = batches.members(connection, batch.batch_id)
        planned = len(members) * len(self._questions)
        state = states.open_state(self._landscape, execution, batch.token_id)
        work = _BatchAtWork(state, members, planned, planned)
        self._at_work.append(work)
        return work

    async def _work(self, waiting: asyncio.Queue[_Inquiry | None]) -> None:
        while (inquiry := await waiting.get()) is not None:
            if self._stopped is None:
                await self._settle(inquiry)

    async def _settle(self, inquiry: _Inquiry) -> None:
        """See one question through to its answer, and its batch to its end when it was the last."""
        try:
            if refused := self._not_to_be_asked(inquiry):
                await self._refuse(inquiry, refused.reason, refused.detail)
            else:
                await self._converse(inquiry)
        except ProviderError as error:
            self._stopped = self._stopped or error
            return
        work = inquiry.work
        work.open_questions -= 1
        if work.open_questions == 0:
            await self._end(work)

    async def _end(self, work: _BatchAtWork) -> None:
        work.counts.rows = len(work.members)
        self.counts.rows += work.counts.rows
        await self._landscape.record(states.end(work.state, asdict(work.counts)))
        self._at_work.remove(work)

    def _not_to_be_asked(self, inquiry: _Inquiry) -> Refused | None:
        """A question with a blank input is not asked; where that fails the row, neither are its siblings."""
        values = inquiry.member.values
        if missing := inquiry.question.missing_inputs(values):
            return Refused(Refusal.BLANK_INPUT, f"The input {missing[0]!r} is blank.")
        if self._spec.errors.row == "all_or_nothing":
            for sibling in self._questions:
                if missing := sibling.missing_inputs(values):
                    return Refused(
                        Refusal.ROW_NOT_ASKED, f"The row's input {missing[0]!r} is blank, which {sibling.key} needs."
                    )
        return None

    async def _converse(self, inquiry: _Inquiry) -> None:
        """Ask until there is an answer, or a reason why there is none."""
        try:
            asked = messages(inquiry.question, inquiry.member.values, self._assessment.lookup)
        except RENDER_ERRORS as error:
            await self._refuse(inquiry, Refusal.TEMPLATE, f"The template can't be filled for this row: {error}")
            return
        cause = Cause.FIRST
        for repairs_left in range(self._spec.errors.repair, -1, -1):
            exchange, completion = await self._reply_to(inquiry, asked, cause)
            if exchange.error is not None:
                await self._refuse(inquiry, exchange.error, exchange.detail)
                return
            try:
                values = accepted_values(completion, inquiry.question.fields)
            except Refused as refused:
                if repairs_left == 0 or refused.reason in FINAL:
                    await self._refuse(inquiry, refused.reason, refused.detail)
                    return
                asked = repair_messages(asked, completion.content or "", refused.detail)
                cause = Cause.REPAIR
            else:
                await self._accept(inquiry, values)
                return

    async def _reply_to(self, inquiry: _Inquiry, asked: list[Message], cause: Cause) -> tuple[Exchange, Completion]:
        """The first reply that isn't a transient error; or the last of these when the time for retries is over."""
        body = request_body(self._spec, inquiry.question, asked, bounded_schema=self._provider == "local")
        give_up = time.monotonic() + self._spec.errors.retry_seconds
        tries = 0
        while True:
            exchange, completion = await self._call(inquiry, body, cause)
            tries += 1
            if not self._worth_retrying(exchange):
                return exchange, completion
            wait = retry_delay(tries, retry_after_seconds(exchange.headers, now()), random.random())
            if time.monotonic() + wait > give_up or self._stopped is not None:
                return exchange, completion
            await asyncio.sleep(wait)
            cause = Cause.RETRY

    def _worth_retrying(self, exchange: Exchange) -> bool:
        """Raises ProviderError when no question can succeed. A server that was there and is gone may come back."""
        if exchange.error is ErrorClass.UNREACHABLE and self._reached:
            return True
        if is_fatal(exchange.error):
            raise ProviderError(self._what_to_check(exchange))
        self._reached = True
        return is_transient(exchange.error)

    async def _call(self, inquiry: _Inquiry, body: bytes, cause: Cause) -> tuple[Exchange, Completion]:
        """One call: recorded, sent, its reply recorded."""
        request = Payload.of(body)
        call = self._next_call(inquiry, request.ref, cause)
        await self._landscape.record(request, call)
        exchange = await self._wire.send(body, call.call_id)
        completion = read_completion(exchange.body) if exchange.error is None else Completion()
        came = Payload.of(exchange.body)
        reply = self._reply(call, exchange, completion, came.ref)
        await self._landscape.record(came, reply)
        for counts in (self.counts, inquiry.work.counts):
            counts.add_reply(reply)
        return exchange, completion

    def _next_call(self, inquiry: _Inquiry, request_ref: str, cause: Cause) -> Call:
        inquiry.tries += 1
        index = inquiry.next_index()
        state = inquiry.work.state
        inquiry.last_call = f"{state.state_id}-{index}"
        for counts in (self.counts, inquiry.work.counts):
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
            provider=self._provider,
            model=self._spec.llm.model_name,
            head_ref=self._head.ref,
            request_ref=request_ref,
            sent_at=now(),
        )

    def _reply(self, call: Call, exchange: Exchange, completion: Completion, body_ref: str) -> Reply:
        usage = completion.usage
        succeeded = exchange.error is None
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
            cost_nanousd=cost_nanousd(self._provider, completion.model or call.model, usage) if succeeded else None,
            latency_us=exchange.latency_us,
            redacted=int(exchange.redacted),
            received_at=now(),
        )

    async def _accept(self, inquiry: _Inquiry, values: Mapping[str, Json]) -> None:
        payload = Payload.of(canonical_json(values))
        answer = self._answer(inquiry, AnswerStatus.ACCEPTED)._replace(values_ref=payload.ref)
        await self._landscape.record(payload, answer)
        self._count(inquiry, accepted=1)

    async def _refuse(self, inquiry: _Inquiry, reason: str, detail: str) -> None:
        answer = self._answer(inquiry, AnswerStatus.REFUSED)._replace(reason=str(reason), detail=detail)
        await self._landscape.record(answer)
        self._count(inquiry, refused=1)

    def _answer(self, inquiry: _Inquiry, status: AnswerStatus) -> Answer:
        state = inquiry.work.state
        return Answer(
            state_id=state.state_id,
            token_id=inquiry.member.token_id,
            query_key=inquiry.question.key,
            run_id=state.run_id,
            status=status,
            reason=None,
            detail=None,
            values_ref=None,
            call_id=inquiry.last_call,
            decided_at=now(),
        )

    def _count(self, inquiry: _Inquiry, *, accepted: int = 0, refused: int = 0) -> None:
        for counts in (self.counts, inquiry.work.counts):
            counts.questions += 1
            counts.accepted += accepted
            counts.refused += refused

    async def _tell_progress(self) -> None:
        with suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(PROGRESS_SECONDS)
                self._report(self.counts)

    def _fail_open_states(self, error: BaseException) -> None:
        """Best effort: where even this can't be recorded, the next attempt or the run's end closes the states."""
        with suppress(ElspethError):
            self._landscape.write(*(states.failure(work.state, _first(error)) for work in self._at_work))

    def _what_to_check(self, exchange: Exchange) -> str:
        hints = {
            ErrorClass.UNREACHABLE: "nothing answers there: check the address, and that the server runs",
            ErrorClass.AUTHENTICATION: "the key was refused: check OPENAI_API_KEY or AZURE_OPENAI_API_KEY",
            ErrorClass.PERMISSION: "the key is not allowed to do this: check its rights, plan and balance",
            ErrorClass.NOT_FOUND: f"no model or deployment {self._spec.llm.model_name!r} there, or a wrong address",
        }
        hint = hints.get(exchange.error or ErrorClass.UNREACHABLE, "it can't be used")
        status = f"HTTP {exchange.status}" if exchange.status else str(exchange.error)
        said = f" It said: {exchange.detail}" if exchange.detail else ""
        return f"{self._provider} at {self._address}: {hint} ({status}).{said} The calls tried are on record."


def _first(error: BaseException) -> BaseException:
    """The error that a group of errors began with."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
