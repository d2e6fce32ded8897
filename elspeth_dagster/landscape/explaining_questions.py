"""Explain a row's questions: each with its calls and replies, and the answer with the call that it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.errors import NotOnRecordError
from elspeth_dagster.landscape import payloads, planned, reviews, schema
from elspeth_dagster.landscape.explanation import (
    AnswerGiven,
    Attempt,
    CallMade,
    Origin,
    QuestionAsked,
    content,
    present,
    values_of,
)
from elspeth_dagster.landscape.finding import (
    joined_records,
    near_to,
)
from elspeth_dagster.landscape.records import (
    Answer,
    Call,
    Erasure,
    Node,
    Reply,
)
from elspeth_dagster.landscape.reviews import AnswerKey, ReviewGiven


def questions_of(
    connection: sa.Connection, node: Node, token_id: str, attempts: Sequence[Attempt], question: str | None
) -> tuple[QuestionAsked, ...]:
    """The questions in plan order; those that nothing is on record of yet are among them."""
    number = {attempt.state.state_id: attempt.state.attempt for attempt in attempts}
    answers = _answers(connection, token_id, number, question)
    calls = _calls(connection, token_id, number, question, answers)
    plan = planned_questions(payloads.read_json(connection, node.config_ref))
    asked = [made.call.query_key for made in calls if made.attempt is not None]
    on_record = asked + [given.answer.query_key for given in answers]
    known = list(dict.fromkeys(plan + on_record))
    if question is not None and question not in known:
        raise NotOnRecordError(f"{node.assessment} has no question {question!r}; {near_to(question, known)}")
    wanted = known if question is None else [question]
    return tuple(_question(key, calls, answers) for key in wanted)


def planned_questions(config: Json) -> list[str]:
    """The questions' keys in the order of the recorded spec."""
    return [question.key for question in planned.questions(config)]


def _question(key: str, calls: Sequence[CallMade], answers: Sequence[AnswerGiven]) -> QuestionAsked:
    """A call of another run belongs to the question whose answer was taken from it, whatever it asked there."""
    given = [each for each in answers if each.answer.query_key == key]
    linked = {each.taken_from.call_id for each in given if each.taken_from is not None}
    return QuestionAsked(
        key=key,
        calls=tuple(
            made
            for made in calls
            if made.call.call_id in linked or (made.attempt is not None and made.call.query_key == key)
        ),
        answer=given[-1] if given else None,
        earlier_answers=tuple(given[:-1]),
    )


def _answers(
    connection: sa.Connection, token_id: str, number: Mapping[str, int], question: str | None
) -> list[AnswerGiven]:
    given = _answers_with_origins().where(schema.answers.c.token_id == token_id)
    if question is not None:
        given = given.where(schema.answers.c.query_key == question)
    found = [(*joined_records(row, Answer), row) for row in connection.execute(given)]
    bodies = payloads.read_or_erased(connection, [answer.values_ref for answer, _ in found if answer.values_ref])
    said = reviews.of_answers(connection, [key for _, row in found for key in _reviewed_as(row)])
    return [_given(bodies, answer, row, number, said) for answer, row in found]


def _given(
    bodies: Mapping[str, bytes | Erasure],
    answer: Answer,
    row: Any,
    number: Mapping[str, int],
    said: Sequence[tuple[AnswerKey, ReviewGiven]],
) -> AnswerGiven:
    values, erased = values_of(bodies, answer.values_ref)
    return AnswerGiven(
        answer=answer,
        attempt=row.by_attempt,
        values=None if erased or answer.values_ref is None else values,
        taken_from=_origin(row, number),
        reviews=tuple(review for key, review in said if key in _reviewed_as(row)),
        erased=erased,
    )


def _reviewed_as(row: Any) -> list[AnswerKey]:
    """The keys of an answer that a review of it can have: its own, and of the answer that its call was made for."""
    own = (row.state_id, row.token_id, row.query_key)
    is_the_same = row.from_row_key == row.own_row_key and row.from_query_key == row.query_key
    return [own, (row.from_state_id, row.from_token_id, row.query_key)] if is_the_same else [own]


def _answers_with_origins() -> sa.Select[Any]:
    """The answers in the order of attempts, each beside the call that it comes from, if another state made it."""
    answers, states, calls, tokens, rows_ = (
        schema.answers, schema.node_states, schema.calls, schema.tokens, schema.rows,
    )  # fmt: skip
    of_call = (calls.c.run_id, calls.c.state_id, calls.c.token_id, calls.c.query_key, calls.c.sent_at)
    taken_from = [*(column.label(f"from_{column.name}") for column in of_call), rows_.c.row_key.label("from_row_key")]
    own_token, own_row = tokens.alias("own_token"), rows_.alias("own_row")
    return (
        sa.select(*answers.c, states.c.attempt.label("by_attempt"), *taken_from, own_row.c.row_key.label("own_row_key"))
        .join(own_token, own_token.c.token_id == answers.c.token_id)
        .join(own_row, own_row.c.row_id == own_token.c.row_id)
        .join(states, states.c.state_id == answers.c.state_id)
        .outerjoin(calls, (calls.c.call_id == answers.c.call_id) & (calls.c.state_id != answers.c.state_id))
        .outerjoin(tokens, tokens.c.token_id == calls.c.token_id)
        .outerjoin(rows_, rows_.c.row_id == tokens.c.row_id)
        .order_by(states.c.attempt)
    )


def _origin(row: Any, number: Mapping[str, int]) -> Origin | None:
    if row.from_run_id is None:
        return None
    attempt = number.get(row.from_state_id)
    return Origin(row.call_id, row.from_run_id, row.from_state_id, attempt, row.from_row_key, row.from_sent_at)


def _calls(
    connection: sa.Connection,
    token_id: str,
    number: Mapping[str, int],
    question: str | None,
    answers: Sequence[AnswerGiven],
) -> list[CallMade]:
    """The calls made for the row, after those of earlier runs that answers come from."""
    own = [schema.calls.c.state_id.in_(list(number)), schema.calls.c.token_id == token_id]
    if question is not None:
        own.append(schema.calls.c.query_key == question)
    made = _with_replies(connection, *own)
    absent = {each.answer.call_id for each in answers} - {call.call_id for call, _ in made} - {None}
    linked = _with_replies(connection, schema.calls.c.call_id.in_(absent)) if absent else []
    ordered = sorted(made, key=lambda pair: (number[pair[0].state_id], pair[0].call_index, pair[0].query_attempt))
    in_time = sorted(linked, key=lambda pair: pair[0].sent_at)
    reused = {each.taken_from.call_id for each in answers if each.taken_from is not None}
    return _with_payloads(connection, [*in_time, *ordered], number, reused)


def _with_replies(connection: sa.Connection, *which: sa.ColumnElement[bool]) -> list[tuple[Call, Reply | None]]:
    joined = (
        sa.select(*schema.calls.c, *schema.replies.c)
        .outerjoin(schema.replies, schema.replies.c.call_id == schema.calls.c.call_id)
        .where(*which)
    )
    return [joined_records(row, Call, Reply) for row in connection.execute(joined)]


def _with_payloads(
    connection: sa.Connection, made: Sequence[tuple[Call, Reply | None]], number: Mapping[str, int], reused: set[str]
) -> list[CallMade]:
    refs = {ref for call, _ in made for ref in (call.head_ref, call.request_ref)}
    refs |= {reply.body_ref for _, reply in made if reply is not None and reply.body_ref is not None}
    bodies = payloads.read_or_erased(connection, refs)
    return [
        CallMade(
            call=call,
            attempt=number.get(call.state_id),
            is_reused=call.call_id in reused,
            head=present(bodies, call.head_ref).json,
            request=present(bodies, call.request_ref),
            reply=reply,
            body=content(bodies, reply and reply.body_ref),
        )
        for call, reply in made
    ]
