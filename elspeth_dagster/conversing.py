"""One question of one row, seen through: asked, tried again, repaired, until it has an answer or a reason for none.

    messages ─► on record? ─► call ─► transient error? the same again ─► a reply ─► accepted
                    └──────────────────────────────────────────────────────┘  └─► refused: with `repair`, asked
                                                                                  again with the reason

A reply that is on record is not asked for again. Retrying a question never asks its siblings again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

from elspeth_dagster.calling import Caller, Inquiry
from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.canonical import Json, canonical_json
from elspeth_dagster.core.errors import ProviderError
from elspeth_dagster.landscape.ledger import Landscape, now
from elspeth_dagster.landscape.records import Answer, Fact, Payload
from elspeth_dagster.landscape.words import AnswerStatus, Cause
from elspeth_dagster.recalling import Memory
from elspeth_dagster.stages.answering import FINAL, Completion, Refusal, Refused, accepted_values
from elspeth_dagster.stages.calling import (
    ErrorClass,
    Exchange,
    is_fatal,
    is_transient,
    retry_delay,
)
from elspeth_dagster.stages.prompting import RENDER_ERRORS, messages, repair_messages, template_line
from elspeth_dagster.stages.querying import Form, Message, Question, Request, questions

WHAT_TO_CHECK = {
    ErrorClass.UNREACHABLE: "nothing answers there: check the address, and that the server runs",
    ErrorClass.AUTHENTICATION: "the key was refused: check OPENAI_API_KEY or AZURE_OPENAI_API_KEY",
    ErrorClass.PERMISSION: "the key is not allowed to do this: check its rights, plan and balance",
    ErrorClass.NOT_FOUND: "no model or deployment {model!r} there, or a wrong address",
}


class Conversation:
    """Sees questions through, any number of them at a time.

    `provider` decides the form of a request. Without a caller nothing is asked: the memory has every reply, or refuses.
    """

    def __init__(
        self, landscape: Landscape, assessment: Assessment, provider: str, memory: Memory, caller: Caller | None
    ) -> None:
        self._landscape = landscape
        self._memory = memory
        self._caller = caller
        self._bounded = provider == "local"
        self._assessment = assessment
        self._spec = assessment.spec
        self._questions = questions(assessment)
        self._forms: dict[str, Form] = {}
        self._reached = False

    async def settle(self, inquiry: Inquiry) -> bool:
        """Put the question's answer on record, accepted or refused; whether it was accepted.

        Raises ProviderError when the provider can't be used at all, AuditError when a fact can't be recorded, Stopped
        when nothing may be sent any more.
        """
        decided: tuple[Fact, ...]
        try:
            payload = Payload.of(canonical_json(await self._values(inquiry)), inquiry.member.scope)
            decided = payload, _accepted(inquiry, payload.ref)
        except Refused as refused:
            inquiry.refusal = str(refused.reason)
            decided = (_refused(inquiry, refused),)
        except BaseException:  # what came is on record, whatever ends the question
            if inquiry.reply:
                await self._landscape.record(*inquiry.take_reply())
            raise
        await self._landscape.record(*inquiry.take_reply(), *decided)
        return len(decided) > 1

    async def _values(self, inquiry: Inquiry) -> Mapping[str, Json]:
        self._check_inputs(inquiry)
        asked, cause = self._messages(inquiry), Cause.FIRST
        for repairs_left in range(self._spec.errors.repair, -1, -1):
            completion = await self._completion(inquiry, asked, cause)
            try:
                return accepted_values(completion, inquiry.question.fields)
            except Refused as refused:
                if repairs_left == 0 or refused.reason in FINAL:
                    raise
                asked, cause = repair_messages(asked, completion.content or "", refused.detail), Cause.REPAIR
        raise AssertionError("the last try returns or raises")

    def _check_inputs(self, inquiry: Inquiry) -> None:
        """A question with a blank input is not asked; where that fails the row, neither are its siblings."""
        if not inquiry.has_blanks:
            return
        values = inquiry.member.values
        if missing := inquiry.question.missing_inputs(values):
            raise Refused(Refusal.BLANK_INPUT, f"The input {missing[0]!r} is blank.")
        if self._spec.errors.row == "all_or_nothing":
            for sibling in self._questions:
                if missing := sibling.missing_inputs(values):
                    needed = f"The row's input {missing[0]!r} is blank, which {sibling.key} needs."
                    raise Refused(Refusal.ROW_NOT_ASKED, needed)

    def _messages(self, inquiry: Inquiry) -> list[Message]:
        try:
            return messages(inquiry.question, inquiry.member.values, self._assessment.lookup)
        except RENDER_ERRORS as error:
            why = f"The template can't be filled for this row: {type(error).__name__}{template_line(error)}."
            raise Refused(Refusal.TEMPLATE, why) from error

    async def _completion(self, inquiry: Inquiry, asked: list[Message], cause: Cause) -> Completion:
        """The reply on record, or the first one that isn't a transient error.

        Raises Refused with the error when there is none in time.
        """
        return await self._reply(inquiry, self._form(inquiry.question).request(asked, inquiry.member.name), cause)

    def _form(self, question: Question) -> Form:
        form = self._forms.get(question.key)
        if form is None:
            form = self._forms[question.key] = Form(self._spec, question, bounded_schema=self._bounded)
        return form

    async def _reply(self, inquiry: Inquiry, put: Request, cause: Cause) -> Completion:
        found = await self._memory.recall(inquiry, put)
        if found is not None:
            return found
        assert self._caller is not None  # a memory without a caller has every reply, or refuses
        if inquiry.has_failed:
            self._caller.suspect(put)
        return await self._ask(self._caller, inquiry, put, cause)

    async def _ask(self, caller: Caller, inquiry: Inquiry, put: Request, cause: Cause) -> Completion:
        give_up = time.monotonic() + self._spec.errors.retry_seconds - inquiry.waited
        tries = 0
        while True:
            exchange, completion = await caller.call(inquiry, put, cause)
            if exchange.error is None:
                self._reached = True
                return completion
            tries += 1
            wait = retry_delay(tries, caller.asked_to_wait(exchange), random.random())
            is_late = time.monotonic() + wait > give_up + inquiry.waited and not caller.is_held_up
            is_late = is_late and not caller.may_succeed_elsewhere(inquiry)
            if not self._worth_retrying(caller, exchange) or is_late:
                raise Refused(exchange.error, exchange.detail)
            await caller.pause(wait)
            cause = Cause.RETRY

    def _worth_retrying(self, caller: Caller, exchange: Exchange) -> bool:
        """Raises ProviderError when no question can succeed. A server that was there and is gone may come back."""
        if exchange.error is ErrorClass.UNREACHABLE and self._reached:
            return True
        if caller.gives_up_at(exchange):
            raise ProviderError(self._what_to_check(caller, exchange))
        self._reached = True
        return is_transient(exchange.error) or is_fatal(exchange.error)

    def _what_to_check(self, caller: Caller, exchange: Exchange) -> str:
        hint = WHAT_TO_CHECK[exchange.error or ErrorClass.UNREACHABLE].format(model=self._spec.llm.model_name)
        status = f"HTTP {exchange.status}" if exchange.status else str(exchange.error)
        said = f" It said: {exchange.detail.rstrip('.')}." if exchange.detail else ""
        where = f"{caller.provider} at {caller.address}"
        return f"{where}: {hint} ({status}).{said} Mend that and launch again: what is answered is not asked again."


def _accepted(inquiry: Inquiry, values_ref: str) -> Answer:
    return _answer(inquiry, AnswerStatus.ACCEPTED, values_ref=values_ref)


def _refused(inquiry: Inquiry, refused: Refused) -> Answer:
    return _answer(inquiry, AnswerStatus.REFUSED, reason=str(refused.reason), detail=refused.detail or None)


def _answer(
    inquiry: Inquiry,
    status: AnswerStatus,
    *,
    reason: str | None = None,
    detail: str | None = None,
    values_ref: str | None = None,
) -> Answer:
    return Answer(
        state_id=inquiry.work.state.state_id,
        token_id=inquiry.member.token_id,
        query_key=inquiry.question.key,
        run_id=inquiry.work.state.run_id,
        status=status,
        reason=reason,
        detail=detail,
        values_ref=values_ref,
        call_id=inquiry.last_call,
        decided_at=now(),
    )
