"""A review sheet's lines into reviews on record: all of them, or none.

Spreadsheet programs sort columns apart, and rewrite numbers and dates. So what is on record is compared where it still
stands in the sheet; a cell that was emptied is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from elspeth_dagster.cli.reading_sheets import Line, Mistakes, read_bytes, read_lines
from elspeth_dagster.cli.sheets import CORRECTED, GIVEN, assessment_of
from elspeth_dagster.core.canonical import PREFIX, Json
from elspeth_dagster.landscape import reviews, scopes
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.payloads import told
from elspeth_dagster.landscape.records import Review, Scope
from elspeth_dagster.landscape.reviews import AnswerOfRow, Said, saying
from elspeth_dagster.landscape.words import AnswerStatus, Verdict
from elspeth_dagster.stages.querying import Question, questions
from elspeth_dagster.stages.reviewing import is_the_same, value_of_text

LONGEST_NAME = 100
LONGEST_SHOWN = 60


class Taken(NamedTuple):
    """What became of a sheet: how many reviews were new, how many on record before, how many lines had none."""

    recorded: int
    known: int
    without: int


class Origin(NamedTuple):
    """Where reviews come from: the sheet's hash, when it was imported, and who says what names nobody."""

    file_hash: str
    imported_at: datetime
    by: str | None


def take_sheet(landscape: Landscape, path: Path, by: str | None, now: datetime) -> Taken:
    """Put the reviews of a sheet on record, all or none. `by` is the reviewer of lines that name none.

    Raises ReviewError naming file, line and column of every mistake.
    """
    data, mistakes = read_bytes(path), Mistakes(str(path))
    lines = read_lines(data, mistakes)
    filled = [line for line in lines if line.is_filled]
    origin = Origin(PREFIX + hashlib.sha256(data).hexdigest(), now, by)
    with landscape.read() as connection:
        entries = _entries(connection, filled, mistakes)
    scope = _scopes(landscape, entries)
    said = [one for entry in entries if (one := entry.said(origin, scope[entry.subject]))]
    _check_no_second(entries, origin, mistakes)
    mistakes.check()
    recorded = reviews.put(landscape, said)
    return Taken(recorded, len(said) - recorded, len(lines) - len(filled))


def _entries(connection: sa.Connection, filled: Sequence[Line], mistakes: Mistakes) -> list[Entry]:
    """The lines that somebody filled in, each with the answer that it is about; those about none are mistakes."""
    on_record = reviews.answers_by_key(connection, [line.key for line in filled])
    asked = _questions(connection, on_record.values())
    entries = []
    for line in filled:
        if (about := on_record.get(line.key)) is None:
            what = "no answer with this state_id, token_id and question is on record. Leave these cells as exported."
            mistakes.add(line.number, "state_id", what)
        else:
            question = asked[about.answer.run_id, about.node_id][about.answer.query_key]
            entries.append(Entry(line, about, question, mistakes))
    return entries


def _scopes(landscape: Landscape, entries: Iterable[Entry]) -> dict[tuple[str, str], Scope]:
    """By assessment and row key, what is erased together with what is said about the row."""
    subjects: dict[str, list[str]] = {}
    for assessment, row_key in (entry.subject for entry in entries):
        subjects.setdefault(assessment, []).append(row_key)
    found = {assessment: scopes.of_rows(landscape, assessment, row_keys) for assessment, row_keys in subjects.items()}
    return {(assessment, row_key): scope for assessment in found for row_key, scope in found[assessment].items()}


def _questions(
    connection: sa.Connection, found: Iterable[AnswerOfRow]
) -> dict[tuple[str, str], Mapping[str, Question]]:
    """By run and node the questions that were asked there, by key."""
    nodes = sorted({(one.answer.run_id, one.node_id) for one in found})
    return {node: {each.key: each for each in questions(assessment_of(connection, *node))} for node in nodes}


def _check_no_second(entries: Iterable[Entry], origin: Origin, mistakes: Mistakes) -> None:
    first: dict[tuple[str, ...], int] = {}
    for entry in entries:
        reviewer, number = entry.reviewer(origin), entry.line.number
        before = first.setdefault((*entry.line.key, reviewer), number)
        if before != number:
            what = f"{reviewer} reviewed this answer in line {before} already. Keep one of the two."
            mistakes.add(number, None, what)


@dataclass(frozen=True)
class Entry:
    """A line that somebody filled in, and the answer that it is about."""

    line: Line
    about: AnswerOfRow
    question: Question
    mistakes: Mistakes

    @property
    def subject(self) -> tuple[str, str]:
        """The assessment, and the key of the row that it is about."""
        return self.about.node_id.partition(".")[0], self.about.row_key

    def said(self, origin: Origin, scope: Scope) -> Said | None:
        """The review that it is; None, with its mistakes noted, where something is wrong with it."""
        known = len(self.mistakes.found)
        self._check_there()
        self._check_unchanged()
        self._check_reviewer(self.reviewer(origin))
        verdict, corrected, reason = self._verdict(), self._corrected(), self.line.text("reason") or None
        if verdict is not None:
            self._check_sense(verdict, reason, corrected)
        if verdict is None or len(self.mistakes.found) > known:
            return None
        given = (*self.line.key, self.reviewer(origin), 0, verdict, reason, None)
        return saying(Review(*given, origin.file_hash, origin.imported_at), corrected, scope)

    def reviewer(self, origin: Origin) -> str:
        """Who says it; nobody's name is empty."""
        return self.line.text("reviewer") or origin.by or ""

    def _mistake(self, column: str, what: str) -> None:
        self.mistakes.add(self.line.number, column, what)

    def _check_there(self) -> None:
        if self.about.erased is not None:
            what = f"what the model answered was erased {told(self.about.erased)}. Empty the line's review."
            self._mistake("verdict", what)

    def _check_unchanged(self) -> None:
        """What is on record stands in the sheet as it did: else the line's cells belong to different answers."""
        key = self.line.text("row_key")
        if key and key != self.about.row_key.strip():
            what = f"this answer is about row {self.about.row_key!r}, not {key[:LONGEST_SHOWN]!r}. "
            self._mistake("row_key", what + "Restore the line, or empty this cell.")
        for name, value in self.about.values.items():
            text = self.line.text(f"{GIVEN}{name}")
            if text and not is_the_same(text, value, self.question.fields[name]):
                what = f"this is not what the model answered. Write corrections into {CORRECTED}{name}, and restore "
                self._mistake(f"{GIVEN}{name}", what + "this cell or empty it.")

    def _check_reviewer(self, name: str) -> None:
        if not name:
            self._mistake("reviewer", "nobody is named. Write who reviewed it, or give --by NAME.")
        elif not name.isprintable() or len(name) > LONGEST_NAME:
            what = f"a name has at most {LONGEST_NAME} characters, and none that can't be printed. Write it anew."
            self._mistake("reviewer", what)

    def _verdict(self) -> Verdict | None:
        written = self.line.text("verdict").lower()
        if written in list(Verdict):
            return Verdict(written)
        what = f"{written[:LONGEST_SHOWN]!r} is none of" if written else "it is missing:"
        self._mistake("verdict", f"{what} agree, correct, reject. Write one of them, or empty the line's review.")
        return None

    def _corrected(self) -> dict[str, Json]:
        corrected: dict[str, Json] = {}
        for name, text in self.line.corrected.items():
            if name not in self.question.fields:
                has = f"question {self.question.key} has only {', '.join(self.question.fields)}"
                self._mistake(f"{CORRECTED}{name}", f"{has}. Empty the cell.")
                continue
            try:
                corrected[name] = value_of_text(name, text, self.question.fields[name])
            except ValueError as error:
                self._mistake(f"{CORRECTED}{name}", f"{str(error).rstrip('.')}. Correct it, or empty the cell.")
        return corrected

    def _check_sense(self, verdict: Verdict, reason: str | None, corrected: Mapping[str, Json]) -> None:
        """Whether the verdict goes with the answer, and with what else the line says."""
        written = self.line.corrected
        if verdict is Verdict.CORRECT:
            self._check_correction(corrected)
        elif written:
            what = f"a correction goes with verdict correct, not {verdict.value}. Change one of the two."
            self._mistake(f"{CORRECTED}{next(iter(written))}", what)
        if verdict is Verdict.REJECT and reason is None:
            self._mistake("reason", "a rejection needs a reason. Write one.")
        if verdict is Verdict.REJECT and self.about.answer.status is AnswerStatus.REFUSED:
            what = "there is no answer to reject: it was refused. Write agree (rightly), or correct and all its values."
            self._mistake("verdict", what)

    def _check_correction(self, corrected: Mapping[str, Json]) -> None:
        if not self.line.corrected:
            self._mistake("verdict", f"nothing is corrected. Fill in a {CORRECTED}… column, or write agree.")
        for name, value in corrected.items():
            if name in self.about.values and self.about.values[name] == value:
                what = "the model answered just that. Write another value, or verdict agree."
                self._mistake(f"{CORRECTED}{name}", what)
        if self.line.corrected and self.about.answer.status is AnswerStatus.REFUSED:
            for name in [name for name in self.question.fields if name not in self.line.corrected]:
                what = "the model gave no answer, so a correction gives all its fields. Fill it in."
                self._mistake(f"{CORRECTED}{name}", what)
