"""All addresses of the explorer, in the order in which a reader comes to them."""

from __future__ import annotations

from pathlib import Path

from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from elspeth_dagster.explorer import batch, cell, compare, distribution, exports, finding, grid, row, run, runs

ASSETS = Path(__file__).parent / "assets"

ROUTES: list[BaseRoute] = [
    Route("/", runs.page, name="runs"),
    Route("/runs/{run_id}", run.page, name="run"),
    Route("/runs/{run_id}/{assessment}/grid", grid.page, name="grid"),
    Route("/runs/{run_id}/{assessment}/grid.csv", exports.as_csv, name="grid_csv"),
    Route("/runs/{run_id}/{assessment}/grid.json", exports.as_json, name="grid_json"),
    Route("/runs/{run_id}/{assessment}/compare", compare.page, name="compare"),
    Route("/runs/{run_id}/{assessment}/distribution", distribution.page, name="distribution"),
    Route("/runs/{run_id}/find", finding.page, name="find"),
    Route("/runs/{run_id}/batches/{batch_id}", batch.page, name="batch"),
    Route("/runs/{run_id}/{assessment}/rows/{row_index:int}", row.page, name="row"),
    Route("/runs/{run_id}/{assessment}/rows/{row_index:int}/{question}", cell.page, name="cell"),
    Mount("/assets", StaticFiles(directory=ASSETS), name="assets"),
]
