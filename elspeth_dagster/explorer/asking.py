"""What a reader asks for in an address: `?status=failed&least=0.01`. What can't be understood is refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from enum import StrEnum
from http import HTTPStatus
from typing import TypeVar

from starlette.exceptions import HTTPException

from elspeth_dagster.core.money import NANO

W = TypeVar("W", bound=StrEnum)
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


def word(query: Mapping[str, str], name: str, known: Iterable[W]) -> W | None:
    """One of these words."""
    if not (given := query.get(name)):
        return None
    for member in (known := list(known)):
        if member.value == given:
            return member
    raise refused(f"{name} is {given[:40]!r}; it can be {', '.join(known)}")
