"""Answers of a slice's rows, with what each took: the calls made for it, their usage and cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.landscape import payloads
from elspeth_dagster.landscape.records import Answer, Erasure
from elspeth_dagster.landscape.schema import answers, calls, node_states, replies, rows, tokens
from elspeth_dagster.landscape.words import AnswerStatus

AT_ONCE = 500


@dataclass(frozen=True)
class Taken:
    """What the calls for one question of one row took, all tries of an attempt together. None: none reported it.

    `state_id` is the attempt that made them; None where nothing was asked.
    """

    state_id: str | None = None
    calls: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_nanousd: int | None = None
    latency_us: int | None = None
    model: str | None = None


@dataclass(frozen=True)
class GivenAnswer:
    """An answer with its values (empty when refused or erased) and what it took, when its calls were made."""

    answer: Answer
    values: dict[str, Json]
    taken: Taken
    erased: Erasure | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether the question has an answer."""
        return self.answer.status is AnswerStatus.ACCEPTED

    @property
    def is_reused(self) -> bool:
        """Whether its reply was asked for by an earlier attempt or run."""
        return self.taken.state_id not in (None, self.answer.state_id)


def of_tokens(
    connection: sa.Connection, token_ids: Sequence[str], *, also_erased: bool = False
) -> dict[str, dict[str, GivenAnswer]]:
    """For each row's token its answers by question; those of the latest attempt count.

    Raises ErasedError for an answer whose values were erased, unless these are wanted too.
    """
    newest = latest(connection, token_ids)
    refs = [answer.values_ref for answer in newest.values() if answer.values_ref]
    values = payloads.read_or_erased(connection, refs) if also_erased else payloads.read_many(connection, refs)
    took = taken(connection, newest.values())
    given: dict[str, dict[str, GivenAnswer]] = defaultdict(dict)
    for (token_id, query_key), answer in newest.items():
        found, erased = payloads.values_in(values[answer.values_ref]) if answer.values_ref else ({}, None)
        given[token_id][query_key] = GivenAnswer(answer, found, took.get(answer.call_id or "", Taken()), erased)
    return given


class FailedRow(NamedTuple):
    """A question that a row failed by."""

    row_key: str
    query_key: str
    reason: str
    detail: str | None


def failed_rows(connection: sa.Connection, run_id: str, node_id: str, but: Iterable[str]) -> int:
    """How many rows of a run have a refused answer, for other reasons than those of `but`, in their latest attempt."""
    distinct = sa.select(sa.func.count(answers.c.token_id.distinct()))
    return connection.scalar(_refused(distinct, run_id, node_id, but)) or 0


def refusals(
    connection: sa.Connection, run_id: str, node_id: str, but: Iterable[str], examples: int
) -> tuple[dict[str, int], list[FailedRow]]:
    """The same answers: how many were refused for which reason, the commonest first, and some of them."""
    of_answer = (rows.c.row_key, answers.c.query_key, answers.c.reason, answers.c.detail)
    found = sa.select(*of_answer).order_by(answers.c.decided_at).limit(examples)
    counted = sa.select(answers.c.reason, sa.func.count().label("n")).group_by(answers.c.reason)
    counts = connection.execute(_refused(counted, run_id, node_id, but).order_by(sa.desc("n"), answers.c.reason))
    some = _refused(found, run_id, node_id, but)
    some = some.join(tokens, tokens.c.token_id == answers.c.token_id).join(rows, rows.c.row_id == tokens.c.row_id)
    return {row.reason: row.n for row in counts}, [FailedRow(*row) for row in connection.execute(some)]


class FailedRows(NamedTuple):
    """How many rows have an answer that was refused for a reason, and the keys of the first of them."""

    reason: str
    rows: int
    row_keys: list[str]


def failed_by_reason(
    connection: sa.Connection,
    run_id: str,
    node_id: str,
    examples: int,
    where: sa.ColumnElement[bool] | None = None,
) -> list[FailedRows]:
    """The rows of a run with a refused answer in their latest attempt, by reason, the commonest first.

    `where` is what must hold of that attempt's state.
    """
    of_state = sa.true() if where is None else where
    number = sa.func.count(answers.c.token_id.distinct()).label("n")
    counted = sa.select(answers.c.reason, number).group_by(answers.c.reason).order_by(sa.desc("n"), answers.c.reason)
    found = connection.execute(_refused(counted, run_id, node_id, ()).where(of_state)).all()
    of_reason = (
        _refused(sa.select(rows.c.row_key).distinct().add_columns(rows.c.row_index), run_id, node_id, ())
        .join(tokens, tokens.c.token_id == answers.c.token_id)
        .join(rows, rows.c.row_id == tokens.c.row_id)
        .where(of_state)
        .order_by(rows.c.row_index)
        .limit(examples)
    )
    return [
        FailedRows(reason, n, list(connection.scalars(of_reason.where(answers.c.reason == reason))))
        for reason, n in found
    ]


def _refused(selected: sa.Select[Any], run_id: str, node_id: str, but: Iterable[str]) -> sa.Select[Any]:
    later = node_states.alias("later")
    is_overtaken = sa.exists().where(
        later.c.token_id == node_states.c.token_id,
        later.c.node_id == node_states.c.node_id,
        later.c.attempt > node_states.c.attempt,
    )
    return (
        selected.select_from(node_states)
        .join(answers, answers.c.state_id == node_states.c.state_id)
        .where(node_states.c.run_id == run_id, node_states.c.node_id == node_id, ~is_overtaken)
        .where(answers.c.status == AnswerStatus.REFUSED, answers.c.reason.not_in(list(but)))
    )


def settled(connection: sa.Connection, run_id: str, node_id: str) -> int:
    """How many questions of a run have an answer, accepted or refused, in any attempt."""
    of_node = sa.select(answers.c.token_id, answers.c.query_key).distinct()
    of_node = of_node.join(node_states, node_states.c.state_id == answers.c.state_id)
    of_node = of_node.where(node_states.c.run_id == run_id, node_states.c.node_id == node_id)
    return connection.scalar(sa.select(sa.func.count()).select_from(of_node.subquery())) or 0


def latest(
    connection: sa.Connection, token_ids: Sequence[str], query_keys: Sequence[str] | None = None
) -> dict[tuple[str, str], Answer]:
    """The answers that count, by a row's token and question: of several attempts that of the last one."""
    in_order_of_attempts = (
        answers.select()
        .join(node_states, node_states.c.state_id == answers.c.state_id)
        .where(answers.c.token_id.in_(token_ids))
        .order_by(node_states.c.attempt)
    )
    if query_keys is not None:
        in_order_of_attempts = in_order_of_attempts.where(answers.c.query_key.in_(query_keys))
    return {(row.token_id, row.query_key): Answer(*row) for row in connection.execute(in_order_of_attempts)}


def taken(connection: sa.Connection, given: Iterable[Answer]) -> dict[str, Taken]:
    """By the call that an answer comes from, what it took: all tries of that attempt for that question of that row."""
    from_call, tried = calls.alias("from_call"), calls.alias("tried")
    same = [from_call.c[name] == tried.c[name] for name in ("state_id", "token_id", "query_key")]
    made = (
        sa.select(
            from_call.c.call_id,
            from_call.c.state_id,
            sa.func.count().label("calls"),
            *(sa.func.sum(replies.c[name]).label(name) for name in ("prompt_tokens", "completion_tokens")),
            sa.func.sum(replies.c.cost_nanousd).label("cost_nanousd"),
            sa.func.sum(replies.c.latency_us).label("latency_us"),
            sa.func.max(replies.c.model).label("model"),
        )
        .join(tried, sa.and_(*same))
        .outerjoin(replies, replies.c.call_id == tried.c.call_id)
        .group_by(from_call.c.call_id, from_call.c.state_id)
    )
    call_ids = sorted({answer.call_id for answer in given if answer.call_id})
    pages = (call_ids[start : start + AT_ONCE] for start in range(0, len(call_ids), AT_ONCE))
    found = (row for page in pages for row in connection.execute(made.where(from_call.c.call_id.in_(page))))
    return {row[0]: Taken(*_plain(row[1:])) for row in found}


def _plain(values: Sequence[Any]) -> list[Any]:
    """PostgreSQL sums bigints to numeric."""
    return [value if value is None or isinstance(value, str) else int(value) for value in values]
