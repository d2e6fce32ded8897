"""All addresses of the explorer, in the order in which a reader comes to them."""

from __future__ import annotations

from pathlib import Path

from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from elspeth_dagster.explorer import runs

ASSETS = Path(__file__).parent / "assets"

ROUTES: list[BaseRoute] = [
    Route("/", runs.page, name="runs"),
    Mount("/assets", StaticFiles(directory=ASSETS), name="assets"),
]
