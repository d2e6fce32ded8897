"""Asking some of a run's questions once more: by their recorded requests, within another run.

    accepted answers of a run ─► a sample ─► its rows, in batches of this run ─► the same requests, the same rules

The sample follows from the hash of run, row and question, so the same share of the same run is the same sample.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from elspeth_dagster.calling import Inquiry
from elspeth_dagster.conversing import Conversation
from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.canonical import Json, canonical_json
from elspeth_dagster.core.errors import ErasedError
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.landscape import answers, batches, payloads, rows
from elspeth_dagster.landscape.answers import GivenAnswer
from elspeth_dagster.landscape.batches import Member
from elspeth_dagster.landscape.ledger import Landscape, now
from elspeth_dagster.landscape.records import Batch, Call, NodeState, Run, Token, TokenOutcome
from elspeth_dagster.landscape.rows import AdmittedRow
from elspeth_dagster.landscape.schema import calls
from elspeth_dagster.landscape.words import Cause, Outcome, TokenKind, Trigger
from elspeth_dagster.stages.answering import Refusal, Refused, accepted_values
from elspeth_dagster.stages.querying import Question, Request, most_tokens_of, questions

ROWS_A_BATCH = 50
SHARD = "shard_00001"


class Verification:
    """A sample of one run's accepted answers about a partition, and what to ask again for it.

    `sampled` is by row key and question.
    """

    def __init__(
        self,
        landscape: Landscape,
        assessment: Assessment,
        verified: Run,
        run_id: str,
        node_id: str,
        partition: str | None = None,
    ) -> None:
        self._landscape = landscape
        self.assessment = assessment
        self._questions = questions(assessment)
        self._verified = verified
        self._run_id = run_id
        self._node_id = node_id
        self._partition = partition
        self.sampled: dict[str, dict[str, GivenAnswer]] = {}

    def draw(self, share: float) -> list[Batch]:
        """Put a share of the accepted answers' rows on record as rows of this run, in batches; at least one of them.

        What an earlier attempt put there is taken as it is.
        """
        self.sampled = {row.row.row_key: drawn for row, drawn in self._drawn(share)}
        with self._landscape.read() as connection:
            known = rows.recorded_indexes(connection, self._run_id, self._node_id)
        for page in self._rows():
            new = (row for row in page if row.row.row_key in self.sampled and row.row.row_index not in known)
            self._landscape.write(*(fact for row in new for fact in self._copy(row)))
        return self._batches() or self._flush()

    @property
    def size(self) -> int:
        """How many questions are asked again."""
        return sum(map(len, self.sampled.values()))

    def _batches(self) -> list[Batch]:
        return [batch for page in batches.of_node(self._landscape, self._run_id, self._node_id) for batch in page]

    def _rows(self) -> Iterator[list[AdmittedRow]]:
        """The rows of the partition that is verified, also of a run that took several, but those that were erased."""
        node = f"{self.assessment.spec.name}.admit_rows"
        for page in rows.in_source_order(self._landscape, self._verified.run_id, node, also_erased=True):
            yield [row for row in page if row.row.partition_key == self._partition and row.erased is None]

    def _drawn(self, share: float) -> Iterator[tuple[AdmittedRow, dict[str, GivenAnswer]]]:
        """Each row with those of its answers that are in the sample; where that has none, the one nearest to it."""
        nearest: tuple[float, AdmittedRow, dict[str, GivenAnswer]] | None = None
        anything = False
        for row, given in self._accepted():
            lots = {key: self._lot(row.row.row_key, key) for key in given}
            if drawn := {key: given[key] for key, lot in lots.items() if lot < share}:
                anything = True
                yield row, drawn
            first = min(lots, key=lots.__getitem__)
            if nearest is None or lots[first] < nearest[0]:
                nearest = lots[first], row, {first: given[first]}
        if not anything and nearest is not None:
            yield nearest[1], nearest[2]

    def _accepted(self) -> Iterator[tuple[AdmittedRow, dict[str, GivenAnswer]]]:
        for page in self._rows():
            with self._landscape.read() as connection:
                given = answers.of_tokens(connection, [row.token_id for row in page], also_erased=True)
            for row in page:
                known = {key: one for key, one in given.get(row.token_id, {}).items() if one.erased is None}
                accepted = {key: one for key, one in known.items() if one.is_accepted}
                if accepted:
                    yield row, accepted

    def _lot(self, row_key: str, query_key: str) -> float:
        """A number in [0, 1)."""
        name = canonical_json([self._verified.run_id, row_key, query_key])
        return int.from_bytes(hashlib.sha256(name).digest()[:7]) / 2**56

    def _copy(self, row: AdmittedRow) -> list[Any]:
        copied = row.row._replace(row_id=new_id(), run_id=self._run_id, node_id=self._node_id)
        return [copied, Token(new_id(), self._run_id, TokenKind.ROW, copied.row_id)]

    def _flush(self) -> list[Batch]:
        tokens = [row.token_id for page in self._own_rows() for row in page]
        flushed, facts = [], []
        for ordinal, start in enumerate(range(0, len(tokens), ROWS_A_BATCH)):
            members = tuple(tokens[start : start + ROWS_A_BATCH])
            trigger = Trigger.ROWS if len(members) == ROWS_A_BATCH else Trigger.END_OF_SLICE
            batch, of_batch = batches.flush(
                self._run_id, self._node_id, ordinal=ordinal, trigger=trigger, shard=SHARD, members=members
            )
            flushed.append(batch)
            facts += of_batch
        self._landscape.write(*facts)
        return flushed

    def _own_rows(self) -> Iterator[list[AdmittedRow]]:
        return rows.in_source_order(self._landscape, self._run_id, self._node_id)

    def fates(self, state: NodeState) -> list[TokenOutcome]:
        """The outcomes of the tokens of this walk that have none: asked again, they have gone their way."""
        tokens = [row.token_id for page in self._own_rows() for row in page]
        tokens += [batch.token_id for batch in self._batches()]
        with self._landscape.read() as connection:
            decided = rows.decided(connection, tokens := [*tokens, state.token_id])
        when = now()
        return [
            TokenOutcome(token, self._run_id, Outcome.COMPLETED, state.state_id, when)
            for token in tokens
            if token not in decided
        ]

    def questions_of(self, member: Member) -> Sequence[Question]:
        """The questions of a row that are in the sample."""
        return [question for question in self._questions if question.key in self.sampled[member.row_key]]

    def request_of(self, inquiry: Inquiry) -> Request:
        """The request that the recorded answer was the reply to. Raises ErasedError when it is gone."""
        call_id = self.sampled[inquiry.member.row_key][inquiry.question.key].answer.call_id
        with self._landscape.read() as connection:
            [call] = (Call(*row) for row in connection.execute(calls.select().where(calls.c.call_id == call_id)))
            body = payloads.read(connection, call.request_ref)
        return Request(body, call.request_ref, call.question_hash or call.request_ref, most_tokens_of(json.loads(body)))


class AskingAgain(Conversation):
    """Puts each question by its recorded request, once, and reads the reply by the rules of that run."""

    def __init__(self, verification: Verification, *given: Any) -> None:
        super().__init__(*given)
        self._verification = verification

    async def _values(self, inquiry: Inquiry) -> Mapping[str, Json]:
        try:
            put = await asyncio.to_thread(self._verification.request_of, inquiry)
        except ErasedError as error:
            raise Refused(Refusal.ERASED, f"The recorded request can't be sent again: {error}") from error
        return accepted_values(await self._reply(inquiry, put, Cause.FIRST), inquiry.question.fields)
