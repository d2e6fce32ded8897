"""How a page is written: Jinja templates that escape everything, and know how we write numbers, money and instants.

Whatever a template prints goes through `visible.plain`, so that no text can be forgotten; `| visible` marks the codes
of hidden characters as well, and is for content, not for attributes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from elspeth_dagster.core.money import at_most, money, spent
from elspeth_dagster.core.naming import in_order
from elspeth_dagster.explorer.looking import looking
from elspeth_dagster.explorer.visible import plain, visible
from elspeth_dagster.landscape.payloads import told

LONGEST_TEXT = 100_000


class Step(NamedTuple):
    """A step of the way to a page: what it is called, and its address."""

    name: str
    address: str


def render(
    request: Request, template: str, *, title: str, way: Sequence[Step] = (), status: int = 200, **values: Any
) -> HTMLResponse:
    """A page: the template with these values, `way` leading to it."""
    page = TEMPLATES.get_template(template)
    text = page.render(
        title=title,
        way=way,
        link=_linker(request),
        here=str(request.url.path),
        query=dict(request.query_params),
        explorer=looking(request),
        **values,
    )
    return HTMLResponse(text, status_code=status)


def link(request: Request, page: str, **parts: Any) -> str:
    """The address of a page, by its name in `routes`."""
    return _linker(request)(page, **parts)


def _linker(request: Request) -> Callable[..., str]:
    def address(page: str, **parts: Any) -> str:
        root = request.scope.get("root_path", "")
        quoted = {name: quote(part, safe="") if isinstance(part, str) else part for name, part in parts.items()}
        return f"{root}{request.app.url_path_for(page, **quoted)}"

    return address


# How things are written ----------------------------------------------------------------------------------------------


def number(value: int | None) -> str:
    """A count, with its thousands apart; a dash for what is not known."""
    return "–" if value is None else f"{value:,}"


def counted(value: int, noun: str) -> str:
    """A count with what is counted: 1 row, 2 rows."""
    return f"{number(value)} {noun}" if value == 1 else f"{number(value)} {noun}s"


def dollars(nanousd: int | None) -> str:
    """Nano-dollars, exactly; a dash for what is not known."""
    return "–" if nanousd is None else money(nanousd)


def instant(when: datetime | None) -> Markup:
    """A UTC instant to the second, exact to the microsecond for machines and in its title."""
    if when is None:
        return Markup("–")
    exact = when.astimezone(UTC)
    html = '<time datetime="{}" title="{} UTC">{}</time>'
    return Markup(html).format(exact.isoformat(), f"{exact:%Y-%m-%d %H:%M:%S.%f}", f"{exact:%Y-%m-%d %H:%M:%S}")


def duration(length: timedelta | None) -> str:
    """A length of time in its two largest units."""
    if length is None:
        return "–"
    seconds = max(length.total_seconds(), 0)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def latency(microseconds: int | None) -> str:
    """A reply's latency in milliseconds; a dash for what is not known."""
    return "–" if microseconds is None else f"{microseconds / 1000:,.1f} ms"


def as_json(value: Any) -> str:
    """A JSON value on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def word(value: str) -> str:
    """A word of our vocabularies, as a person writes it."""
    return value.replace("_", " ")


def _printed(value: Any) -> Any:
    return value if isinstance(value, Markup) else plain(str(value))


TEMPLATES = Environment(
    loader=PackageLoader("elspeth_dagster.explorer"),
    autoescape=True,
    finalize=_printed,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters.update(
    visible=visible,
    number=number,
    counted=counted,
    dollars=dollars,
    instant=instant,
    duration=duration,
    latency=latency,
    as_json=as_json,
    word=word,
    spent=spent,
    in_order=in_order,
    at_most=at_most,
    told=told,
)
TEMPLATES.globals.update(LONGEST_TEXT=LONGEST_TEXT)
