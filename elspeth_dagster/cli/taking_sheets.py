"""A review sheet read back: what people filled in becomes reviews, all of them or none.

Spreadsheet programs sort columns apart, and rewrite numbers and dates. So what is on record is compared where it still
stands in the sheet; a cell that was emptied is not.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from elspeth_dagster.cli.sheets import CORRECTED, GIVEN, OF_THE_ANSWER, assessment_of
from elspeth_dagster.core.canonical import PREFIX, Json
from elspeth_dagster.core.errors import ReviewError
from elspeth_dagster.landscape import reviews
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Answer, Review
from elspeth_dagster.landscape.reviews import AnswerKey, AnswerOfRow, Said, saying
from elspeth_dagster.landscape.words import AnswerStatus, Verdict
from elspeth_dagster.stages.neutralizing import as_it_was
from elspeth_dagster.stages.querying import Question, questions
from elspeth_dagster.stages.reviewing import is_the_same, value_of_text

FILLED_IN = ("reviewer", "verdict", "reason")
NEEDED = ("row_key", "question", *FILLED_IN, *OF_THE_ANSWER)
DELIMITERS = ",;\t"
MOST_SHOWN = 50
LONGEST_NAME = 100


class Taken(NamedTuple):
    """What became of a sheet: how many reviews were new, how many on record before, how many lines had none."""

    recorded: int
    known: int
    without: int


@dataclass
class _Mistakes:
    file: str
    found: list[str] = field(default_factory=list)

    def add(self, line: int, column: str | None, what: str) -> None:
        where = f"{self.file}, line {line}" + (f", column {column}" if column else "")
        self.found.append(f"{where}: {what}")

    def check(self) -> None:
        if self.found:
            more = len(self.found) - MOST_SHOWN
            shown = [*self.found[:MOST_SHOWN], *([f"… and {more} more"] if more > 0 else [])]
            raise ReviewError("\n".join(["nothing was recorded:", *shown]))


def take_sheet(landscape: Landscape, path: Path, by: str | None, now: datetime) -> Taken:
    """Put the reviews of a sheet on record, all or none. `by` is the reviewer of lines that name none.

    Raises ReviewError naming file, line and column of every mistake.
    """
    data = _read(path)
    mistakes = _Mistakes(str(path))
    lines = list(_lines(data, mistakes))
    filled = [line for line in lines if line.is_filled]
    with landscape.read() as connection:
        on_record = reviews.answers_by_key(connection, [line.key for line in filled])
        fields = _fields(connection, on_record.values())
    file_hash = PREFIX + hashlib.sha256(data).hexdigest()
    said = [one for line in filled if (one := _said(line, on_record, fields, by, file_hash, now, mistakes))]
    _check_no_second(zip(filled, said, strict=False) if not mistakes.found else [], mistakes)
    mistakes.check()
    recorded = reviews.put(landscape, said)
    return Taken(recorded, len(said) - recorded, len(lines) - len(filled))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReviewError(f"{path} can't be read: {error.strerror}") from None


class _Filled(NamedTuple):
    number: int
    cells: Mapping[str, str]

    @property
    def key(self) -> AnswerKey:
        state_id, token_id = (self.cells[name].strip() for name in OF_THE_ANSWER)
        return state_id, token_id, self.cells["question"].strip()

    @property
    def corrected(self) -> dict[str, str]:
        """What was written into the columns for corrections, by field."""
        named = {name.removeprefix(CORRECTED): text for name, text in self.cells.items() if name.startswith(CORRECTED)}
        return {name: as_it_was(text) for name, text in named.items() if text.strip()}

    @property
    def is_filled(self) -> bool:
        """Whether somebody said something; a reviewer's name alone says nothing."""
        return bool(self.cells["verdict"].strip() or self.cells["reason"].strip() or self.corrected)


def _lines(data: bytes, mistakes: _Mistakes) -> Iterator[_Filled]:
    text = _decoded(data, mistakes)
    csv.field_size_limit(max(len(text), 1))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    line = 1
    try:
        head = [name.strip() for name in next(reader, [])]
        _check_head(head, mistakes)
        line = reader.line_num + 1
        for record in reader:
            if len(record) > len(head):
                mistakes.add(
                    line, None, f"it has {len(record)} cells under {len(head)} columns. Quote or delete the rest."
                )
            elif any(map(str.strip, record)):
                yield _Filled(line, {**dict.fromkeys(head, ""), **dict(zip(head, record, strict=False))})
            line = reader.line_num + 1
    except csv.Error as error:
        mistakes.add(line, None, f"it is no CSV: {error}. Save the sheet as CSV again.")
    mistakes.check()


def _decoded(data: bytes, mistakes: _Mistakes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        mistakes.add(line, None, "it is not UTF-8. Save the sheet as “CSV UTF-8”.")
    mistakes.check()
    return ""


def _delimiter(text: str) -> str:
    """What stands between the names of the columns: spreadsheet programs take what is usual where they run."""
    head = text.partition("\n")[0]
    return max(DELIMITERS, key=head.count)


def _check_head(head: Sequence[str], mistakes: _Mistakes) -> None:
    for name in NEEDED:
        if head.count(name) != 1:
            times = "is missing" if name not in head else f"is there {head.count(name)} times"
            mistakes.add(1, name, f"it {times}. Take the sheet as `review export` wrote it, and fill in that.")
    mistakes.check()


Fields = Mapping[tuple[str, str], Mapping[str, Question]]


def _fields(connection: sa.Connection, found: Iterable[AnswerOfRow]) -> Fields:
    """By run and node the questions that were asked there, by key."""
    nodes = sorted({(one.answer.run_id, one.node_id) for one in found})
    return {node: {each.key: each for each in questions(assessment_of(connection, *node))} for node in nodes}


def _said(
    line: _Filled,
    on_record: Mapping[AnswerKey, AnswerOfRow],
    fields: Fields,
    by: str | None,
    file_hash: str,
    now: datetime,
    mistakes: _Mistakes,
) -> Said | None:
    """What a line says; None where something is wrong with it."""
    known = len(mistakes.found)
    if (one := on_record.get(line.key)) is None:
        what = (
            "no answer with this state_id, token_id and question is on record. Leave these cells as they were exported."
        )
        mistakes.add(line.number, "state_id", what)
        return None
    question = fields[one.answer.run_id, one.node_id][one.answer.query_key]
    _check_unchanged(line, one, question, mistakes)
    reviewer, verdict = _reviewer(line, by, mistakes), _verdict(line, mistakes)
    corrected = _corrected(line, question, mistakes)
    reason = as_it_was(line.cells["reason"].strip()) or None
    if verdict is not None:
        _check_sense(line, one, question, verdict, corrected, reason, mistakes)
    if verdict is None or len(mistakes.found) > known:
        return None
    review = Review(*line.key, reviewer, 0, verdict, reason, None, file_hash, now)
    return saying(review, corrected)


def _check_unchanged(line: _Filled, one: AnswerOfRow, question: Question, mistakes: _Mistakes) -> None:
    """What is on record stands in the sheet as it did: else the line's cells belong to different answers."""
    key = as_it_was(line.cells["row_key"].strip())
    if key and key != one.row_key.strip():
        what = f"this answer is about row {one.row_key!r}, not {key[:60]!r}. Restore the line, or empty this cell."
        mistakes.add(line.number, "row_key", what)
    for name, value in one.values.items():
        text = as_it_was(line.cells.get(f"{GIVEN}{name}", ""))
        if text.strip() and not is_the_same(text, value, question.fields[name]):
            what = (
                f"this is not what the model answered. Write corrections into {CORRECTED}{name}, and restore this cell "
                "or empty it."
            )
            mistakes.add(line.number, f"{GIVEN}{name}", what)


def _reviewer(line: _Filled, by: str | None, mistakes: _Mistakes) -> str:
    name = as_it_was(line.cells["reviewer"].strip()) or by or ""
    if not name:
        mistakes.add(line.number, "reviewer", "nobody is named. Write who reviewed it, or give --by NAME.")
    elif not name.isprintable() or len(name) > LONGEST_NAME:
        what = f"a name has at most {LONGEST_NAME} characters, and none that can't be printed. Write it anew."
        mistakes.add(line.number, "reviewer", what)
    return name


def _verdict(line: _Filled, mistakes: _Mistakes) -> Verdict | None:
    written = line.cells["verdict"].strip().lower()
    if written in list(Verdict):
        return Verdict(written)
    what = f"{written[:40]!r} is none of" if written else "it is missing:"
    mistakes.add(
        line.number, "verdict", f"{what} agree, correct, reject. Write one of them, or empty the line's review."
    )
    return None


def _corrected(line: _Filled, question: Question, mistakes: _Mistakes) -> dict[str, Json]:
    corrected = {}
    for name, text in line.corrected.items():
        column = f"{CORRECTED}{name}"
        if name not in question.fields:
            what = (
                f"question {question.key} has no field {name!r}; it has {', '.join(question.fields)}. Empty the cell."
            )
            mistakes.add(line.number, column, what)
            continue
        try:
            corrected[name] = value_of_text(name, text, question.fields[name])
        except ValueError as error:
            mistakes.add(line.number, column, f"{str(error).rstrip('.')}. Correct it, or empty the cell.")
    return corrected


def _check_sense(
    line: _Filled,
    one: AnswerOfRow,
    question: Question,
    verdict: Verdict,
    corrected: Mapping[str, Json],
    reason: str | None,
    mistakes: _Mistakes,
) -> None:
    """Whether a verdict goes with the answer and with what else the line says."""
    if verdict is not Verdict.CORRECT and line.corrected:
        column = f"{CORRECTED}{next(iter(line.corrected))}"
        mistakes.add(
            line.number, column, f"a correction goes with verdict correct, not {verdict}. Change one of the two."
        )
    if verdict is Verdict.CORRECT and not line.corrected:
        mistakes.add(line.number, "verdict", f"nothing is corrected. Fill in a {CORRECTED}… column, or write agree.")
    if verdict is Verdict.REJECT and reason is None:
        mistakes.add(line.number, "reason", "a rejection needs a reason. Write one.")
    if verdict is Verdict.REJECT and one.answer.status is AnswerStatus.REFUSED:
        what = "there is no answer to reject: it was refused. Write agree (rightly), or correct and all its values."
        mistakes.add(line.number, "verdict", what)
    if verdict is Verdict.CORRECT and line.corrected:
        _check_correction(line, one.answer, one.values, question, corrected, mistakes)


def _check_correction(
    line: _Filled,
    answer: Answer,
    given: Mapping[str, Json],
    question: Question,
    corrected: Mapping[str, Json],
    mistakes: _Mistakes,
) -> None:
    for name in [name for name, value in corrected.items() if name in given and given[name] == value]:
        what = "the model answered just that. Write another value, or verdict agree."
        mistakes.add(line.number, f"{CORRECTED}{name}", what)
    if answer.status is AnswerStatus.REFUSED:
        for name in [name for name in question.fields if name not in line.corrected]:
            what = "the model gave no answer, so a correction gives all its fields. Fill it in."
            mistakes.add(line.number, f"{CORRECTED}{name}", what)


def _check_no_second(said: Iterable[tuple[_Filled, Said]], mistakes: _Mistakes) -> None:
    first: dict[tuple[object, ...], int] = {}
    for line, one in said:
        whose = (*line.key, one.review.reviewer)
        if whose in first:
            what = f"{one.review.reviewer} reviewed this answer in line {first[whose]} already. Keep one of the two."
            mistakes.add(line.number, None, what)
        first.setdefault(whose, line.number)
