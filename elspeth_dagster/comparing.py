"""A run's sampled answers beside those that the same requests got again, field by field.

Free text never comes back to the letter, so it is compared and shown, and counts in the rate of agreement only where
answers have nothing else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.landscape import answers, payloads, rows
from elspeth_dagster.landscape.answers import GivenAnswer
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import NodeState, Reply
from elspeth_dagster.landscape.rows import AdmittedRow
from elspeth_dagster.landscape.schema import replies
from elspeth_dagster.resources.parquet import Table
from elspeth_dagster.stages.answering import Refusal
from elspeth_dagster.stages.calling import ErrorClass
from elspeth_dagster.stages.querying import Question
from elspeth_dagster.stages.tabling import record_batch

NOT_COMPARED = {*ErrorClass, Refusal.ERASED, Refusal.UNKNOWN_CALL}
CELLS = pa.schema(
    [
        ("row_key", pa.string()),
        ("row_index", pa.int64()),
        ("question", pa.string()),
        ("field", pa.string()),
        ("recorded", pa.string()),
        ("fresh", pa.string()),
        ("agrees", pa.bool_()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("recorded_model", pa.string()),
        ("fresh_model", pa.string()),
        ("recorded_system_fingerprint", pa.string()),
        ("fresh_system_fingerprint", pa.string()),
        ("recorded_call_id", pa.string()),
        ("fresh_call_id", pa.string()),
    ]
)


class Comparison:
    """The cells of a sample, a page at a time, counted as they pass.

    `same` and `changed` count cells by field; a cell without a fresh reply is in neither.
    """

    def __init__(self, landscape: Landscape, run_id: str, node_id: str, asked: Sequence[Question]) -> None:
        self._landscape = landscape
        self._run_id = run_id
        self._node_id = node_id
        kinds = {name: field.type for question in asked for name, field in question.fields.items()}
        self._typed = {name for name, kind in kinds.items() if kind != "string"} or set(kinds)
        self.same: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()
        self.numbers = dict.fromkeys(("questions", "not_compared", "model_changed", "system_fingerprint_changed"), 0)

    def table(self, sampled: Mapping[str, Mapping[str, GivenAnswer]], state: NodeState) -> Table:
        """A row per cell of the sample, which is by row key and question."""
        return Table(CELLS, (record_batch(CELLS, page) for page in self._pages(sampled)), state, self.facts)

    @property
    def agreement(self) -> float | None:
        """The share of compared cells that came back the same; None where none could be compared."""
        same = sum(number for name, number in self.same.items() if name in self._typed)
        changed = sum(number for name, number in self.changed.items() if name in self._typed)
        return same / (same + changed) if same + changed else None

    def facts(self) -> dict[str, Any]:
        """What the comparison came to, in numbers: over all fields that count, and of each field."""
        fields = sorted({*self.same, *self.changed})
        shares = {f"agreement_{name}": self.same[name] / (self.same[name] + self.changed[name]) for name in fields}
        known = {} if self.agreement is None else {"agreement": self.agreement}
        changed = self.changed.total()
        return {**known, **shares, **self.numbers, "cells": self.same.total() + changed, "changed": changed}

    def _pages(self, sampled: Mapping[str, Mapping[str, GivenAnswer]]) -> Iterator[list[dict[str, Json]]]:
        for page in rows.in_source_order(self._landscape, self._run_id, self._node_id):
            with self._landscape.read() as connection:
                given = answers.of_tokens(connection, [row.token_id for row in page])
                pairs = [
                    (row, key, sampled[row.row.row_key][key], fresh)
                    for row in page
                    for key, fresh in given.get(row.token_id, {}).items()
                ]
                came = _replies(connection, [one.answer.call_id for pair in pairs for one in pair[2:]])
            yield [cell for pair in pairs for cell in self._cells(*pair, came)]

    def _cells(
        self, row: AdmittedRow, key: str, recorded: GivenAnswer, fresh: GivenAnswer, came: Mapping[str, Reply]
    ) -> Iterator[dict[str, Json]]:
        old, new = came[recorded.answer.call_id or ""], came.get(fresh.answer.call_id or "")
        self._count_question(old, new)
        for name, value in recorded.values.items():
            again = fresh.values.get(name)
            agrees = None if fresh.answer.reason in NOT_COMPARED else value == again
            self._count_cell(name, agrees)
            yield {
                "row_key": row.row.row_key,
                "row_index": row.row.row_index,
                "question": key,
                "field": name,
                "recorded": json.dumps(value, ensure_ascii=False),
                "fresh": json.dumps(again, ensure_ascii=False) if fresh.is_accepted else None,
                "agrees": agrees,
                "reason": fresh.answer.reason,
                "detail": fresh.answer.detail,
                "recorded_model": old.model,
                "fresh_model": new and new.model,
                "recorded_system_fingerprint": old.system_fingerprint,
                "fresh_system_fingerprint": new and new.system_fingerprint,
                "recorded_call_id": recorded.answer.call_id,
                "fresh_call_id": fresh.answer.call_id,
            }

    def _count_question(self, old: Reply, new: Reply | None) -> None:
        self.numbers["questions"] += 1
        if new is not None and new.model is not None:
            self.numbers["model_changed"] += new.model != old.model
            self.numbers["system_fingerprint_changed"] += new.system_fingerprint != old.system_fingerprint

    def _count_cell(self, name: str, agrees: bool | None) -> None:
        if agrees is None:
            self.numbers["not_compared"] += 1
        else:
            (self.same if agrees else self.changed)[name] += 1


def _replies(connection: sa.Connection, call_ids: Sequence[str | None]) -> dict[str, Reply]:
    wanted = sorted({call_id for call_id in call_ids if call_id})
    found: dict[str, Reply] = {}
    for start in range(0, len(wanted), payloads.AT_ONCE):
        some = replies.select().where(replies.c.call_id.in_(wanted[start : start + payloads.AT_ONCE]))
        found |= {row.call_id: Reply(*row) for row in connection.execute(some)}
    return found
