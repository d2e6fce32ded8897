"""What is printed for a person: aligned, exact, and never able to drive the terminal that shows it.

Row texts, prompts, replies and error messages come from anybody. Whatever in them is not printable (control characters,
ANSI escapes, bidirectional overrides, invisible characters) is printed as an escape like \\x1b or \\u202e; `show` does
that to every line. The exact text is what `--json` prints, in ASCII.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any

import click

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.money import money

LONGEST_TEXT = 20_000
MEASURED_LINES = 500


def show(lines: Iterable[str]) -> None:
    """Print lines."""
    for line in lines:
        click.echo(escaped(line))


def remark(line: str) -> None:
    """Print a line on stderr, beside the data."""
    click.echo(escaped(line), err=True)


def as_document(line: Any) -> dict[str, Any]:
    """A record, or a part of an explanation, as `--json` shows it."""
    from elspeth_dagster.landscape.explanation import document

    return dict(document(line))


def amount(nanousd: int | None) -> str | None:
    """Money, where it is known."""
    return None if nanousd is None else money(nanousd)


def show_json(value: Json) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, indent=2))


def show_json_list(values: Iterable[Json]) -> None:
    """Print one JSON list, a value a line, as the values come."""
    opening = "["
    for value in values:
        click.echo(f"{opening}\n{json.dumps(value)}", nl=False)
        opening = ","
    click.echo("[]" if opening == "[" else "\n]")


def escaped(text: str) -> str:
    """The text with every character that is not printable written as an escape, line ends too."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def quoted(text: str) -> Iterator[str]:
    """A text of somebody else's, line by line, each behind a bar that it can't get out of."""
    shown = text[:LONGEST_TEXT]
    for line in shown.split("\n"):
        yield f"| {line}"
    if len(text) > len(shown):
        yield f"({len(text) - len(shown)} more characters, which --json prints)"


def indented(lines: Iterable[str], by: int = 2) -> Iterator[str]:
    """The lines, further to the right."""
    return (" " * by + line for line in lines)


def facts(told: dict[str, object]) -> Iterator[str]:
    """Names and values, one a line; a value that is None is left out."""
    width = max(map(len, told), default=0)
    return (f"{name:<{width}}  {value}" for name, value in told.items() if value is not None)


def table(head: Sequence[str], lines: Iterable[Sequence[object]], *, numbers: Iterable[str] = ()) -> Iterator[str]:
    """Aligned columns, those of `numbers` to the right; None is `-`. The first lines decide the widths."""
    cells = (["-" if value is None else escaped(str(value)) for value in line] for line in lines)
    first = list(islice(cells, MEASURED_LINES))
    widths = [max(len(line[place]) for line in [head, *first]) for place in range(len(head))]
    sides = [">" if name in set(numbers) else "<" for name in head]
    for line in chain([head], first, cells):
        yield "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)).rstrip()


def instant(when: datetime) -> str:
    """A UTC instant, to the microsecond."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f} UTC"


def to_the_second(when: datetime) -> str:
    """A UTC instant for a table."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
