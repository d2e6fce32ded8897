"""What a reader wishes to see of a grid, as an address says it: `?failed=yes&text=risk&order=cs1_depth`.

The grid, the comparison, the distributions and what is handed over take the same words, so that an address that was
sent to a colleague, with another view put in, shows the same rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

import sqlalchemy as sa
from starlette.requests import Request

from elspeth_dagster.explorer import asking
from elspeth_dagster.landscape.choosing import BY_KEY, BY_ROW, Choice
from elspeth_dagster.landscape.grids import Grid, open_grid
from elspeth_dagster.landscape.leafing import Deadline, Place

FLAGS = ("failed", "missing", "retried", "reused")
SHARED = (*FLAGS, "text", "question", "field", "least", "most", "other", "same", "order", "descending")
NOT_NARROWING = {"order", "descending", "other", "same", "field"}
NUMBER = re.compile(r"[+-]?([0-9]{1,300}(\.[0-9]{0,300})?|\.[0-9]{1,300})([eE][+-]?[0-9]{1,2})?")
SECONDS = 0.5
LONGEST_SECONDS = 30.0
LONGEST_TEXT = 200


@dataclass(frozen=True)
class Wish:
    """A grid and which rows of it are wished for; `other` is the run that it is held against.

    `query` are the words of the address that other views of the same rows take too.
    """

    grid: Grid
    choice: Choice
    place: Place
    seconds: float
    other: Grid | None
    query: Mapping[str, str]

    def deadline(self, share: float = 1) -> Deadline:
        """When reading stops, from now; of several readings each has its share of the time."""
        return Deadline(self.seconds * share)

    def address(self, **changed: object) -> str:
        """The query of an address with some words changed, or left out where they are None."""
        words = {**self.query, **changed}
        return "?" + urlencode({name: value for name, value in words.items() if value is not None})

    def at(self, place: Place | None) -> str | None:
        """The query that shows the page at this place."""
        if place is None:
            return None
        index = "end" if place.row_index is None else place.row_index
        if place.is_before:
            return self.address(before=index)
        return self.address(after=None if place.row_index is None else index)

    def longer(self, place: Place | None) -> str | None:
        """The same, looking on for much longer."""
        found = self.at(place)
        return found and f"{found}&seconds={LONGEST_SECONDS:g}"

    @property
    def is_narrowed(self) -> bool:
        """Whether not all rows are wished for."""
        return self.choice.differs_from is not None or bool(set(self.query) - NOT_NARROWING)


def wish(connection: sa.Connection, request: Request) -> Wish:
    """What an address asks for. Raises HTTPException and NotOnRecordError for what can't be understood or found.

    Another run that is named narrows the rows to those that differ from it, unless those that are the `same` are wished
    for too.
    """
    query = request.query_params
    grid = open_grid(connection, request.path_params["run_id"], request.path_params["assessment"])
    named = asking.text(query, "other")
    other = open_grid(connection, named, grid.assessment) if named else None
    choice = _choice(query, grid, None if flag(query, "same") else other)
    kept = {name: query[name] for name in SHARED if query.get(name, "").strip()}
    return Wish(grid, choice, _place(query), _seconds(query), other, kept)


def _choice(query: Mapping[str, str], grid: Grid, other: Grid | None) -> Choice:
    least, most = number(query, "least"), number(query, "most")
    if least is not None and most is not None and least > most:
        raise asking.refused(f"no value is at least {least:g} and at most {most:g}: exchange them")
    return Choice(
        failed=flag(query, "failed"),
        missing=flag(query, "missing"),
        retried=flag(query, "retried"),
        reused=flag(query, "reused"),
        text=_text(query),
        question=one_of(query, "question", grid.keys),
        field=one_of(query, "field", fields_of(grid)),
        least=least,
        most=most,
        differs_from=other,
        order=one_of(query, "order", (BY_ROW, BY_KEY, *grid.keys)) or BY_ROW,
        descending=flag(query, "descending"),
    )


def fields_of(grid: Grid) -> list[str]:
    """The names of all fields that the grid's answers can have, in order."""
    return list(dict.fromkeys(field.name for question in grid.questions for field in question.fields))


def flag(query: Mapping[str, str], name: str) -> bool:
    """Whether something is wished for: `yes`, or nothing."""
    if (given := query.get(name, "")) not in ("", "yes"):
        raise asking.refused(f"{name} is {given[:40]!r}; it can be yes, or left out")
    return bool(given)


def one_of(query: Mapping[str, str], name: str, known: list[str] | tuple[str, ...]) -> str | None:
    """One of these names."""
    if not (given := query.get(name)):
        return None
    if given not in known:
        raise asking.refused(f"{name} is {given[:80]!r}; it can be {', '.join(known)}")
    return given


def number(query: Mapping[str, str], name: str) -> float | None:
    """A number."""
    if not (given := query.get(name, "").strip()):
        return None
    if not NUMBER.fullmatch(given):
        raise asking.refused(f"{name} is {given[:40]!r}; it must be a number, like 42 or 0.5")
    return float(given)


def _text(query: Mapping[str, str]) -> str:
    given = query.get("text", "").strip()
    if len(given) > LONGEST_TEXT:
        raise asking.refused(f"the text to look for has {len(given)} characters; it can have {LONGEST_TEXT}")
    return given


def _place(query: Mapping[str, str]) -> Place:
    if before := query.get("before"):
        return Place(None if before == "end" else _index(before), is_before=True)
    after = query.get("after")
    return Place(_index(after) if after else None)


def _index(given: str) -> int:
    if not (given.isascii() and given.isdigit() and len(given) <= asking.LONGEST_NUMBER):
        raise asking.refused("after and before are where a page begins; take them from a page's link")
    return int(given)


def _seconds(query: Mapping[str, str]) -> float:
    given = number(query, "seconds")
    if given is not None and not 0 <= given <= LONGEST_SECONDS:
        raise asking.refused(f"seconds is how long to look, from 0 to {LONGEST_SECONDS:g}")
    return SECONDS if given is None else given
