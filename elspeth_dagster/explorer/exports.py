"""What one sees, to take along: the chosen rows in their order, as CSV for a spreadsheet or as JSON, exactly.

Both are written while they are read, a page of rows at a time, however many there are.

A CSV is opened with programs that may take a text for a formula. Whatever a row, a model or a provider wrote can look
like one, and gets an apostrophe before it (`neutralizing`); numbers are written as they are. The JSON has every text as
it is.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.explorer import wishing
from elspeth_dagster.explorer.looking import looking
from elspeth_dagster.explorer.wishing import Wish
from elspeth_dagster.landscape import leafing
from elspeth_dagster.landscape.grids import Cell, FilledLine, Grid
from elspeth_dagster.stages.neutralizing import neutralized

ROWS_AT_ONCE = 200
BYTE_ORDER_MARK = "\ufeff"  # without it spreadsheets read UTF-8 as something else
ABOUT_CELL = ("status", "reason", "calls", "reused")


def as_csv(request: Request) -> Response:
    """The chosen rows as CSV: a line per row, the fields of each answer and what became of it in columns."""
    wish = _wish(request)
    return _attached(request, wish, _csv(request, wish), "text/csv; charset=utf-8", "csv")


def as_json(request: Request) -> Response:
    """The chosen rows as one JSON document."""
    wish = _wish(request)
    return _attached(request, wish, _json(request, wish), "application/json", "json")


def _wish(request: Request) -> Wish:
    with looking(request).landscape.read() as connection:
        return wishing.wish(connection, request)


def _attached(request: Request, wish: Wish, parts: Iterator[str], kind: str, ending: str) -> Response:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", f"{wish.grid.assessment}_{wish.grid.run.run_id[:8]}")
    headers = {"Content-Disposition": f'attachment; filename="{name}.{ending}"'}
    return StreamingResponse(iter(()) if request.method == "HEAD" else parts, media_type=kind, headers=headers)


def _filled(request: Request, wish: Wish) -> Iterator[list[FilledLine]]:
    return leafing.go_through(looking(request).landscape.read, wish.grid, wish.choice, ROWS_AT_ONCE)


# CSV -----------------------------------------------------------------------------------------------------------------


def _csv(request: Request, wish: Wish) -> Iterator[str]:
    columns = _columns(wish.grid)
    yield BYTE_ORDER_MARK + _written([["row_index", "row_key", "outcome", *(f"{key}_{name}" for key, name in columns)]])
    for some in _filled(request, wish):
        yield _written([_csv_line(line, columns) for line in some])


def _columns(grid: Grid) -> list[tuple[str, str]]:
    return [
        (question.key, name)
        for question in grid.questions
        for name in dict.fromkeys([*(field.name for field in question.fields), *ABOUT_CELL])
    ]


def _csv_line(filled: FilledLine, columns: Sequence[tuple[str, str]]) -> list[Any]:
    line = filled.line
    outcome = line.outcome.value if line.outcome else None
    return [line.row_index, line.row_key, outcome, *(_csv_cell(filled.cells[key], name) for key, name in columns)]


def _csv_cell(cell: Cell, name: str) -> Any:
    if cell.values is not None and name in cell.values:
        value = cell.values[name]
        return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
    return _about(cell).get(name)


def _about(cell: Cell) -> dict[str, Json]:
    return {
        "status": cell.status.value,
        "reason": cell.gone or (cell.answer.reason if cell.answer else None),
        "calls": cell.calls,
        "reused": cell.is_reused,
    }


def _written(lines: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n").writerows(
        [neutral(value) for value in line] for line in lines
    )
    return text.getvalue()


def neutral(value: Json) -> Any:
    """A value as a spreadsheet shows it and doesn't reckon with it; nothing is an empty text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return value
    return neutralized(value)


# JSON ----------------------------------------------------------------------------------------------------------------


def _json(request: Request, wish: Wish) -> Iterator[str]:
    head = {
        "run_id": wish.grid.run.run_id,
        "assessment": wish.grid.assessment,
        "rows_of_run": wish.grid.rows,
        "choice": dict(wish.query),
    }
    yield json.dumps(head, ensure_ascii=False)[:-1] + ', "rows": ['
    before = "\n"
    for some in _filled(request, wish):
        for line in some:
            yield before + json.dumps(_document(line), ensure_ascii=False, allow_nan=False)
            before = ",\n"
    yield "\n]}\n"


def _document(filled: FilledLine) -> dict[str, Json]:
    line = filled.line
    return {
        "row_index": line.row_index,
        "row_key": line.row_key,
        "line": line.line,
        "outcome": line.outcome.value if line.outcome else None,
        "answers": {key: _answer(cell) for key, cell in filled.cells.items()},
    }


def _answer(cell: Cell) -> dict[str, Json]:
    answer = cell.answer
    return {
        **_about(cell),
        "values": cell.values,
        "detail": answer.detail if answer else None,
        "state_id": answer.state_id if answer else None,
        "call_id": answer.call_id if answer else None,
    }
