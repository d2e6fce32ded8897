"""A row by its key, or `#3` by its index: sends the reader on to its page, or to the one of a question about it."""

from __future__ import annotations

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from elspeth_dagster.explorer import asking
from elspeth_dagster.explorer.looking import looking
from elspeth_dagster.explorer.rendering import link
from elspeth_dagster.landscape.explaining import explain
from elspeth_dagster.landscape.explanation import Explanation


def page(request: Request) -> Response:
    """To the row with this key in the run."""
    query = request.query_params
    if (key := asking.text(query, "key")) is None:
        raise asking.refused("key is empty; it must be a row's key, or # and the index of a record, like #3")
    run_id, assessment = request.path_params["run_id"], asking.text(query, "assessment")
    found = explain(looking(request).landscape, run_id, key, assessment=assessment)
    parts = {"run_id": found.run.run_id, "assessment": found.node.assessment, "row_index": _index(found)}
    question = asking.text(query, "question")
    onward = link(request, "cell", **parts, question=question) if question else link(request, "row", **parts)
    return RedirectResponse(onward, HTTPStatus.SEE_OTHER)


def _index(found: Explanation) -> int:
    return found.row.row.row_index if found.row else found.rejections[0].rejection.row_index
