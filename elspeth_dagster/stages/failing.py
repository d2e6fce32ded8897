"""How many rows of a slice may fail before it is stopped."""

from __future__ import annotations

from decimal import Decimal

from elspeth_dagster.stages.answering import Refusal

NOT_ASKED = frozenset({Refusal.BLANK_INPUT, Refusal.ROW_NOT_ASKED})
"""Gaps in the source, which say nothing about prompt, model or provider: such rows don't count."""


def allowed_failures(max_failures: float, rows: int) -> int:
    """The most rows that may fail: a share of all rows below 1, else their number."""
    exact = Decimal(str(max_failures))
    return int(exact * rows) if exact < 1 else int(exact)
