"""The distributions: how often each question was answered with which value, over the rows that are chosen."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from elspeth_dagster.explorer import grid, picturing, ways, wishing
from elspeth_dagster.explorer.looking import looking
from elspeth_dagster.explorer.rendering import render
from elspeth_dagster.landscape import contrasting
from elspeth_dagster.landscape.tallying import ValueTally


def page(request: Request) -> Response:
    """The distributions of a run's answers."""
    with looking(request).landscape.read() as connection:
        wish = wishing.wish(connection, request)
        key = "distribution", wish.grid, wish.choice
        tally = request.app.state.counting.go_on(
            connection, key, lambda: ValueTally(wish.grid, wish.choice), wish.deadline()
        )
        looked_at = tally.looked_at(connection)
        others = contrasting.others(connection, wish.grid, grid.OTHERS_OFFERED)
    return render(
        request,
        "distribution.html",
        title=f"Distributions of {wish.grid.assessment}",
        way=ways.to_row(request, wish.grid.run.run_id),
        pictures=[picturing.picture(one) for one in tally.distributions],
        tally=tally,
        looked_at=looked_at,
        others=others,
        sizes={"width": picturing.WIDTH, "height": picturing.HEIGHT, "foot": picturing.FOOT},
        **grid.words(wish),
    )
