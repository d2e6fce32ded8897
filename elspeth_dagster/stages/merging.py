"""A row's answers into its result or its failure.

all_or_nothing: a row with a refused answer has no result. keep_partial: it has one, with empty cells.
Every question that has no answer keeps its own reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.spec import RowPolicy
from elspeth_dagster.stages.querying import Question

Fate = Literal["assessed", "partial", "failed"]


@dataclass(frozen=True)
class MergedRow:
    """A row's fate, its result cells, and the reason of each question that has no answer."""

    fate: Fate
    cells: dict[str, Json]
    reasons: dict[str, str]


def merge(
    questions: tuple[Question, ...],
    values: Mapping[str, Mapping[str, Json]],
    reasons: Mapping[str, str],
    policy: RowPolicy,
) -> MergedRow:
    """Merge a row's accepted `values` and refused `reasons`, both by question key."""
    cells = {
        question.column(name): values.get(question.key, {}).get(name)
        for question in questions
        for name in question.fields
    }
    return MergedRow(_fate(values, reasons, policy), cells, dict(reasons))


def _fate(values: Mapping[str, object], reasons: Mapping[str, str], policy: RowPolicy) -> Fate:
    if not reasons:
        return "assessed"
    return "partial" if policy == "keep_partial" and values else "failed"
