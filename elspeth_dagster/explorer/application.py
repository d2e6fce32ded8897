"""The explorer as an application that a server can run."""

from __future__ import annotations

from collections.abc import Collection

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware

from elspeth_dagster.explorer import problems
from elspeth_dagster.explorer.counting import Counting
from elspeth_dagster.explorer.guarding import Guard, Headers
from elspeth_dagster.explorer.looking import Looking
from elspeth_dagster.explorer.routes import ROUTES


def explorer(looking: Looking, *, names: Collection[str] = (), token: str | None = None) -> Starlette:
    """The pages over a landscape; `names` are hosts it answers to, `token` is what a reader must know."""
    app = Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(Headers),
            Middleware(ExceptionMiddleware, handlers={**problems.HANDLERS, Exception: problems.of_ours}),
            Middleware(Guard, names=names, token=token),
        ],
        exception_handlers=problems.HANDLERS,
    )
    app.state.looking = looking
    app.state.counting = Counting()
    return app
