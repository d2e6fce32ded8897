"""One batch: which trigger flushed it, the attempts at it, and its rows in order."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from elspeth_dagster.core.errors import NotOnRecordError
from elspeth_dagster.explorer import asking, ways
from elspeth_dagster.explorer.looking import looking
from elspeth_dagster.explorer.rendering import render
from elspeth_dagster.landscape import surveying
from elspeth_dagster.landscape.finding import find_run

ROWS_A_PAGE = 200


def page(request: Request) -> Response:
    """A batch of a run."""
    after, _ = asking.place(request.query_params, "after") or (-1, "")
    with looking(request).landscape.read() as connection:
        run = find_run(connection, request.path_params["run_id"])
        line = surveying.batch_line(connection, run.run_id, request.path_params["batch_id"])
        if line is None:
            raise NotOnRecordError(f"run {run.run_id} has no such batch")
        members = surveying.members(connection, line.batch.batch_id, limit=ROWS_A_PAGE + 1, after=after)
        [assessment] = [
            node.assessment for node in surveying.nodes_of(connection, run.run_id) if node.node_id == line.batch.node_id
        ]
    shown = members[:ROWS_A_PAGE]
    return render(
        request,
        "batch.html",
        title=f"Batch {line.batch.ordinal} of {assessment}",
        way=ways.to_row(request, run.run_id),
        run=run,
        assessment=assessment,
        line=line,
        members=shown,
        next=asking.place_after(request.query_params, "after", shown[-1].ordinal)
        if len(members) > len(shown)
        else None,
    )
