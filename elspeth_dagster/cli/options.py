"""Options that several commands have."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import click

from elspeth_dagster.core.settings import default_landscape_url

F = TypeVar("F", bound=Callable[..., Any])
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def duration(_ctx: click.Context, _param: click.Parameter, text: str | None) -> timedelta | None:
    """A length of time, written like 90s, 30m, 2h or 1d."""
    if text is None:
        return None
    if (found := re.fullmatch(r"([0-9]{1,6})([smhd])", text)) is None:
        raise click.BadParameter(f"{text!r} is no duration like 90s, 30m, 2h or 1d")
    return timedelta(**{UNITS[found[2]]: int(found[1])})


def _default_url() -> str:
    return default_landscape_url(os.environ)


def landscape_option(command: F) -> F:
    return click.option(
        "--landscape",
        "url",
        envvar="ELSPETH_LANDSCAPE_URL",
        default=_default_url,
        metavar="URL",
        help="The audit database, a SQLAlchemy URL: sqlite:////data/landscape.sqlite or postgresql://host/name. "
        "Default: ELSPETH_LANDSCAPE_URL, else landscape.sqlite in DAGSTER_HOME.",
    )(command)


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document, exact and in ASCII.")(command)


def subject_options(command: F) -> F:
    """What is held, released or erased."""
    command = click.option("--assessment", metavar="A", help="With --row: only of this assessment.")(command)
    command = click.option("--run", metavar="RUN", help="This run: what it read, asked and got.")(command)
    return click.option("--row", "row_key", metavar="KEY", help="The row with this key, in every run.")(command)


def stated_options(*, required: bool) -> Callable[[F], F]:
    """What is recorded with an erasure, a hold or a release."""

    def add(command: F) -> F:
        command = click.option("--by", required=required, metavar="NAME", help="Who says so. It is recorded.")(command)
        return click.option("--reason", required=required, metavar="TEXT", help="Why, as one line. It is recorded.")(
            command
        )

    return add
