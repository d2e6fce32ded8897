"""One row: the source record, what became of it, its journey, and all its questions. Or why the record was rejected."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from elspeth_dagster.explorer import asking, ways
from elspeth_dagster.explorer.looking import looking
from elspeth_dagster.explorer.rendering import render
from elspeth_dagster.landscape import surveying
from elspeth_dagster.landscape.explaining import explain_record
from elspeth_dagster.landscape.explanation import Explanation, QuestionAsked


def page(request: Request) -> Response:
    """A record of a run's source."""
    run_id, assessment = request.path_params["run_id"], request.path_params["assessment"]
    index = asking.record_index(request.path_params["row_index"])
    landscape = looking(request).landscape
    found = explain_record(landscape, run_id, assessment, index)
    with landscape.read() as connection:
        beside = surveying.neighbours(connection, found.run.run_id, found.node.node_id, index)
    return render(
        request,
        "row.html" if found.row else "rejected.html",
        title=_title(found, index),
        way=ways.to_row(request, found.run.run_id),
        found=found,
        index=index,
        fields=_fields(found.questions),
        before=beside[0],
        after=beside[1],
        dagster_run=looking(request).dagster_run(found.run.run_id),
    )


def _title(found: Explanation, index: int) -> str:
    return f"Row {found.row.row.row_key}" if found.row else f"Rejected record {index}"


def _fields(questions: tuple[QuestionAsked, ...]) -> list[str]:
    """The names of all values that answers have, in the order in which they come."""
    given = [question.answer.values for question in questions if question.answer and question.answer.values]
    return list(dict.fromkeys(name for values in given for name in values))
