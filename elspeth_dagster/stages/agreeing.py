"""How far reviewers and the model agree: Krippendorff's alpha of each numeric field, at interval level.

1 is full agreement, 0 what chance would give, below 0 worse than that (K. Krippendorff, Content Analysis, ch. 12). The
raters are the model and each reviewer, the units are the answers that somebody reviewed. A rejected answer has no value
from who rejected it. An agreement by somebody who saw the model's value is no blind second rating: read alpha as an
upper bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.stages.querying import Question
from elspeth_dagster.stages.reviewing import Judgement, latest_by_reviewer

MODEL = ""
FEWEST = 2
NUMERIC = ("integer", "number")
Ratings = dict[str, float]
"""One answer's values by rater; the model's under the empty name."""


class Agreement(NamedTuple):
    """Alpha of a field, of one question or (None) of all together, over so many answers with at least two values.

    No alpha where it can't be told; then `why` says why.
    """

    field: str
    question: str | None
    answers: int
    reviewers: int
    alpha: float | None
    why: str | None


def agreements(judgements: Iterable[Judgement], asked: Sequence[Question]) -> list[Agreement]:
    """For each numeric field the agreement over all its questions, then that of each of them.

    The judgements come in the order in which they were said. Of what was erased nobody's value is known: it counts for
    nothing.
    """
    last = latest_by_reviewer(judgements)
    found = []
    for name in dict.fromkeys(name for question in asked for name in _numeric(question)):
        having = [question.key for question in asked if name in _numeric(question)]
        found.append(_agreement(name, None, [each for each in last if each.question in having]))
        found += [_agreement(name, key, [each for each in last if each.question == key]) for key in having]
    return found


def _numeric(question: Question) -> list[str]:
    return [name for name, field in question.fields.items() if field.type in NUMERIC]


def _agreement(field: str, question: str | None, said: Sequence[Judgement]) -> Agreement:
    by_answer: dict[tuple[str, str], Ratings] = {}
    for each in said:
        ratings = by_answer.setdefault((each.token_id, each.question), {})
        ratings |= _rating(MODEL, each.given.get(field)) | _rating(each.reviewer, each.held.get(field))
    units = [ratings for ratings in by_answer.values() if len(ratings) >= FEWEST]
    reviewers = {rater for ratings in units for rater in ratings} - {MODEL}
    why = _why_none(units)
    alpha = None if why else _alpha(units)
    return Agreement(field, question, len(units), len(reviewers), alpha, why)


def _rating(rater: str, value: Json) -> Ratings:
    return {rater: float(value)} if isinstance(value, int | float) else {}


def _why_none(units: Sequence[Ratings]) -> str | None:
    if len(units) < FEWEST:
        return f"too few: it takes {FEWEST} answers with a value of the model and of a reviewer"
    if len({value for ratings in units for value in ratings.values()}) < FEWEST:
        return "all values are the same, and so say nothing about agreement"
    return None


def _alpha(units: Sequence[Ratings]) -> float:
    # Here, because definitions are loaded far more often than agreement is told, and numpy is slow to import.
    import krippendorff

    raters = sorted({rater for ratings in units for rater in ratings})
    table = [[ratings.get(rater, float("nan")) for ratings in units] for rater in raters]
    return float(krippendorff.alpha(table, level_of_measurement="interval"))
