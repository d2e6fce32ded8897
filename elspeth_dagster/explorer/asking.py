"""What a reader asks for in an address: `?status=failed&least=0.01`. What can't be understood is refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from enum import StrEnum
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import urlencode

from starlette.exceptions import HTTPException

from elspeth_dagster.core.money import NANO

W = TypeVar("W", bound=StrEnum)
LONGEST_NUMBER = 18
AMOUNT = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def refused(what: str) -> HTTPException:
    """The error for what can't be understood."""
    return HTTPException(HTTPStatus.BAD_REQUEST, what)


def text(query: Mapping[str, str], name: str) -> str | None:
    """A text; None where it is left empty."""
    return query.get(name) or None


def amount(query: Mapping[str, str], name: str) -> int | None:
    """US dollars, as nano-dollars."""
    if not (given := query.get(name, "").strip()):
        return None
    if not AMOUNT.fullmatch(given):
        raise refused(f"{name} is {given[:40]!r}; it must be dollars, like 0.25")
    return int(Decimal(given) * NANO)


def place(query: Mapping[str, str], name: str) -> tuple[int, str] | None:
    """Where a list goes on: `number~name`, as `place_after` writes it."""
    if not (given := query.get(name)):
        return None
    number, _, rest = given.partition("~")
    if not (number.isascii() and number.isdigit() and len(number) <= LONGEST_NUMBER):
        raise refused(f"{name} is where a list goes on; take it from a page's link")
    return int(number), rest


def place_after(query: Mapping[str, str], name: str, number: int, rest: str = "") -> str:
    """The address of the same view, gone on with behind this place."""
    return "?" + urlencode({**query, name: f"{number}~{rest}"})


def record_index(given: int) -> int:
    """The index of a record, of a size that a database can look for."""
    if len(str(given)) > LONGEST_NUMBER:
        raise HTTPException(HTTPStatus.NOT_FOUND, "No record has so large an index.")
    return given


def word(query: Mapping[str, str], name: str, known: Iterable[W]) -> W | None:
    """One of these words."""
    if not (given := query.get(name)):
        return None
    for member in (known := list(known)):
        if member.value == given:
            return member
    raise refused(f"{name} is {given[:40]!r}; it can be {', '.join(known)}")
