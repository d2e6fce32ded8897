"""Two runs side by side: how far their answers agree, question by question, and the cells that differ, by how much."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.explorer import grid, shading, ways, wishing
from elspeth_dagster.explorer.looking import looking
from elspeth_dagster.explorer.rendering import render
from elspeth_dagster.explorer.shading import Scale, short
from elspeth_dagster.explorer.wishing import Wish
from elspeth_dagster.landscape import contrasting, leafing
from elspeth_dagster.landscape.contrasting import Contrast, Difference
from elspeth_dagster.landscape.grids import Grid, Line, lines_of
from elspeth_dagster.landscape.tallying import Agreement, ContrastTally

ONLY = {Difference.ONLY_HERE: "only this run", Difference.ONLY_THERE: "only the other run"}


class Pair(NamedTuple):
    """A cell of two runs as it is printed: its class, both values, by how much the second is larger."""

    css: str
    here: str
    there: str
    by: str
    label: str


class Counted(NamedTuple):
    """How the answers to a question agree; differences of numbers are those of the other run less those of this one."""

    question: str
    agreement: Agreement
    mean: float | None
    mean_size: float | None
    largest: float | None


def page(request: Request) -> Response:
    """Two runs side by side."""
    with looking(request).landscape.read() as connection:
        wish = wishing.wish(connection, request)
        shown = {"is_chosen": False} if wish.other is None else _compared(connection, request, wish, wish.other)
        others = contrasting.others(connection, wish.grid, grid.OTHERS_OFFERED)
    return render(
        request,
        "compare.html",
        title=f"Comparison of {wish.grid.assessment}",
        way=ways.to_row(request, wish.grid.run.run_id),
        others=others,
        all_rows=wish.choice.differs_from is None,
        **{**grid.words(wish), **shown},
    )


def _compared(connection: sa.Connection, request: Request, wish: Wish, other: Grid) -> dict[str, Any]:
    every_row = dataclasses.replace(wish.choice, differs_from=None)
    key = "contrast", wish.grid, other, every_row
    tally = request.app.state.counting.go_on(
        connection, key, lambda: ContrastTally(wish.grid, other, every_row), wish.deadline(0.4)
    )
    rest = wish.deadline(0.2)
    order = leafing.order_of(connection, wish.grid, wish.choice, rest)
    found = leafing.page(connection, wish.grid, wish.choice, order, wish.place, rest)
    return {
        **grid.view(wish, order, found),
        "is_chosen": True,
        "other": other,
        "tally": tally,
        "looked_at": tally.looked_at(connection),
        "counted": [_counted(one) for one in tally.agreements.values()],
        "lines": _lines(connection, wish, other, found.lines),
        "only_here": contrasting.missing_there(connection, wish.grid, other),
        "only_there": contrasting.missing_there(connection, other, wish.grid),
    }


def _counted(one: Agreement) -> Counted:
    if not one.by:
        return Counted(one.question, one, None, None, None)
    largest = max(one.by, key=abs)
    sizes = statistics.fmean(map(abs, one.by))
    return Counted(one.question, one, statistics.fmean(one.by), sizes, largest)


def _lines(
    connection: sa.Connection, wish: Wish, other: Grid, some: Sequence[Line]
) -> list[tuple[Line, Line | None, list[tuple[str, Pair]]]]:
    keys = wish.grid.keys
    found, _ = contrasting.differences(connection, wish.grid, other, some, keys, wish.choice.field)
    values = {key: [found[line.token_id, key].here for line in some] for key in keys}
    scales = shading.scales(wish.grid, wish.choice.field, values)
    twins = lines_of(connection, other, [line.row_key for line in some])
    return [
        (line, twins.get(line.row_key), [(key, pair(found[line.token_id, key], scales.get(key))) for key in keys])
        for line in some
    ]


def pair(one: Contrast, scale: Scale | None) -> Pair:
    """A cell of two runs as it is printed."""
    here, there = _printed(one.here), _printed(one.there)
    match one.kind:
        case Difference.SAME:
            return Pair("same", here, "", "", f"both {here}")
        case Difference.CHANGED:
            by = "" if one.by is None else f"{one.by:+.6g}"
            return Pair(_css(one, scale), here, there, by, f"{here}, other run {there}" + (f", {by}" if by else ""))
        case Difference.ONLY_HERE | Difference.ONLY_THERE:
            return Pair("only", here, there, "", f"{ONLY[one.kind]} has an answer: {here} beside {there}")
        case Difference.NEITHER:
            return Pair("missing", "none", "", "", "no answer in either run")
        case Difference.UNREADABLE:
            return Pair("missing", "unreadable", "", "", "a value can't be read")


def _css(one: Contrast, scale: Scale | None) -> str:
    return "only" if one.by is None else shading.difference_step(one.by, scale)


def _printed(value: Json) -> str:
    return "–" if value is None else short(value)
