"""A budget that the steps of a run share: what was spent, by the record, and who may spend how much of the rest.

    budget = spent by earlier runs of the lineage + granted to the steps of this run + what is left to grant

A step is granted a part at a time and spends from it without asking again. When it is over, and when a later attempt
takes over from one that died, what it was granted becomes what it has spent by the record. So a grant is never lost,
and never spent twice: the earlier attempt can record nothing more by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa

from elspeth_dagster.core.errors import OvertakenError
from elspeth_dagster.landscape import guards, states
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.operating import budget_shares
from elspeth_dagster.landscape.schema import calls, node_states, replies, runs
from elspeth_dagster.landscape.states import Execution
from elspeth_dagster.stages.charging import PAID_STATUSES, UNPAID

OF_STEP = ("run_id", "node_id", "step_key")


class Spent(NamedTuple):
    """What calls cost, each whose cost is not known counted by the most it can have cost; `unbounded` have no such."""

    nanousd: int
    calls: int
    unbounded: int = 0


class Share(NamedTuple):
    """What a step was granted altogether, what all were, and the beats of the other steps that hold a part."""

    granted: Spent
    committed: Spent
    others: dict[str, int]


def spent_before(connection: sa.Connection, run_id: str, node_id: str) -> Spent:
    """What the other runs of a run's lineage have spent at a node."""
    root = sa.select(runs.c.root_run_id).where(runs.c.run_id == run_id).scalar_subquery()
    others = sa.select(runs.c.run_id).where(runs.c.root_run_id == root, runs.c.run_id != run_id)
    return _spent(connection, node_states.c.run_id.in_(others), node_states.c.node_id == node_id)


def spent_by_step(connection: sa.Connection, execution: Execution) -> Spent:
    """What the attempts at a step have spent."""
    return _spent(connection, *(node_states.c[name] == getattr(execution, name) for name in OF_STEP))


def _spent(connection: sa.Connection, *of_states: sa.ColumnElement[bool]) -> Spent:
    unpaid = replies.c.error_class.in_(UNPAID) | ~replies.c.http_status.between(*PAID_STATUSES)
    costs = sa.case(
        (replies.c.cost_nanousd.is_not(None), replies.c.cost_nanousd), (unpaid, 0), else_=calls.c.bound_nanousd
    )
    was_sent = sa.func.coalesce(replies.c.error_class, "") != "not_sent"
    summed = (
        sa.select(
            sa.func.sum(costs), sa.func.sum(sa.case((was_sent, 1), else_=0)), sa.func.count() - sa.func.count(costs)
        )
        .select_from(node_states)
        .join(calls, calls.c.state_id == node_states.c.state_id)
        .outerjoin(replies, replies.c.call_id == calls.c.call_id)
        .where(*of_states)
    )
    return Spent(*(int(number or 0) for number in connection.execute(summed).one()))


def begin(landscape: Landscape, execution: Execution, holder: str) -> Spent:
    """Take over a step's share from its earlier attempts, whatever became of them; what they spent stays granted."""
    states.end_earlier(landscape, execution)

    def take_over(connection: sa.Connection) -> Spent:
        spent = spent_by_step(connection, execution)
        share = {"holder": holder, **_kept(spent), "beats": 0}
        known = connection.execute(budget_shares.update().where(*_of_step(execution)).values(**share))
        if known.rowcount == 0:
            step = {name: getattr(execution, name) for name in OF_STEP}
            connection.execute(budget_shares.insert().values(**step, **share))
        return spent

    return landscape.decide(take_over)


def _kept(spent: Spent) -> dict[str, int]:
    """The share of a step that may spend nothing more for now."""
    return {"granted_nanousd": spent.nanousd, "granted_calls": spent.calls, "is_holding": 0}


def draw(
    landscape: Landscape,
    execution: Execution,
    holder: str,
    *,
    granted: Spent,
    wanted: Spent,
    needed: Spent,
    left: Spent,
) -> Share:
    """Be granted more than `granted`: `wanted`, or at least what is `needed`, or nothing.

    `left` is the budget without what earlier runs spent. A quarter of what is free goes out at a time, so that no step
    takes it all. Raises OvertakenError when another attempt holds the step's share.
    """

    def draw_once(connection: sa.Connection) -> Share:
        shares = {row.step_key: row for row in connection.execute(budget_shares.select().where(*_of_node(execution)))}
        own = shares[execution.step_key]
        if own.holder != holder:
            raise OvertakenError(guards.ATTEMPT_ENDED)
        committed = Spent(
            sum(row.granted_nanousd for row in shares.values()), sum(row.granted_calls for row in shares.values())
        )
        mine = Spent(own.granted_nanousd, own.granted_calls)
        others = {key: row.beats for key, row in shares.items() if row.is_holding and key != execution.step_key}
        more = _grant(Spent(left.nanousd - committed.nanousd, left.calls - committed.calls), wanted, needed)
        if mine != granted or more is None:  # after a lost connection: it was granted already
            return Share(mine, committed, others)
        mine = Spent(mine.nanousd + more.nanousd, mine.calls + more.calls)
        _set(connection, execution, holder, granted_nanousd=mine.nanousd, granted_calls=mine.calls, is_holding=1)
        return Share(mine, committed, others)

    return landscape.decide(draw_once)


def _grant(free: Spent, wanted: Spent, needed: Spent) -> Spent | None:
    if free.nanousd < needed.nanousd or free.calls < needed.calls:
        return None
    pairs = zip(free[:2], wanted[:2], needed[:2], strict=True)
    return Spent(*(max(need, min(want, there // 4)) for there, want, need in pairs))


def give_back(landscape: Landscape, execution: Execution, holder: str, spent: Spent) -> None:
    """Keep only what was spent. Another attempt's share is left alone."""
    landscape.decide(lambda connection: _set(connection, execution, holder, **_kept(spent)))


def settle(landscape: Landscape, execution: Execution, holder: str) -> None:
    """Keep only what was spent by the record, once the step is over."""

    def keep_what_is_spent(connection: sa.Connection) -> None:
        _set(connection, execution, holder, **_kept(spent_by_step(connection, execution)))

    landscape.decide(keep_what_is_spent)


def beat(landscape: Landscape, execution: Execution, holder: str) -> None:
    """Tell the other steps that this one is alive."""
    landscape.decide(lambda connection: _set(connection, execution, holder, beats=budget_shares.c.beats + 1))


def _set(connection: sa.Connection, execution: Execution, holder: str, **values: Any) -> None:
    own = budget_shares.update().where(*_of_step(execution), budget_shares.c.holder == holder)
    connection.execute(own.values(**values))


def _of_node(execution: Execution) -> Iterator[sa.ColumnElement[bool]]:
    return (budget_shares.c[name] == getattr(execution, name) for name in OF_STEP[:2])


def _of_step(execution: Execution) -> Iterator[sa.ColumnElement[bool]]:
    return (budget_shares.c[name] == getattr(execution, name) for name in OF_STEP)
