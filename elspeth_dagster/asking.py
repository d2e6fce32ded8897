"""The questions of a shard, many in flight at once.

All batches of a shard share one concurrency limit, so that a slow row never holds back another batch. Each batch has
one node state, open from before its first question until after its last. A provider that can't be used at all (wrong
key, unknown deployment, nothing listens) stops the shard with one error, after what is in flight has come back; a fact
that can't be recorded stops it at once, before anything more is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from elspeth_dagster.calling import BatchAtWork, Caller, Inquiry
from elspeth_dagster.conversing import Conversation
from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.errors import ElspethError, ProviderError
from elspeth_dagster.counting import Counts
from elspeth_dagster.landscape import batches, states
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Batch
from elspeth_dagster.stages.querying import questions

if TYPE_CHECKING:
    from elspeth_dagster.llm.wire import Wire

PROGRESS_SECONDS = 10.0
Waiting = asyncio.Queue[Inquiry | None]


class Desk:
    """Asks one shard: plans its questions, keeps so many of them in flight, opens and ends its batches' states."""

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
        self._counts = Counts()
        self._landscape = landscape
        self._questions = questions(assessment)
        self._caller = Caller(landscape, wire, provider, assessment.spec.llm.model_name, self._counts)
        self._conversation = Conversation(landscape, self._caller, assessment)
        self._max_concurrency = max_concurrency
        self._report = report
        self._at_work: list[BatchAtWork] = []
        self._stopped: ProviderError | None = None

    async def ask(self, shard: Sequence[Batch], execution: states.Execution) -> Counts:
        """Ask every question of every row of these batches; return what that took.

        Raises ProviderError when the provider can't be used at all, AuditError when a fact can't be recorded.
        """
        try:
            await self._caller.begin()
            await self._ask_all(shard, execution)
        except BaseException as error:
            self._fail_open_states(_first(error))
            raise _first(error) from error
        return self._counts

    async def _ask_all(self, shard: Sequence[Batch], execution: states.Execution) -> None:
        waiting: Waiting = asyncio.Queue(maxsize=self._max_concurrency)
        async with asyncio.TaskGroup() as group:
            progress = group.create_task(self._tell_progress())
            workers = [group.create_task(self._work(waiting)) for _ in range(self._max_concurrency)]
            await self._plan(shard, execution, waiting)
            await asyncio.wait(workers)
            progress.cancel()
        if self._stopped is not None:
            raise self._stopped

    async def _plan(self, shard: Sequence[Batch], execution: states.Execution, waiting: Waiting) -> None:
        async for inquiry in self._inquiries(shard, execution):
            await waiting.put(inquiry)
            if self._stopped is not None:
                break
        for _ in range(self._max_concurrency):
            await waiting.put(None)

    async def _inquiries(self, shard: Sequence[Batch], execution: states.Execution) -> AsyncIterator[Inquiry]:
        """Batch by batch, row by row, question by question."""
        for batch in shard:
            work = await asyncio.to_thread(self._open, batch, execution)
            for member in work.members:
                for question in self._questions:
                    yield Inquiry(work, member, question, member.ordinal * len(self._questions) + question.ordinal)

    def _open(self, batch: Batch, execution: states.Execution) -> BatchAtWork:
        with self._landscape.read() as connection:
            members = batches.members(connection, batch.batch_id)
        planned = len(members) * len(self._questions)
        work = BatchAtWork(states.open_state(self._landscape, execution, batch.token_id), members, planned, planned)
        self._at_work.append(work)
        return work

    async def _work(self, waiting: Waiting) -> None:
        while (inquiry := await waiting.get()) is not None:
            if self._stopped is None:
                await self._settle(inquiry)

    async def _settle(self, inquiry: Inquiry) -> None:
        """See one question through, and its batch to its end when it was the last."""
        try:
            accepted = await self._conversation.settle(inquiry)
        except ProviderError as error:
            self._stopped = self._stopped or error
            return
        work = inquiry.work
        for counts in (self._counts, work.counts):
            counts.add_answer(accepted=accepted)
        work.open_questions -= 1
        if work.open_questions == 0:
            await self._end(work)

    async def _end(self, work: BatchAtWork) -> None:
        work.counts.rows = len(work.members)
        self._counts.rows += len(work.members)
        await self._landscape.record(states.end(work.state, asdict(work.counts)))
        self._at_work.remove(work)

    async def _tell_progress(self) -> None:
        with suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(PROGRESS_SECONDS)
                self._report(self._counts)

    def _fail_open_states(self, error: BaseException) -> None:
        """Best effort: where even this can't be recorded, the next attempt or the run's end closes the states."""
        with suppress(ElspethError):
            self._landscape.write(*(states.failure(work.state, error) for work in self._at_work))


def _first(error: BaseException) -> BaseException:
    """The error that a group of errors began with."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
