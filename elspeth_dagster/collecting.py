"""A slice's record into its outcomes and tables: every row read back in source order, a page at a time.

Of a run with several partitions each has tables of its own. They come from the record alone, whatever step, attempt or
host asked the questions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import pyarrow as pa

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.errors import AuditError, LandscapeError
from elspeth_dagster.core.naming import Some
from elspeth_dagster.landscape import answers, batches, reviews, rows, runs
from elspeth_dagster.landscape.answers import GivenAnswer
from elspeth_dagster.landscape.ledger import Landscape, now
from elspeth_dagster.landscape.records import NodeState, RowRejection, TokenOutcome
from elspeth_dagster.landscape.rows import AdmittedRow, Part
from elspeth_dagster.landscape.words import Outcome
from elspeth_dagster.resources.parquet import Table
from elspeth_dagster.stages import tabling
from elspeth_dagster.stages.answering import Refusal
from elspeth_dagster.stages.merging import MergedRow, merge
from elspeth_dagster.stages.querying import questions
from elspeth_dagster.stages.reviewing import Judgement, latest_by_question, review_cells
from elspeth_dagster.summarising import Summary

NANO = 1e9
ANSWERS_AT_ONCE = 5000


class Collected(NamedTuple):
    """A row, what became of it, and its answers by question."""

    admitted: AdmittedRow
    merged: MergedRow
    given: Mapping[str, GivenAnswer]


class Collector:
    """Reads one slice of one run back; `parts` are what of it belongs to which partition."""

    def __init__(self, landscape: Landscape, assessment: Assessment, run_id: str, state: NodeState) -> None:
        self._landscape = landscape
        self.assessment = assessment
        self._spec = assessment.spec
        self._questions = questions(assessment)
        self.run_id = run_id
        self._state = state
        self._admit_node = f"{self._spec.name}.admit_rows"
        self._aggregate_node = f"{self._spec.name}.aggregate_rows"
        with landscape.read() as connection:
            partitions = json.loads(runs.get(connection, run_id).partition_keys)
            self.parts = rows.parts(connection, run_id, self._admit_node, partitions)
        self._judgements = self._said() if self._spec.review else []
        self._last_said = latest_by_question(self._judgements)
        self._partition_of: dict[str, str | None] = {each.token_id: None for each in self._judgements}

    def _said(self) -> list[Judgement]:
        """What people said, up to now, of the answers that are collected here."""
        with self._landscape.read() as connection:
            run = runs.get(connection, self.run_id)
            return reviews.about_run(connection, run, f"{self._spec.name}.ask_batches")

    def decide_outcomes(self) -> dict[str | None, Counter[str]]:
        """Give every row and batch of the slice its one fate; return how many rows of each partition had which.

        Raises, before any fate is decided, AuditError when a question has no answer on record, LandscapeError when a
        replay found no reply to one.
        """
        self._check_all_answered()
        fates: dict[str | None, Counter[str]] = {part.partition: Counter() for part in self.parts}
        for page in self._pages():
            for row in page:
                fates[row.admitted.row.partition_key][row.merged.fate] += 1
                if row.admitted.token_id in self._partition_of:
                    self._partition_of[row.admitted.token_id] = row.admitted.row.partition_key
            self._record({row.admitted.token_id: Outcome(row.merged.fate) for row in page})
        for flushed in batches.of_node(self._landscape, self.run_id, self._aggregate_node):
            self._record({batch.token_id: Outcome.COMPLETED for batch in flushed})
        return fates

    def judgements(self, part: Part) -> list[Judgement]:
        """What people said of the answers of a part; known once its outcomes are decided."""
        return [each for each in self._judgements if self._partition_of[each.token_id] == part.partition]

    def complete(self, token_id: str) -> None:
        """Decide the fate of the slice itself."""
        self._record({token_id: Outcome.COMPLETED})

    def _check_all_answered(self) -> None:
        wanted = {question.key for question in self._questions}
        lacking, missed = Some(), Some()
        for page in self._answered():
            lacking.add(row.row.row_key for row, given in page if not wanted <= set(given))
            missed.add(str(one.answer.detail) for _, given in page for one in given.values() if _was_missed(one))
        if lacking:
            raise AuditError(
                f"{lacking.number} rows have questions without an answer on record ({lacking}): "
                "a step that asks them did not finish. Launch the partition again."
            )
        if missed:
            raise LandscapeError(
                f"{missed.number} questions can't be replayed, so the tables stay as they are. {' '.join(missed.first)}"
            )

    def _record(self, fates: Mapping[str, Outcome]) -> None:
        with self._landscape.read() as connection:
            decided = rows.decided(connection, list(fates))
        self._landscape.write(
            *(
                TokenOutcome(token, self.run_id, fate, self._state.state_id, now())
                for token, fate in fates.items()
                if token not in decided
            )
        )

    def _answered(self, span: range | None = None) -> Iterator[list[tuple[AdmittedRow, Mapping[str, GivenAnswer]]]]:
        at_once = max(1, ANSWERS_AT_ONCE // len(self._questions))
        for page in rows.in_source_order(self._landscape, self.run_id, self._admit_node, at_once, span):
            with self._landscape.read() as connection:
                given = answers.of_tokens(connection, [row.token_id for row in page])
            yield [(row, given.get(row.token_id, {})) for row in page]

    def _pages(self, span: range | None = None) -> Iterator[list[Collected]]:
        for page in self._answered(span):
            yield [Collected(row, self._merge(given), given) for row, given in page]

    def _merge(self, given: Mapping[str, GivenAnswer]) -> MergedRow:
        values = {key: answer.values for key, answer in given.items() if answer.is_accepted}
        reasons = {key: _reason(answer) for key, answer in given.items() if not answer.is_accepted}
        return merge(self._questions, values, reasons, self._spec.errors.row)

    def table(self, name: str, part: Part) -> Table:
        """One of the four tables, of a part of the slice."""
        make: dict[str, Callable[[range | None], Table]] = {
            "results": self._results,
            "answers": self._answers,
            "failures": self._failures,
            "rejections": self._rejections,
        }
        return make[name](part.span)

    def _results(self, span: range | None) -> Table:
        """A row per row that has a result: its source columns, its answers, and what was said of these."""
        schema = tabling.results_schema(self._spec, self._questions)
        written = self._table(schema, lambda row: [self._result(row)] if row.merged.fate != "failed" else [], span)
        return Summary(self._spec, self._questions).of(written)

    def _result(self, row: Collected) -> dict[str, Json]:
        result = {**row.admitted.values, **row.merged.cells}
        for question in self._questions:
            if said := self._last_said.get((row.admitted.token_id, question.key)):
                result |= review_cells(question, said)
        return result

    def _failures(self, span: range | None) -> Table:
        """A row per row without all its answers: its source columns and each question's own reason."""
        schema = tabling.failures_schema(self._spec, self._questions)
        return self._table(schema, lambda row: [_failure(row)] if row.merged.reasons else [], span)

    def _answers(self, span: range | None) -> Table:
        """A row per row and question."""
        schema = tabling.answers_schema(self._spec, self._questions)
        return self._table(schema, self._answer_rows, span)

    def _rejections(self, span: range | None) -> Table:
        """A row per record that never became a row."""
        pages = rows.rejections(self._landscape, self.run_id, self._admit_node, span)
        found = (tabling.record_batch(tabling.REJECTIONS, [_rejected(*one) for one in page]) for page in pages)
        return Table(tabling.REJECTIONS, found, self._state)

    def _table(
        self, schema: pa.Schema, lines: Callable[[Collected], list[dict[str, Json]]], span: range | None
    ) -> Table:
        pages = self._pages(span)
        found = (tabling.record_batch(schema, [line for row in page for line in lines(row)]) for page in pages)
        return Table(schema, found, self._state)

    def _answer_rows(self, row: Collected) -> list[dict[str, Json]]:
        key = {name: row.admitted.values[name] for name in self._spec.source.key}
        place = {**key, "row_index": row.admitted.row.row_index}
        return [{**place, "question": question.key, **_answer(row.given[question.key])} for question in self._questions]


def _was_missed(given: GivenAnswer) -> bool:
    return given.answer.reason in (Refusal.NOT_ON_RECORD, Refusal.ERASED)


def _reason(given: GivenAnswer) -> str:
    return f"{given.answer.reason}: {given.answer.detail}" if given.answer.detail else str(given.answer.reason)


def _failure(row: Collected) -> dict[str, Json]:
    return {**row.admitted.values, **{f"{key}_reason": reason for key, reason in row.merged.reasons.items()}}


def _answer(given: GivenAnswer) -> dict[str, Json]:
    answer, taken = given.answer, given.taken
    return {
        **given.values,
        "status": answer.status.value,
        "reason": answer.reason,
        "detail": answer.detail,
        "reused": given.is_reused,
        "attempts": taken.calls,
        "prompt_tokens": taken.prompt_tokens,
        "completion_tokens": taken.completion_tokens,
        "cost_usd": None if taken.cost_nanousd is None else taken.cost_nanousd / NANO,
        "latency_ms": None if taken.latency_us is None else taken.latency_us / 1000,
        "model": taken.model,
        "run_id": answer.run_id,
        "state_id": answer.state_id,
        "call_id": answer.call_id,
    }


def _rejected(rejection: RowRejection, raw: bytes) -> dict[str, Json]:
    return {
        "row_index": rejection.row_index,
        "line": rejection.line,
        "column": rejection.column_name,
        "reason": rejection.reason,
        "message": rejection.message,
        "raw": raw.decode("utf-8", "backslashreplace"),
    }
