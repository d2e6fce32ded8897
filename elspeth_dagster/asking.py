"""The questions of a shard, many in flight at once.

All batches of a shard share one concurrency limit, so that a slow row never holds back another batch. Each batch has
one node state, open from before its first question until after its last. A provider that can't be used at all (wrong
key, unknown deployment, nothing listens) stops the shard with one error, after what is in flight has come back, and so
does a record that can't be read; a fact that can't be recorded stops it at once, before anything more is sent. A shard
that is told to stop sends nothing more, waits a grace time for what is in flight, and leaves its unfinished batches
interrupted, for a later attempt or run. So does one that has gone as far as it may, but waits for all in flight.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict

from elspeth_dagster.calling import BatchAtWork, Inquiry
from elspeth_dagster.conversing import Conversation
from elspeth_dagster.core.errors import AuditError, ElspethError, LandscapeError, LimitError, ProviderError
from elspeth_dagster.counting import Counts
from elspeth_dagster.landscape import batches, states
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Batch
from elspeth_dagster.stages.querying import Question, is_blank
from elspeth_dagster.stopping import Stop, Stopped

TICK_SECONDS = 1.0
GRACE_TICK_SECONDS = 0.05
Waiting = asyncio.Queue[Inquiry | None]


class Desk:
    """Asks one shard: plans its questions, has so many of them at work, opens and ends its batches' states.

    `pace` tells what the states' ends keep of how fast it went.
    """

    def __init__(
        self,
        landscape: Landscape,
        conversation: Conversation,
        stop: Stop,
        questions_of: Callable[[batches.Member], Sequence[Question]],
        *,
        questions_a_row: int,
        max_concurrency: int,
        grace_seconds: float = 0.0,
        note_refusal: Callable[[Inquiry], None] = lambda inquiry: None,
        report: Callable[[Counts], None] = lambda counts: None,
        pace: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        self._counts = Counts()
        self._landscape = landscape
        self._questions_of = questions_of
        self._conversation = conversation
        self._stop = stop
        self._questions_a_row = questions_a_row
        self._max_concurrency = max_concurrency
        self._grace_seconds = grace_seconds
        self._note_refusal = note_refusal
        self._report = report
        self._pace = pace
        self._at_work: list[BatchAtWork] = []
        self._unusable: ElspethError | None = None

    async def ask(self, shard: Sequence[Batch], execution: states.Execution) -> Counts:
        """Ask every question of every row of these batches; return what that took.

        Raises ProviderError when the provider can't be used at all, AuditError when a fact can't be recorded, Stopped
        when it was told to stop before all was asked.
        """
        try:
            await self._ask_all(shard, execution)
        except BaseException as error:
            self._leave_open_states(_first(error))
            raise _first(error) from error
        return self._counts

    async def _ask_all(self, shard: Sequence[Batch], execution: states.Execution) -> None:
        waiting: Waiting = asyncio.Queue(maxsize=self._max_concurrency)
        async with asyncio.TaskGroup() as group:
            self._workers = [group.create_task(self._work(waiting)) for _ in range(self._max_concurrency)]
            beside = [self._plan(shard, execution, waiting), self._tell_progress(), self._end_grace()]
            as_long = [group.create_task(work) for work in beside]
            await asyncio.wait(self._workers)
            for task in as_long:
                task.cancel()
        if self._unusable is not None:
            raise self._unusable
        if self._stop.is_asked and self._at_work:
            raise Stopped(f"stopped with {self._counts.questions} questions settled; what is on record is not lost")

    async def _plan(self, shard: Sequence[Batch], execution: states.Execution, waiting: Waiting) -> None:
        try:
            async for inquiry in self._inquiries(shard, execution):
                await waiting.put(inquiry)
                if self._is_over:
                    break
        except AuditError:
            raise
        except LandscapeError as error:  # it could not be read: nothing more is begun either
            self._give_up(error)
        for _ in range(self._max_concurrency):
            await waiting.put(None)

    @property
    def _is_over(self) -> bool:
        """Whether nothing more is to be asked."""
        return self._unusable is not None or self._stop.is_asked

    async def _inquiries(self, shard: Sequence[Batch], execution: states.Execution) -> AsyncIterator[Inquiry]:
        """Batch by batch, row by row, question by question."""
        for batch in shard:
            work = await asyncio.to_thread(self._open, batch, execution)
            for member in work.members:
                has_blanks = any(map(is_blank, member.values.values()))
                for question in self._questions_of(member):
                    yield Inquiry(work, member, question, work.first_index(member, question), has_blanks)

    def _open(self, batch: Batch, execution: states.Execution) -> BatchAtWork:
        with self._landscape.read() as connection:
            members = batches.members(connection, batch.batch_id)
        planned = sum(len(self._questions_of(member)) for member in members)
        state = states.open_state(self._landscape, execution, batch.token_id)
        work = BatchAtWork(state, members, planned, self._questions_a_row, self._counts)
        self._at_work.append(work)
        return work

    async def _work(self, waiting: Waiting) -> None:
        while (inquiry := await waiting.get()) is not None:
            if not self._is_over:
                await self._settle(inquiry)

    async def _settle(self, inquiry: Inquiry) -> None:
        """See one question through, and its batch to its end when it was the last."""
        try:
            accepted = await self._conversation.settle(inquiry)
        except Stopped:
            return
        except AuditError:
            raise
        except (ProviderError, LandscapeError, LimitError) as error:  # what is in flight may come back
            self._give_up(error)
            return
        work, reused = inquiry.work, inquiry.tries == 0 and inquiry.last_call is not None
        for counts in inquiry.counts:
            counts.add_answer(accepted=accepted, reused=reused)
        work.open_questions -= 1
        if work.open_questions == 0:
            await self._end(work)
        if not accepted:
            self._count_refusal(inquiry)

    def _count_refusal(self, inquiry: Inquiry) -> None:
        try:
            self._note_refusal(inquiry)
        except (LimitError, LandscapeError) as error:
            self._give_up(error)

    def _give_up(self, error: ElspethError) -> None:
        self._unusable = self._unusable or error
        self._stop.close()

    async def _end(self, work: BatchAtWork) -> None:
        work.counts.rows = len(work.members)
        self._counts.rows += len(work.members)
        pace = self._pace()
        detail = {**asdict(work.counts), **({"pace": pace} if pace else {})}
        await self._landscape.record(states.end(work.state, detail))
        self._at_work.remove(work)

    async def _tell_progress(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._report(self._counts)

    async def _end_grace(self) -> None:
        """Cancel what is still in flight when the time for it is over, or when told to stop a second time."""
        await self._stop.asked()
        deadline = time.monotonic() + self._grace_seconds
        while not self._stop.is_urgent and time.monotonic() < deadline:
            await asyncio.sleep(GRACE_TICK_SECONDS)
        for worker in self._workers:
            worker.cancel()

    def _leave_open_states(self, error: BaseException) -> None:
        """Best effort: where even this can't be recorded, the next attempt or the run's end closes the states."""
        failed = isinstance(error, Exception) and not isinstance(error, Stopped | LimitError)
        why = states.told(error) if failed else str(error) or type(error).__name__
        with suppress(ElspethError):
            states.close(self._landscape, [work.state for work in self._at_work], why, failed=failed)


def _first(error: BaseException) -> BaseException:
    """The error that a group of errors began with."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
