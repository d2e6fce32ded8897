"""All addresses of the explorer, in the order in which a reader comes to them."""

from __future__ import annotations

from pathlib import Path

from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from elspeth_dagster.explorer import batch, cell, finding, row, run, runs

ASSETS = Path(__file__).parent / "assets"

ROUTES: list[BaseRoute] = [
    Route("/", runs.page, name="runs"),
    Route("/runs/{run_id}", run.page, name="run"),
    Route("/runs/{run_id}/find", finding.page, name="find"),
    Route("/runs/{run_id}/batches/{batch_id}", batch.page, name="batch"),
    Route("/runs/{run_id}/{assessment}/rows/{row_index:int}", row.page, name="row"),
    Route("/runs/{run_id}/{assessment}/rows/{row_index:int}/{question}", cell.page, name="cell"),
    Mount("/assets", StaticFiles(directory=ASSETS), name="assets"),
]
