"""Cells shaded by their value: in nine steps from the least to the greatest, told apart by how light they are.

The steps are of one hue, so that they keep their order for every eye and in print; the value itself is printed in the
cell. Differences have a scale of their own with two ends. Steps are names of classes, since a strict policy allows no
style in a page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.landscape.choosing import number_of
from elspeth_dagster.landscape.grids import Cell, Grid
from elspeth_dagster.landscape.planned import PlannedField

STEPS = 9
DIFFERENCE_STEPS = 3
LONGEST_VALUE = 40


class Scale(NamedTuple):
    """A field's values from the least to the greatest; `is_declared`: by its bounds, else by what the page holds."""

    field: PlannedField
    least: float
    most: float
    is_declared: bool

    def step(self, value: Json) -> int | None:
        """The step of a value, 0 to 8; None where it has none."""
        if (place := self._place(value)) is None:
            return None
        share = (place - self.least) / (self.most - self.least) if self.most > self.least else 0.5
        return round(min(max(share, 0), 1) * (STEPS - 1))

    def _place(self, value: Json) -> float | None:
        if isinstance(value, bool):
            return float(value)
        if isinstance(value, str):
            return float(self.field.values.index(value)) if value in self.field.values else None
        return number_of(value)

    @property
    def span(self) -> float:
        """From the least to the greatest."""
        return self.most - self.least


def scales(grid: Grid, wished: str | None, values: Mapping[str, Sequence[Json]]) -> dict[str, Scale]:
    """The scale of each question's field, by question, over the values on the page; free text has none."""
    found = {}
    for question in grid.questions:
        field = question.main_field(wished)
        if field is not None and field.is_counted:
            found[question.key] = _scale(field, values[question.key])
    return found


def _scale(field: PlannedField, values: Iterable[Json]) -> Scale:
    if not field.is_numeric:
        return Scale(field, 0, max(len(field.values) - 1, 1), is_declared=True)
    numbers = [number for number in map(number_of, values) if number is not None]
    least = min(numbers, default=0) if field.minimum is None else field.minimum
    most = max(numbers, default=1) if field.maximum is None else field.maximum
    return Scale(field, least, most, is_declared=None not in (field.minimum, field.maximum))


def legend(found: Mapping[str, Scale]) -> list[Scale]:
    """Each scale once."""
    return list(dict.fromkeys(found.values()))


def difference_step(by: float | None, scale: Scale | None) -> str:
    """The class of a difference: `less-3` to `more-3`, by the share of the scale that it is."""
    if not by:
        return "same"
    share = abs(by) / scale.span if scale and scale.span else 1
    step = 1 if share <= 0.05 else 2 if share <= 0.2 else DIFFERENCE_STEPS
    return f"{'more' if by > 0 else 'less'}-{step}"


def short(value: Json) -> str:
    """A value as it fits a cell."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


class Shown(NamedTuple):
    """A cell as it is printed: its class, its text, what its signs say, and all of it for who only hears it."""

    css: str
    text: str
    signs: tuple[tuple[str, str], ...]
    label: str


def show(cell: Cell, scale: Scale | None, field: str | None) -> Shown:
    """A cell as it is printed."""
    value = cell.value(field)
    text = _text(cell, value)
    signs = tuple(_signs(cell))
    step = scale.step(value) if scale and cell.values is not None else None
    css = f"step-{step}" if step is not None else cell.status.value if cell.values is None else "plain"
    return Shown(css, text, signs, ", ".join([_heard(cell, text), *(told for _, told in signs)]))


def _text(cell: Cell, value: Json) -> str:
    if cell.gone is not None:
        return cell.gone
    if cell.values is None:
        return cell.status.value.replace("_", " ")
    return "–" if value is None else short(value)


def _heard(cell: Cell, text: str) -> str:
    reason = cell.answer.reason if cell.answer else None
    return f"{text}: {reason.replace('_', ' ')}" if reason else text


def _signs(cell: Cell) -> Iterable[tuple[str, str]]:
    if cell.retries:
        yield "again", f"asked {cell.calls} times"
    if cell.is_reused:
        yield "reused", "taken from an earlier reply"
