"""Failing early: when more rows of a run have failed than may, nothing more is sent.

A gate that counts the rows with a refused answer: those of this step as they come, those of the run's other steps by
the record, every few seconds.
"""

from __future__ import annotations

import asyncio
import time

from elspeth_dagster.calling import Inquiry
from elspeth_dagster.core.errors import FailuresError
from elspeth_dagster.landscape import answers
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Reply
from elspeth_dagster.landscape.states import Execution
from elspeth_dagster.stages.calling import Exchange
from elspeth_dagster.stages.failing import NOT_ASKED, allowed_failures
from elspeth_dagster.stages.querying import Request

LOOK_SECONDS = 3.0
SHARE_OF_TIME = 0.02
EXAMPLES = 3


class Failures:
    """The failed rows of a run, as one of its steps sees them. Belongs to one event loop."""

    def __init__(self, landscape: Landscape, execution: Execution, max_failures: float, rows: int) -> None:
        self._landscape = landscape
        self._execution = execution
        self._max_failures = max_failures
        self._rows = rows
        self._allowed = allowed_failures(max_failures, rows)
        self._own: set[str] = set()
        self._next_look = 0.0
        self._too_many: FailuresError | None = None

    def note(self, inquiry: Inquiry) -> None:
        """Count a refused answer's row. Raises FailuresError when that is one too many."""
        if inquiry.refusal not in NOT_ASKED:
            self._own.add(inquiry.member.token_id)
        self._check(len(self._own))

    async def enter(self, request: Request) -> None:
        """Let a call through as long as no more rows have failed than may. Raises FailuresError."""
        if self._too_many is not None:
            raise self._too_many
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            await self._look()

    def leave(self, taken: None, exchange: Exchange | None, reply: Reply | None) -> None:
        """Nothing is taken."""

    async def _look(self) -> None:
        """Count by the record, and more seldom when that takes long."""
        began = time.monotonic()
        self._check(await asyncio.to_thread(self._on_record))
        took = time.monotonic() - began
        self._next_look = time.monotonic() + max(LOOK_SECONDS, took / SHARE_OF_TIME)

    def _on_record(self) -> int:
        with self._landscape.read() as connection:
            return answers.failed_rows(connection, self._execution.run_id, self._execution.node_id, NOT_ASKED)

    def _check(self, failed: int) -> None:
        if failed > self._allowed:
            self._too_many = self._too_many or FailuresError(self._why(failed))
            raise self._too_many

    def _why(self, failed: int) -> str:
        here = self._execution.run_id, self._execution.node_id
        with self._landscape.read() as connection:
            reasons, some = answers.refusals(connection, *here, NOT_ASKED, EXAMPLES)
        counts = ", ".join(f"{count} × {reason}" for reason, count in reasons.items())
        examples = "; ".join(f"{row.query_key} of {row.row_key}: {row.detail or row.reason}" for row in some)
        return (
            f"{failed} of {self._rows} rows failed, errors.max_failures is {self._max_failures:g}: at most "
            f"{self._allowed} may. Refused: {counts}. For example {examples} Mend the cause, or raise "
            "errors.max_failures, and launch again: what is answered is not asked again."
        )
