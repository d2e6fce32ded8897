"""One step's asking, put together: what the record knows, the gates in their order, the wire, the desk.

desk ─► conversation ─► memory: on record already?
                 └────► caller ─► breaker ─► failures ─► budget ─► pace ─► wire

Of several endpoints each has a caller, a breaker, a pace and a wire of its own (`pooling`).
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from elspeth_dagster.asking import Desk
from elspeth_dagster.breaking import Breaker
from elspeth_dagster.budgeting import budget_of
from elspeth_dagster.calling import Caller, Gate, Inquiry
from elspeth_dagster.conversing import Conversation
from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.errors import ProviderError, SettingsError
from elspeth_dagster.core.launch import Launch
from elspeth_dagster.core.pooling import check_accounts
from elspeth_dagster.counting import Counts
from elspeth_dagster.failing import Failures
from elspeth_dagster.landscape import runs, states
from elspeth_dagster.landscape.batches import Member
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.limits import Account
from elspeth_dagster.landscape.records import Batch
from elspeth_dagster.llm.prices import listing_of
from elspeth_dagster.pacing import Bounds, Paced, pace_of
from elspeth_dagster.pooling import Endpoint, Paces, Pool, PooledCaller
from elspeth_dagster.recalling import Lineage, Replay
from elspeth_dagster.resources.llm import LLMResource, PoolMember
from elspeth_dagster.stages.querying import Question, questions
from elspeth_dagster.stopping import Stop, asked_by_signals
from elspeth_dagster.verifying import AskingAgain, Verification

if TYPE_CHECKING:
    from elspeth_dagster.llm.wire import Wire

Asked = tuple[Counts, Paced | None]
"""What asking took, and at which pace; a replay has none."""


@dataclass(frozen=True)
class Engagement:
    """A step that asks: by which assessment, of which provider, as which execution. `report` tells how it goes."""

    landscape: Landscape
    llm: LLMResource
    assessment: Assessment
    here: states.Execution
    report: Callable[[Counts, Paced | None], None]

    async def ask(self, shard: Sequence[Batch], launch: Launch, row_count: int) -> Asked:
        """Ask every question of these batches; their slice has so many rows.

        Raises what `Desk.ask` raises.
        """
        stop, asked = Stop(), questions(self.assessment)
        failures = self._failures(row_count) if launch.mode == "ask" else None
        note = failures.note if failures else _nothing
        with asked_by_signals(stop.ask):
            async with self._conversation(launch, stop, failures) as (conversation, pace):
                desk = self._desk(conversation, stop, pace, lambda member: asked, note)
                return await desk.ask(shard, self.here), pace

    async def ask_again(self, verification: Verification, shard: Sequence[Batch]) -> Asked:
        """Ask the verification's sample by its recorded requests. Raises what `Desk.ask` raises."""
        stop = Stop()
        with asked_by_signals(stop.ask):
            async with self._calling(stop, []) as (caller, pace):
                given = self.landscape, self.assessment, self.llm.provider, self._lineage(Launch()), caller
                desk = self._desk(AskingAgain(verification, *given), stop, pace, verification.questions_of, _nothing)
                return await desk.ask(shard, self.here), pace

    @asynccontextmanager
    async def _conversation(
        self, launch: Launch, stop: Stop, failures: Failures | None
    ) -> AsyncIterator[tuple[Conversation, Paced | None]]:
        """With the provider, at its pace; in a replay with the record alone."""
        if launch.mode == "replay":
            record = self._replay(launch.of_run or "")
            yield Conversation(self.landscape, self.assessment, record.provider, record, None), None
        else:
            memory = self._lineage(launch)
            async with self._calling(stop, [failures] if failures else []) as (caller, pace):
                yield Conversation(self.landscape, self.assessment, self.llm.provider, memory, caller), pace

    @asynccontextmanager
    async def _calling(self, stop: Stop, gates: Sequence[Gate]) -> AsyncIterator[tuple[Caller, Paced]]:
        self._check_not_given_up()
        llm, spec, model = self.llm, self.assessment.spec, self.assessment.spec.llm.model_name
        if members := llm.members(spec.llm.endpoints):
            async with self._pooled(members, stop, gates) as found:
                yield found
            return
        breaker = Breaker(llm.provider, spec.errors.retry_seconds, stop)
        async with budget_of(self.landscape, spec, llm.provider, self.here, stop) as budget, llm.wire(model) as wire:
            account = Account(llm.provider, wire.head.account, model)
            async with pace_of(self.landscape, account, _bounds(llm), stop) as pace:
                passed = [*gates, *budget, pace]
                caller = Caller(
                    self.landscape, wire, llm.provider, model, stop, passed, breaker, listing_of(spec.llm.price)
                )
                await caller.begin()
                yield caller, pace

    @asynccontextmanager
    async def _pooled(
        self, members: Sequence[PoolMember], stop: Stop, gates: Sequence[Gate]
    ) -> AsyncIterator[tuple[Caller, Paced]]:
        """By several endpoints, each with a gate of its own."""
        spec, provider = self.assessment.spec, self.llm.provider
        declared = [member.declared for member in members]
        async with AsyncExitStack() as stack:
            asked = budget_of(self.landscape, spec, provider, self.here, stop, declared)
            budget = await stack.enter_async_context(asked)
            wires = {member.declared.name: await self._wire(member, stack) for member in members}
            check_accounts({name: wire.head.account for name, wire in wires.items()})
            endpoints = [await self._endpoint(one, wires[one.declared.name], stop, stack) for one in members]
            pool = Pool(provider, endpoints, stop)
            stack.callback(pool.close)
            caller = PooledCaller(pool, [*gates, *budget])
            await caller.begin()
            yield caller, Paces(endpoints)

    async def _wire(self, member: PoolMember, stack: AsyncExitStack) -> "Wire":
        model = self.assessment.spec.llm.model_name
        try:
            return await stack.enter_async_context(member.llm.wire(model, member.declared))
        except SettingsError as error:
            raise SettingsError(f"llm.endpoints.{member.declared.name}: {error}") from error

    async def _endpoint(self, member: PoolMember, wire: "Wire", stop: Stop, stack: AsyncExitStack) -> Endpoint:
        (declared, llm), spec, model = member, self.assessment.spec, self.assessment.spec.llm.model_name
        breaker = Breaker(llm.provider, spec.errors.retry_seconds, stop, is_one_of_several=True)
        account = Account(llm.provider, wire.head.account, model)
        pace = await stack.enter_async_context(pace_of(self.landscape, account, _bounds(llm), stop))
        price = listing_of(declared.price or spec.llm.price)
        caller = Caller(self.landscape, wire, llm.provider, model, stop, price=price)
        return Endpoint(declared.name, declared.weight, breaker, pace, caller)

    def _check_not_given_up(self) -> None:
        """What one step of a run has learnt about the provider, the next one need not learn again."""
        with self.landscape.read() as connection:
            why = states.gave_up(connection, self.here)
        if why is not None:
            raise ProviderError(f"Another step of this run has given the provider up, so nothing is sent: {why}")

    def _failures(self, row_count: int) -> Failures | None:
        most = self.assessment.spec.errors.max_failures
        return None if most is None else Failures(self.landscape, self.here, most, row_count)

    def _lineage(self, launch: Launch) -> Lineage:
        with self.landscape.read() as connection:
            run = runs.get(connection, self.here.run_id)
        on_unknown, anywhere = self.assessment.spec.errors.on_unknown, launch.reuse == "landscape"
        return Lineage(self.landscape, run, self.llm.provider, on_unknown, anywhere=anywhere)

    def _replay(self, run_id: str) -> Replay:
        with self.landscape.read() as connection:
            replayed = runs.get(connection, run_id)
        return Replay(self.landscape, replayed, self.here.node_id, self.assessment.spec.errors.on_unknown)

    def _desk(
        self,
        conversation: Conversation,
        stop: Stop,
        pace: Paced | None,
        questions_of: Callable[[Member], Sequence[Question]],
        note_refusal: Callable[[Inquiry], None],
    ) -> Desk:
        return Desk(
            self.landscape,
            conversation,
            stop,
            questions_of,
            questions_a_row=len(questions(self.assessment)),
            max_concurrency=self.llm.capacity(self.assessment.spec.llm.endpoints).max_concurrency,
            grace_seconds=self.llm.grace_seconds,
            note_refusal=note_refusal,
            report=lambda counts: self.report(counts, pace),
            pace=pace.told if pace else dict,
        )


def _bounds(llm: LLMResource) -> Bounds:
    return Bounds(llm.min_concurrency, llm.concurrency, llm.requests_per_minute, llm.tokens_per_minute)


def _nothing(_inquiry: Inquiry) -> None:
    """Nobody counts refusals."""
