"""The grid: rows × questions, each cell by its value, with failures, retries and reuse to be seen at a glance."""

from __future__ import annotations

from itertools import groupby
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from elspeth_dagster.explorer import shading, ways, wishing
from elspeth_dagster.explorer.looking import looking
from elspeth_dagster.explorer.rendering import render
from elspeth_dagster.explorer.wishing import Wish
from elspeth_dagster.landscape import contrasting, leafing
from elspeth_dagster.landscape.choosing import BY_KEY, BY_ROW
from elspeth_dagster.landscape.grids import FilledLine, Grid, fill
from elspeth_dagster.landscape.leafing import Order, Page, ValueOrder

OTHERS_OFFERED = 50


class Group(NamedTuple):
    """Questions beside each other of one case study; no name: named queries."""

    name: str | None
    size: int


def page(request: Request) -> Response:
    """A page of the grid."""
    with looking(request).landscape.read() as connection:
        wish = wishing.wish(connection, request)
        order = leafing.order_of(connection, wish.grid, wish.choice, wish.deadline(0.6))
        found = leafing.page(connection, wish.grid, wish.choice, order, wish.place, wish.deadline(0.6))
        filled = fill(connection, wish.grid, found.lines)
        chosen = None if wish.choice.has_to_read else leafing.count(connection, wish.grid, wish.choice)
        others = contrasting.others(connection, wish.grid, OTHERS_OFFERED)
    return render(
        request,
        "grid.html",
        title=f"Grid of {wish.grid.assessment}",
        way=ways.to_row(request, wish.grid.run.run_id),
        others=others,
        chosen=chosen,
        **view(wish, order, found),
        **_cells(wish, filled),
    )


def view(wish: Wish, order: Order, found: Page) -> dict[str, Any]:
    """What every page of a grid's rows needs: what was wished for, what was found of it, and where it goes on."""
    return {
        **words(wish),
        "page": found,
        "before": wish.at(found.before),
        "after": wish.at(found.after),
        "longer": wish.longer(found.after if not wish.place.is_before else found.before),
        "first": wish.address(),
        "is_part": isinstance(order, ValueOrder) and not order.is_whole,
    }


def words(wish: Wish) -> dict[str, Any]:
    """What every form over a grid needs."""
    return {
        "wish": wish,
        "grid": wish.grid,
        "choice": wish.choice,
        "groups": groups(wish.grid),
        "fields": wishing.fields_of(wish.grid),
        "orders": (BY_ROW, BY_KEY, *wish.grid.keys),
        "parts_of_address": {"run_id": wish.grid.run.run_id, "assessment": wish.grid.assessment},
    }


def groups(grid: Grid) -> list[Group]:
    """The questions' case studies, as headings over their columns."""
    return [Group(name, len(list(some))) for name, some in groupby(question.group for question in grid.questions)]


def _cells(wish: Wish, filled: list[FilledLine]) -> dict[str, Any]:
    fields = {question.key: question.main_field(wish.choice.field) for question in wish.grid.questions}
    names = {key: field.name if field else None for key, field in fields.items()}
    values = {key: [line.cells[key].value(name) for line in filled] for key, name in names.items()}
    scales = shading.scales(wish.grid, wish.choice.field, values)
    lines = [
        (line.line, [(key, shading.show(cell, scales.get(key), names[key])) for key, cell in line.cells.items()])
        for line in filled
    ]
    return {"lines": lines, "legend": shading.legend(scales), "steps": range(shading.STEPS)}
