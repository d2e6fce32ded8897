"""What has been done and spent so far, counted as it happens: for progress lines, metadata and a state's end."""

from __future__ import annotations

from dataclasses import dataclass

from elspeth_dagster.landscape.records import Reply
from elspeth_dagster.landscape.words import Cause, ReplyOutcome


@dataclass
class Counts:
    """Questions and calls; costs in nano-US-dollars, of the calls whose price is known."""

    rows: int = 0
    questions: int = 0
    accepted: int = 0
    refused: int = 0
    reused: int = 0
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

    def add_answer(self, *, accepted: bool, reused: bool) -> None:
        """Count a question that is settled; `reused`: by replies that were on record, without a call."""
        self.questions += 1
        self.reused += reused
        self.accepted += accepted
        self.refused += not accepted
