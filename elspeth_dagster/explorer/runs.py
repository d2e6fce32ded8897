"""The runs, newest first: by assessment, partition, status and cost."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from elspeth_dagster.explorer import asking
from elspeth_dagster.explorer.looking import looking
from elspeth_dagster.explorer.rendering import render
from elspeth_dagster.landscape import browsing
from elspeth_dagster.landscape.browsing import After, Going, Order, Wanted
from elspeth_dagster.landscape.words import RunStatus

RUNS_A_PAGE = 25
STATUSES: list[Going | RunStatus] = [Going.OPEN, *RunStatus]


def page(request: Request) -> Response:
    """A page of runs."""
    query = request.query_params
    order = asking.word(query, "order", Order) or Order.NEWEST
    with looking(request).landscape.read() as connection:
        found = browsing.page_of_runs(
            connection,
            _wanted(query),
            order,
            limit=RUNS_A_PAGE,
            after=_after(query),
            memory=looking(request).memory,
        )
        assessments = browsing.names_of_assessments(connection)
    return render(
        request,
        "runs.html",
        title="Runs",
        runs=found.lines,
        assessments=assessments,
        statuses=STATUSES,
        orders=list(Order),
        next=found.next and asking.place_after(query, "after", *found.next),
        is_first="after" not in query,
    )


def _wanted(query: Mapping[str, str]) -> Wanted:
    return Wanted(
        assessment=asking.text(query, "assessment"),
        partition=asking.text(query, "partition"),
        status=asking.word(query, "status", STATUSES),
        least_nanousd=asking.amount(query, "least"),
        most_nanousd=asking.amount(query, "most"),
    )


def _after(query: Mapping[str, str]) -> After | None:
    place = asking.place(query, "after")
    return place and After(*place)
