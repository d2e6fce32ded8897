"""One run: how far it is, what it took, its steps and batches, what was rejected, and what has no answer and why."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from elspeth_dagster.explorer import asking, ways
from elspeth_dagster.explorer.looking import looking
from elspeth_dagster.explorer.rendering import render
from elspeth_dagster.landscape import browsing, costs, runs, surveying
from elspeth_dagster.landscape.finding import find_run
from elspeth_dagster.landscape.ledger import now
from elspeth_dagster.landscape.records import Run
from elspeth_dagster.landscape.remembering import Memory
from elspeth_dagster.landscape.surveying import Place

BATCHES_A_PAGE = 50
REJECTIONS_A_PAGE = 50


def page(request: Request) -> Response:
    """A run."""
    with looking(request).landscape.read() as connection:
        run = find_run(connection, request.path_params["run_id"])
        found = {
            **_overview(connection, run, looking(request).memory),
            **_batches(connection, run, request),
            **_rejected(connection, run, request),
        }
    return render(
        request,
        "run.html",
        title=f"Run {ways.short(run.run_id)}",
        way=ways.to_run(request),
        record=run,
        dagster_run=looking(request).dagster_run(run.run_id),
        **found,
    )


def _overview(connection: sa.Connection, run: Run, memory: Memory) -> dict[str, Any]:
    end = runs.end_of(connection, run.run_id)
    lines = memory.of("costs", run.run_id, lambda: costs.costs(connection, run.run_id), is_over=end is not None)
    total = costs.total(lines)
    line = browsing.line_of_run(connection, run.run_id, memory, total)
    return {
        "run": line,
        "end": end,
        "took": (line.ended_at or now()) - run.started_at,
        "progress": surveying.progress(connection, run.run_id) if line.status is None else None,
        "assessments": surveying.assessments_of(connection, run.run_id),
        "costs": lines,
        "total": total,
        "steps": [(step, _length(step.started_at, step.ended_at)) for step in surveying.steps(connection, run.run_id)],
        "refusals": surveying.refusals(connection, run.run_id),
    }


def _length(began: datetime, ended: datetime | None) -> Any:
    return ended and ended - began


def _batches(connection: sa.Connection, run: Run, request: Request) -> dict[str, Any]:
    after = _place(request, "batches")
    found = surveying.batch_lines(connection, run.run_id, limit=BATCHES_A_PAGE + 1, after=after)
    shown, more = found[:BATCHES_A_PAGE], len(found) > BATCHES_A_PAGE
    last = shown[-1].batch if more else None
    return {
        "batches": shown,
        "next_batches": last
        and asking.place_after(request.query_params, "batches", last.ordinal, last.node_id) + "#batches",
    }


def _rejected(connection: sa.Connection, run: Run, request: Request) -> dict[str, Any]:
    after = _place(request, "rejections")
    found = surveying.rejection_lines(connection, run.run_id, limit=REJECTIONS_A_PAGE + 1, after=after)
    shown, more = found[:REJECTIONS_A_PAGE], len(found) > REJECTIONS_A_PAGE
    last = shown[-1] if more else None
    return {
        "rejections": shown,
        "next_rejections": last
        and asking.place_after(request.query_params, "rejections", last.row_index, last.node_id) + "#rejections",
    }


def _place(request: Request, name: str) -> Place | None:
    place = asking.place(request.query_params, name)
    return place and Place(place[1], place[0])
