"""The way to a page, from the runs on: what its breadcrumbs are made of."""

from __future__ import annotations

from starlette.requests import Request

from elspeth_dagster.explorer.rendering import Step, link

SHORT = 8


def short(run_id: str) -> str:
    """The first characters of a run's id, which are enough to find it."""
    return run_id[:SHORT]


def to_run(request: Request) -> list[Step]:
    """The steps that lead to a run."""
    return [Step("Runs", link(request, "runs"))]


def to_row(request: Request, run_id: str) -> list[Step]:
    """The steps that lead to what is in a run."""
    return [*to_run(request), Step(f"Run {short(run_id)}", link(request, "run", run_id=run_id))]


def to_cell(request: Request, run_id: str, assessment: str, row_index: int, row_key: str) -> list[Step]:
    """The steps that lead to a cell."""
    row = link(request, "row", run_id=run_id, assessment=assessment, row_index=row_index)
    return [*to_row(request, run_id), Step(f"Row {row_key}", row)]
