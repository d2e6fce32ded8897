"""What calls cost, and what reused replies saved, by run, question, model and endpoint.

A cost is the sum over the calls whose price is known, None where there is none; calls that were answered and have no
known price are counted apart, and so are calls whose reply is not known, which may have been paid. What is saved by
reuse is what the replies that were taken from the record cost when they were paid, all tries of that attempt together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import sqlalchemy as sa

from elspeth_dagster.landscape.endpoints import endpoints_of
from elspeth_dagster.landscape.schema import answers, calls, node_states, nodes, replies
from elspeth_dagster.landscape.words import ReplyOutcome

COUNTS = ("calls", "errors", "unknown", "unpriced_calls", "unbounded_calls", "reused")
SUMS = ("prompt_tokens", "completion_tokens", "cost_nanousd", "bound_nanousd", "saved_nanousd")

UNKNOWN = replies.c.outcome.is_(None) | (replies.c.outcome == ReplyOutcome.UNKNOWN)
ERRED = replies.c.outcome == ReplyOutcome.ERROR
UNBOUNDED = UNKNOWN & calls.c.bound_nanousd.is_(None)
UNPRICED = (replies.c.outcome == ReplyOutcome.SUCCESS) & replies.c.cost_nanousd.is_(None)


class By(NamedTuple):
    """What costs are told apart by, beside the assessment."""

    run: bool = False
    question: bool = False
    model: bool = False
    endpoint: bool = False


QUESTION_AND_MODEL = By(question=True, model=True)


@dataclass(frozen=True)
class CostLine:
    """The calls of one assessment (for one question, to one model, at one endpoint, of one run), and what they took.

    None is what no reply reported, or what the line is not about. `bound_nanousd` is the most that the `unknown` can
    have cost, apart from the `unbounded_calls` among them. `reused` answers cost nothing and saved `saved_nanousd`.
    """

    run_id: str | None
    assessment: str
    question: str | None
    model: str | None
    calls: int = 0
    errors: int = 0
    unknown: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_nanousd: int | None = None
    unpriced_calls: int = 0
    bound_nanousd: int | None = None
    unbounded_calls: int = 0
    reused: int = 0
    saved_nanousd: int | None = None
    endpoint: str | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """What the line is about."""
        return (self.run_id or "", self.assessment, self.question or "", self.model or "", self.endpoint or "")


def costs(
    connection: sa.Connection,
    run_id: str | None = None,
    by: By = QUESTION_AND_MODEL,
    about: sa.ColumnElement[bool] | None = None,
    **of_state: str,
) -> list[CostLine]:
    """What the calls of a run, or of all runs, took and saved; `of_state`: only of states with these columns.

    `about` is what else must hold of a state.
    """
    wanted = {**({} if run_id is None else {"run_id": run_id}), **of_state}
    where = [*(node_states.c[name] == value for name, value in wanted.items()), *([] if about is None else [about])]
    lines = {line.key: line for line in _by_endpoint(connection, by, _spent(connection, by, where))}
    for saved in _by_endpoint(connection, by, _saved(connection, by, where)):
        known = lines.get(saved.key, saved)
        lines[saved.key] = replace(known, reused=saved.reused, saved_nanousd=saved.saved_nanousd)
    return [lines[key] for key in sorted(lines)]


def _by_endpoint(connection: sa.Connection, by: By, lines: Iterable[CostLine]) -> Iterable[CostLine]:
    """Lines by the heads of calls become lines by the endpoints that these name."""
    if not by.endpoint:
        return lines
    of_heads = list(lines)
    named = endpoints_of(connection, {line.endpoint for line in of_heads if line.endpoint})
    found: dict[tuple[str, ...], list[CostLine]] = {}
    for line in of_heads:
        known = replace(line, endpoint=named[line.endpoint or ""])
        found.setdefault(known.key, []).append(known)
    return [replace(same[0], **cast("dict[str, Any]", total(same))) for same in found.values()]


def _spent(connection: sa.Connection, by: By, where: Sequence[sa.ColumnElement[bool]]) -> Iterable[CostLine]:
    about = _about(by, calls.c.query_key, calls)
    took = (
        sa.select(
            *about,
            sa.func.count(),
            how_many(ERRED),
            how_many(UNKNOWN),
            sa.func.sum(replies.c.prompt_tokens),
            sa.func.sum(replies.c.completion_tokens),
            sa.func.sum(replies.c.cost_nanousd),
            how_many(UNPRICED),
            bound(),
            how_many(UNBOUNDED),
        )
        .select_from(node_states)
        .join(nodes, (nodes.c.run_id == node_states.c.run_id) & (nodes.c.node_id == node_states.c.node_id))
        .join(calls, calls.c.state_id == node_states.c.state_id)
        .outerjoin(replies, replies.c.call_id == calls.c.call_id)
        .where(*where)
        .group_by(*_grouped(about))
    )
    for row in connection.execute(took):
        *about_it, endpoint = row[:5]
        numbers: Any = [*about_it, *map(whole, row[5:])]
        yield replace(CostLine(*numbers), endpoint=endpoint)


def _saved(connection: sa.Connection, by: By, where: Sequence[sa.ColumnElement[bool]]) -> Iterable[CostLine]:
    """The same lines, with nothing but what reuse saved."""
    taken = calls.alias("taken")
    same = [taken.c[name] == calls.c[name] for name in ("state_id", "token_id", "query_key")]
    about = [column.label(f"about_{place}") for place, column in enumerate(_about(by, answers.c.query_key, taken))]
    answer = [answers.c[name] for name in ("state_id", "token_id", "query_key")]
    of_answer = (
        sa.select(
            *about[:3],
            sa.func.max(_model(by)).label("about_3"),
            about[4],
            sa.func.sum(replies.c.cost_nanousd).label("saved"),
        )
        .select_from(answers)
        .join(node_states, node_states.c.state_id == answers.c.state_id)
        .join(nodes, (nodes.c.run_id == node_states.c.run_id) & (nodes.c.node_id == node_states.c.node_id))
        .join(taken, (taken.c.call_id == answers.c.call_id) & (taken.c.state_id != answers.c.state_id))
        .join(calls, sa.and_(*same))
        .outerjoin(replies, replies.c.call_id == calls.c.call_id)
        .where(*where)
        .group_by(*answer, node_states.c.run_id, nodes.c.assessment, *_grouped([_head(by, taken)]))
        .subquery()
    )
    keys = [of_answer.c[f"about_{place}"] for place in range(5)]
    saved = sa.select(*keys, sa.func.count(), sa.func.sum(of_answer.c.saved)).group_by(*keys)
    for row in connection.execute(saved):
        yield CostLine(*row[:4], reused=row[5], saved_nanousd=whole(row[6]), endpoint=row[4])


def _about(by: By, question: sa.ColumnElement[str], made: sa.FromClause) -> list[sa.ColumnElement[Any]]:
    run = node_states.c.run_id if by.run else sa.null()
    return [run, nodes.c.assessment, question if by.question else sa.null(), _model(by), _head(by, made)]


def _head(by: By, made: sa.FromClause) -> sa.ColumnElement[Any]:
    return made.c.head_ref if by.endpoint else sa.null()


def _model(by: By) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(replies.c.model, calls.c.model) if by.model else sa.null()


def _grouped(about: Iterable[sa.ColumnElement[Any]]) -> list[sa.ColumnElement[Any]]:
    return [column for column in about if not isinstance(column, sa.sql.elements.Null)]


def how_many(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[Any]:
    """How many fulfil a condition."""
    return sa.func.sum(sa.case((condition, 1), else_=0))


def bound() -> sa.ColumnElement[Any]:
    """The most that calls without a known reply can have cost."""
    return sa.func.sum(sa.case((UNKNOWN, calls.c.bound_nanousd)))


def whole(total: Any) -> int | None:
    """PostgreSQL sums bigints to numeric."""
    return None if total is None else int(total)


def total(lines: Sequence[CostLine]) -> dict[str, int | None]:
    """The sums over cost lines."""
    return {
        **{name: sum(getattr(line, name) for line in lines) for name in COUNTS},
        **{name: _sum_of_known(getattr(line, name) for line in lines) for name in SUMS},
    }


def _sum_of_known(numbers: Iterable[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None
