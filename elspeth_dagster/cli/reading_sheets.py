"""A review sheet's bytes into its lines, and what is wrong with them, told by file, line and column.

Which characters stand between cells is taken from the header: spreadsheet programs write what is usual where they run.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from elspeth_dagster.cli.sheets import CORRECTED, OF_THE_ANSWER
from elspeth_dagster.core.errors import ReviewError
from elspeth_dagster.landscape.reviews import AnswerKey
from elspeth_dagster.stages.neutralizing import as_it_was

NEEDED = ("row_key", "question", "reviewer", "verdict", "reason", *OF_THE_ANSWER)
DELIMITERS = ",;\t"
MOST_SHOWN = 50


@dataclass
class Mistakes:
    """What is wrong with a sheet, gathered."""

    file: str
    found: list[str] = field(default_factory=list)

    def add(self, line: int, column: str | None, what: str) -> None:
        """Note a mistake: where it is, and in a sentence what is wrong and what to do."""
        where = f"{self.file}, line {line}" + (f", column {column}" if column else "")
        self.found.append(f"{where}: {what}")

    def check(self) -> None:
        """Raise ReviewError with all of them, if there are any."""
        if self.found:
            more = len(self.found) - MOST_SHOWN
            shown = [*self.found[:MOST_SHOWN], *([f"… and {more} more"] if more > 0 else [])]
            raise ReviewError("\n".join(["nothing was recorded:", *shown]))


class Line(NamedTuple):
    """A line of a sheet: its number, and its cells by column."""

    number: int
    cells: Mapping[str, str]

    def text(self, column: str) -> str:
        """What a cell says, without space around it; nothing where the sheet has no such column."""
        return as_it_was(self.cells.get(column, "").strip())

    @property
    def key(self) -> AnswerKey:
        """The key of the answer that it is about."""
        state_id, token_id = map(self.text, OF_THE_ANSWER)
        return state_id, token_id, self.text("question")

    @property
    def corrected(self) -> dict[str, str]:
        """What was written into the columns for corrections, by field."""
        named = {name.removeprefix(CORRECTED): text for name, text in self.cells.items() if name.startswith(CORRECTED)}
        return {name: as_it_was(text) for name, text in named.items() if text.strip()}

    @property
    def is_filled(self) -> bool:
        """Whether somebody said something; a reviewer's name alone says nothing."""
        return bool(self.text("verdict") or self.text("reason") or self.corrected)


def read_bytes(path: Path) -> bytes:
    """The bytes of a sheet. Raises ReviewError where they can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReviewError(f"{path} can't be read: {error.strerror}") from None


def read_lines(data: bytes, mistakes: Mistakes) -> list[Line]:
    """The lines of a sheet, but its header and empty ones. Raises ReviewError when it is none."""
    text = _decoded(data, mistakes)
    csv.field_size_limit(max(len(text), 1))  # a cell can't be longer than the sheet
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    numbered = _numbered(reader, mistakes)
    _, head = next(numbered, (1, []))
    columns = [name.strip() for name in head]
    _check_columns(columns, mistakes)
    lines = [_line(number, columns, cells, mistakes) for number, cells in numbered if any(map(str.strip, cells))]
    mistakes.check()
    return lines


def _decoded(data: bytes, mistakes: Mistakes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        mistakes.add(line, None, "it is not UTF-8. Save the sheet as “CSV UTF-8”.")
    mistakes.check()
    return ""


def _delimiter(text: str) -> str:
    head = text.partition("\n")[0]
    return max(DELIMITERS, key=head.count)


def _numbered(reader: Iterator[list[str]], mistakes: Mistakes) -> Iterator[tuple[int, list[str]]]:
    """Each record with the line that it begins at, until one can't be read."""
    line = 1
    try:
        for record in reader:
            yield line, record
            line = reader.line_num + 1  # type: ignore[attr-defined]
    except csv.Error as error:
        mistakes.add(line, None, f"it is no CSV: {error}. Save the sheet as CSV again.")


def _check_columns(columns: Sequence[str], mistakes: Mistakes) -> None:
    for name in NEEDED:
        if columns.count(name) != 1:
            times = "is missing" if name not in columns else f"is there {columns.count(name)} times"
            mistakes.add(1, name, f"it {times}. Take the sheet as `review export` wrote it, and fill in that.")
    mistakes.check()


def _line(number: int, columns: Sequence[str], cells: Sequence[str], mistakes: Mistakes) -> Line:
    if len(cells) > len(columns):
        what = f"it has {len(cells)} cells under {len(columns)} columns. Quote or delete the rest."
        mistakes.add(number, None, what)
    return Line(number, dict(zip(columns, cells, strict=False)))
