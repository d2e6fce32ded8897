"""What the record knows already: replies that were paid for by an earlier attempt or run.

Lineage    A request that was answered for the same row and question, in this run or an earlier one of its lineage, is
           not sent again: its reply is read anew, by the present rules. Where the answer was refused and that run
           completed, asking anew is what a new run is for.
Landscape  Any recorded reply to the same question about the row, whichever run asked it, is as good.
Replay     Nothing is sent: every reply is the one that a run got, errors too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

import sqlalchemy as sa

from elspeth_dagster.calling import Inquiry
from elspeth_dagster.core.errors import ErasedError, ProviderError
from elspeth_dagster.core.spec import OnUnknown
from elspeth_dagster.landscape import payloads, replies, runs, scopes
from elspeth_dagster.landscape.batches import Member
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Run
from elspeth_dagster.landscape.replies import RecordedCall
from elspeth_dagster.landscape.words import ReplyOutcome
from elspeth_dagster.paging import NotReadError, Page, Pages
from elspeth_dagster.stages.answering import Completion, Refusal, Refused, accepted_values, read_completion
from elspeth_dagster.stages.calling import ErrorClass, is_fatal, is_transient
from elspeth_dagster.stages.querying import Request

Found = tuple[RecordedCall, Completion] | None
IsUsable = Callable[[RecordedCall, Completion], bool]


class Memory(Protocol):
    """Where a conversation looks before it asks."""

    async def recall(self, inquiry: Inquiry, request: Request) -> Completion | None:
        """The recorded reply to a request, of which `inquiry.last_call` then tells the call; None: it must be asked.

        Raises Refused where there will be no reply.
        """


class Lineage:
    """Replies to the same requests in a run's lineage; with `anywhere`, to the same questions in the landscape."""

    def __init__(self, landscape: Landscape, run: Run, provider: str, on_unknown: OnUnknown, *, anywhere: bool) -> None:
        self._landscape = landscape
        self._run = run
        self._provider = provider
        self._on_unknown = on_unknown
        self._anywhere = anywhere
        self._pages = Pages(landscape, run.root_run_id)
        with landscape.read() as connection:
            self._is_first = not runs.has_others_of_lineage(connection, run)

    async def recall(self, inquiry: Inquiry, request: Request) -> Completion | None:
        """The reply to this request, or, with `anywhere`, to this question.

        Where the last call for it has no reply, it may have been paid: that is refused, or asked again under the same
        idempotency key.
        """
        if self._is_first and not self._anywhere and inquiry.work.state.attempt == 1:
            return None
        page = await self._pages.of(inquiry)
        same = [call for call in page.calls_to(inquiry, request) if request.is_named(call.request_ref)]
        found = await self._usable(inquiry, same, page)
        if found is None and self._anywhere:
            found = await asyncio.to_thread(self._elsewhere, inquiry, request)
        if found is None:
            self._go_on_from(same, inquiry)
            inquiry.has_failed = any(call.run_id != self._run.run_id and _failed_in_passing(call) for call in same)
            return None
        call, completion = found
        inquiry.last_call = call.call_id
        return completion

    async def _usable(self, inquiry: Inquiry, same: Sequence[RecordedCall], page: Page) -> Found:
        """The newest reply of the lineage that can be used, from the page or else from the record."""

        def is_usable(call: RecordedCall, completion: Completion) -> bool:
            return self._anywhere or not call.is_settled or _is_accepted(completion, inquiry)

        try:
            return _newest(page.body, same, is_usable)
        except NotReadError:
            return await asyncio.to_thread(self._newest_on_record, same, is_usable)

    def _newest_on_record(self, same: Sequence[RecordedCall], is_usable: IsUsable) -> Found:
        with self._landscape.read() as connection:
            return _newest(partial(payloads.read, connection), same, is_usable)

    def _elsewhere(self, inquiry: Inquiry, request: Request) -> Found:
        with self._landscape.read() as connection:
            others = replies.anywhere(connection, self._provider, *_asked(inquiry, request), but=self._run.run_id)
            return _best(partial(payloads.read, connection), others, inquiry)

    def _go_on_from(self, same: Sequence[RecordedCall], inquiry: Inquiry) -> None:
        """From the last call, where no response has come to it."""
        sent = [call for call in same if call.error_class != ErrorClass.NOT_SENT]
        lost = sent[-1] if sent and sent[-1].is_open else None
        if lost is None:
            return
        if lost.is_unknown and self._on_unknown == "fail":
            raise _uncertain(lost)
        inquiry.open_key = lost.idempotency_key or lost.call_id


class Replay:
    """The replies that one run got, from its own calls and from those it used."""

    def __init__(self, landscape: Landscape, replayed: Run, node_id: str, on_unknown: OnUnknown) -> None:
        self._landscape = landscape
        self._replayed = replayed
        self._node_id = node_id
        self._on_unknown = on_unknown
        self._pages = Pages(landscape, replayed.root_run_id)
        with landscape.read() as connection:
            self.provider = replies.provider_of(connection, replayed, node_id) or ""
            self._before = runs.of_lineage_until(connection, replayed)

    async def recall(self, inquiry: Inquiry, request: Request) -> Completion:
        """The reply that the run got. An error is refused as it was then; so is what is not on record, or erased.

        Raises ProviderError for an error that stopped the step.
        """
        page = await self._pages.of(inquiry)
        call, body, stopped = await asyncio.to_thread(self._look_up, inquiry, request, page)
        inquiry.last_call = call.call_id
        if call.outcome is ReplyOutcome.SUCCESS:
            return read_completion(body)
        error = ErrorClass(call.error_class or "")
        if stopped:
            raise ProviderError(f"run {self._replayed.run_id} was stopped by call {call.call_id}: {call.detail}")
        raise Refused(error, call.detail or "")

    def _look_up(self, inquiry: Inquiry, request: Request, page: Page) -> tuple[RecordedCall, bytes, bool]:
        """The call, its reply, and whether the run stopped there: an error that no answer was made of."""
        with self._landscape.read() as connection:
            call = self._call(connection, inquiry, request, page)
            fatal = call.outcome is ReplyOutcome.ERROR and is_fatal(ErrorClass(call.error_class or ""))
            stopped = fatal and not replies.was_answered(connection, self._replayed.run_id, call.call_id)
            try:
                return call, _body(partial(payloads.read, connection), call), stopped
            except ErasedError as error:
                raise Refused(Refusal.ERASED, f"The reply of call {call.call_id} can't be replayed: {error}") from error

    def _call(self, connection: sa.Connection, inquiry: Inquiry, request: Request, page: Page) -> RecordedCall:
        """The call whose reply the run used: its own last one, one of its lineage, the answer's, one from elsewhere."""
        known = page.calls_to(inquiry, request)
        same = [call for call in known if request.is_named(call.request_ref) and call.run_id in self._before]
        own = [call for call in same if call.run_id == self._replayed.run_id and _has_come(call)]
        if own:
            return own[-1]
        found = _newest(partial(payloads.read, connection), same, lambda call, completion: True)
        if found is not None:
            return found[0]
        if used := replies.of_answer(connection, self._replayed.run_id, self._node_id, *_asked(inquiry, request)):
            return used[-1]
        others = replies.anywhere(connection, self.provider, *_asked(inquiry, request), but=self._replayed.run_id)
        earlier = [call for call in others if call.sent_at < self._replayed.started_at]
        found = _best(partial(payloads.read, connection), earlier, inquiry)
        if found is not None:
            return found[0]
        if same and same[-1].is_unknown and self._on_unknown == "fail":
            raise _uncertain(same[-1])
        scope = inquiry.member.scope
        if scope is not None and (erasure := scopes.erased_before(connection, scope)):
            raise Refused(
                Refusal.ERASED,
                f"What run {self._replayed.run_id} asked about row {inquiry.member.row_key} can't be replayed: it was "
                f"erased {payloads.told(erasure)}.",
            )
        raise Refused(
            Refusal.NOT_ON_RECORD,
            f"Run {self._replayed.run_id} has no reply to {inquiry.question.key} of row {inquiry.member.row_key} "
            "as it would be asked now: its prompt, its model or the row is another one, or it was never asked.",
        )


def _asked(inquiry: Inquiry, request: Request) -> tuple[Member, str, tuple[str, str]]:
    return inquiry.member, inquiry.question.key, request.question_hashes


def _body(read: Callable[[str], bytes], call: RecordedCall) -> bytes:
    return b"" if call.body_ref is None else read(call.body_ref)


def _failed_in_passing(call: RecordedCall) -> bool:
    return call.outcome is ReplyOutcome.ERROR and is_transient(ErrorClass(call.error_class or ""))


def _has_come(call: RecordedCall) -> bool:
    return not call.is_unknown and call.error_class != ErrorClass.NOT_SENT


def _newest(read: Callable[[str], bytes], known: Iterable[RecordedCall], is_usable: IsUsable) -> Found:
    """The newest reply that is usable, and not erased."""
    answered = [call for call in known if call.outcome is ReplyOutcome.SUCCESS]
    for call in reversed(answered):
        try:
            completion = read_completion(_body(read, call))
        except ErasedError:
            continue
        if is_usable(call, completion):
            return call, completion
    return None


def _best(read: Callable[[str], bytes], others: Sequence[RecordedCall], inquiry: Inquiry) -> Found:
    """Of replies that other runs got, the first that is accepted; else this row's own first, whatever it comes to."""
    accepted = _newest(read, reversed(others), lambda call, completion: _is_accepted(completion, inquiry))
    key = (inquiry.member.row_key, inquiry.question.key)
    own = [call for call in reversed(others) if (call.row_key, call.query_key) == key]
    return accepted or _newest(read, own, lambda call, completion: True)


def _is_accepted(completion: Completion, inquiry: Inquiry) -> bool:
    try:
        accepted_values(completion, inquiry.question.fields)
    except Refused:
        return False
    return True


def _uncertain(call: RecordedCall) -> Refused:
    return Refused(
        Refusal.UNKNOWN_CALL,
        f"Call {call.call_id} was sent and no reply is on record: it may have been paid. "
        "`on_unknown: fail` does not ask again.",
    )
