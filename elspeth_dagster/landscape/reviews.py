"""Reviews: what people said of answers, beside them, and in which runs that is worth something.

A review refers to the very answer that its reviewer read. A later run that takes the reply of the same call for the
same row and question (a replay, a re-execution) gives that answer again, and the review goes for it as well. Where
nothing was sent, the same holds for a row with the same values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from elspeth_dagster.core.canonical import Json, canonical_json
from elspeth_dagster.landscape import payloads
from elspeth_dagster.landscape.ledger import Landscape, insert
from elspeth_dagster.landscape.records import Answer, Erasure, Payload, Review, Run, Scope
from elspeth_dagster.landscape.schema import answers, node_states, reviews, rows, tokens
from elspeth_dagster.stages.reviewing import Judgement

AT_ONCE = 500
AnswerKey = tuple[str, str, str]
"""A state, a row's token, a question: the key of an answer."""


class ReviewGiven(NamedTuple):
    """A review, with the values that it gives in place of the answer's; none where they were erased."""

    review: Review
    values: dict[str, Json]
    erased: Erasure | None = None


class AnswerOfRow(NamedTuple):
    """An answer with its values, none where they were erased; whose row and node it is."""

    answer: Answer
    values: dict[str, Json]
    row_key: str
    node_id: str
    erased: Erasure | None = None


class Said(NamedTuple):
    """A review that is to be put on record, with the payload of what it corrects. Its number is told there."""

    review: Review
    corrected: Payload | None


def saying(review: Review, corrected: Mapping[str, Json], scope: Scope | None) -> Said:
    """A review with what it corrects, which is of the row's scope."""
    payload = Payload.of(canonical_json(corrected), scope) if corrected else None
    return Said(review._replace(values_ref=payload and payload.ref), payload)


def put(landscape: Landscape, said: Sequence[Said]) -> int:
    """Put reviews on record, all or none; return how many were new.

    One that the same file brought before, or that says what its reviewer last said of the answer, is not new. Raises
    AuditError when the database refuses one.
    """

    def put_new(connection: sa.Connection) -> int:
        known = _by_reviewer(connection, {each.review.state_id for each in said})
        brought = [each for each in said if each.review._replace(number=0) in _numberless(known, each.review)]
        new = [numbered for each in said if (numbered := _numbered(each, known)) is not None]
        insert(connection, [*(each.corrected for each in new if each.corrected), *(each.review for each in new)])
        return len(brought) + len(new)

    return landscape.decide(put_new)


Known = Mapping[tuple[str, ...], list[Review]]


def _by_reviewer(connection: sa.Connection, state_ids: Iterable[str]) -> Known:
    """What is on record of these states' answers, by answer and reviewer, in the order in which it was said."""
    known: dict[tuple[str, ...], list[Review]] = {}
    for some in _pages(state_ids):
        there = reviews.select().where(reviews.c.state_id.in_(some)).order_by(reviews.c.number)
        for row in connection.execute(there):
            review = Review(*row)
            known.setdefault(_whose(review), []).append(review)
    return known


def _pages(names: Iterable[str]) -> Iterator[list[str]]:
    ordered = sorted(set(names))
    return (ordered[start : start + AT_ONCE] for start in range(0, len(ordered), AT_ONCE))


def _whose(review: Review) -> tuple[str, ...]:
    return review.state_id, review.token_id, review.query_key, review.reviewer


def _numberless(known: Known, review: Review) -> list[Review]:
    """Those on record by the same reviewer: the very same one is there when a commit arrived whose answer was lost."""
    return [each._replace(number=0) for each in known.get(_whose(review), [])]


def _numbered(said: Said, known: Known) -> Said | None:
    earlier = known.get(_whose(said.review), [])
    if any(each.file_hash == said.review.file_hash for each in earlier) or (
        earlier and _words(earlier[-1]) == _words(said.review)
    ):
        return None
    return said._replace(review=said.review._replace(number=len(earlier) + 1))


def _words(review: Review) -> tuple[object, ...]:
    return review.verdict, review.reason, review.values_ref


def answers_by_key(connection: sa.Connection, keys: Iterable[AnswerKey]) -> dict[AnswerKey, AnswerOfRow]:
    """Those of some answers that are on record."""
    wanted = set(keys)
    found: dict[AnswerKey, tuple[Answer, str, str]] = {}
    for some in _pages(state_id for state_id, *_ in wanted):
        for row in connection.execute(_answers_of_rows().where(answers.c.state_id.in_(some))):
            answer = Answer(*row[: len(Answer._fields)])
            if (key := (answer.state_id, answer.token_id, answer.query_key)) in wanted:
                found[key] = answer, row.row_key, row.node_id
    values = _values(connection, [answer.values_ref for answer, *_ in found.values()])
    return {key: _of_row(*one, *values(one[0].values_ref)) for key, one in found.items()}


def _of_row(answer: Answer, row_key: str, node_id: str, values: dict[str, Json], erased: Erasure | None) -> AnswerOfRow:
    return AnswerOfRow(answer, values, row_key, node_id, erased)


def _answers_of_rows() -> sa.Select[Any]:
    return (
        sa.select(*answers.c, rows.c.row_key, node_states.c.node_id)
        .join(node_states, node_states.c.state_id == answers.c.state_id)
        .join(tokens, tokens.c.token_id == answers.c.token_id)
        .join(rows, rows.c.row_id == tokens.c.row_id)
    )


def _values(
    connection: sa.Connection, refs: Iterable[str | None]
) -> Callable[[str | None], tuple[dict[str, Json], Erasure | None]]:
    """What payloads hold, by name; none where they were erased, and how."""
    bodies = payloads.read_or_erased(connection, [ref for ref in refs if ref is not None])
    return lambda ref: ({}, None) if ref is None else payloads.values_in(bodies[ref])


def of_answers(connection: sa.Connection, keys: Iterable[AnswerKey]) -> list[tuple[AnswerKey, ReviewGiven]]:
    """The reviews of some answers, each with the answer's key, in the order in which they were said."""
    wanted = set(keys)
    found = []
    for some in _pages(state_id for state_id, *_ in wanted):
        of_tokens = reviews.c.token_id.in_(sorted({token_id for _, token_id, _ in wanted}))
        there = reviews.select().where(reviews.c.state_id.in_(some), of_tokens)
        found += [Review(*row) for row in connection.execute(there)]
    found = sorted((review for review in found if review[:3] in wanted), key=_when)
    values = _values(connection, [review.values_ref for review in found])
    return [(review[:3], ReviewGiven(review, *values(review.values_ref))) for review in found]


def _when(review: Review) -> tuple[object, ...]:
    return review.reviewed_at, review.number, review.reviewer


class _Candidate(NamedTuple):
    review: Review
    answer: Answer
    row_key: str
    row_values_ref: str


def about_run(connection: sa.Connection, run: Run, node_id: str) -> list[Judgement]:
    """What was said of the answers that a run gives at a node, in the order in which it was said.

    The tokens are this run's, also where another run's answer to the same was reviewed.
    """
    candidates = _of_slices(connection, run.partition_keys, node_id)
    own = _origins(connection, run.run_id, node_id, [each.row_key for each in candidates])
    found = []
    for each in candidates:
        token_id, origin = own.get((each.row_key, each.answer.query_key), ("", None))
        if origin == _origin(each.answer, each.row_values_ref):
            found.append((token_id, each))
    values = _values(connection, [ref for _, each in found for ref in (each.answer.values_ref, each.review.values_ref)])
    return [
        _judgement(token_id, each, values(each.answer.values_ref), values(each.review.values_ref))
        for token_id, each in found
    ]


def _judgement(
    token_id: str,
    each: _Candidate,
    given: tuple[dict[str, Json], Erasure | None],
    corrected: tuple[dict[str, Json], Erasure | None],
) -> Judgement:
    return Judgement(
        token_id=token_id,
        row_key=each.row_key,
        question=each.answer.query_key,
        reviewer=each.review.reviewer,
        verdict=each.review.verdict.value,
        given=given[0],
        corrected=corrected[0],
        is_erased=bool(given[1] or corrected[1]),
    )


def _of_slices(connection: sa.Connection, partition_keys: str, node_id: str) -> list[_Candidate]:
    """The reviews of answers that any run gave at a node about these partitions, alone or with others, or about none.

    People write few: all are looked at.
    """
    partitions, here = json.loads(partition_keys), rows.c.partition_key
    same_answer = sa.and_(*(reviews.c[name] == answers.c[name] for name in ("state_id", "token_id", "query_key")))
    of_slice = (
        sa.select(*reviews.c, *answers.c, rows.c.row_key, rows.c.values_ref.label("row_values_ref"))
        .join(answers, same_answer)
        .join(node_states, node_states.c.state_id == answers.c.state_id)
        .join(tokens, tokens.c.token_id == answers.c.token_id)
        .join(rows, rows.c.row_id == tokens.c.row_id)
        .where(here.in_(partitions) if partitions else here.is_(None), node_states.c.node_id == node_id)
        .order_by(reviews.c.reviewed_at, reviews.c.number, reviews.c.reviewer)
    )
    end = len(Review._fields)
    return [
        _Candidate(Review(*row[:end]), Answer(*row[end:-2]), row.row_key, row.row_values_ref)
        for row in connection.execute(of_slice)
    ]


def _origin(answer: Answer, row_values_ref: str) -> tuple[str, str]:
    """What makes two answers to a question about a row the same: their call; without one, what the row says."""
    return ("row", row_values_ref) if answer.call_id is None else ("call", answer.call_id)


def _origins(
    connection: sa.Connection, run_id: str, node_id: str, row_keys: Iterable[str]
) -> dict[tuple[str, str], tuple[str, tuple[str, str]]]:
    """By row key and question: the row's token, and where the answer of its latest attempt comes from."""
    found = {}
    for some in _pages(row_keys):
        given = (
            sa.select(*answers.c, rows.c.row_key, rows.c.values_ref.label("row_values_ref"))
            .select_from(rows)
            .join(tokens, tokens.c.row_id == rows.c.row_id)
            .join(answers, answers.c.token_id == tokens.c.token_id)
            .join(node_states, node_states.c.state_id == answers.c.state_id)
            .where(rows.c.run_id == run_id, rows.c.row_key.in_(some), node_states.c.node_id == node_id)
            .order_by(node_states.c.attempt)
        )
        for row in connection.execute(given):
            answer = Answer(*row[:-2])
            found[row.row_key, answer.query_key] = answer.token_id, _origin(answer, row.row_values_ref)
    return found
