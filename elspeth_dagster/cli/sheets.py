"""Review sheets: answers as a CSV file for people, who say in it what they think of each.

    row_key, question, status, refusal, answer_<field>…    what is on record (and input_<name>… on request)
    reviewer, verdict, corrected_<field>…, reason          what people fill in
    state_id, token_id                                     with the question, the answer's key

`reading_sheets` and `taking_sheets` take them back.
"""

from __future__ import annotations

import csv
import hashlib
import heapq
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.canonical import Json, canonical_json
from elspeth_dagster.core.errors import LandscapeError, NotOnRecordError, ReviewError
from elspeth_dagster.landscape import answers, rows, runs
from elspeth_dagster.landscape.answers import GivenAnswer
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.payloads import told
from elspeth_dagster.landscape.records import Node, Run
from elspeth_dagster.landscape.rows import AdmittedRow
from elspeth_dagster.stages.neutralizing import neutralized
from elspeth_dagster.stages.querying import Question, questions

INPUT, GIVEN, CORRECTED = "input_", "answer_", "corrected_"
OF_THE_ANSWER = ("state_id", "token_id")


class Choice(NamedTuple):
    """Which answers a sheet has: all, the refused ones, a sample (a share below 1, else a number of them).

    `inputs`: beside what the questions were asked about.
    """

    failed: bool = False
    sample: float | None = None
    inputs: bool = False


def write_sheet(landscape: Landscape, run: Run, assessment: str, choice: Choice, path: Path) -> int:
    """Write the answers that a run has on record; return how many. Raises ReviewError where it can't be written."""
    with landscape.read() as connection:
        asked = questions(assessment_of(connection, run.run_id, f"{assessment}.ask_batches"))
    lines = _chosen(_answers(landscape, run, assessment, asked), choice)
    try:
        with path.open("x", encoding="utf-8-sig", newline="") as file:  # with its mark Excel knows it for UTF-8
            writer = csv.DictWriter(file, _columns(asked, choice), extrasaction="ignore")
            writer.writeheader()
            number = 0
            for line in lines:
                writer.writerow(line.cells)
                number += 1
    except LandscapeError:
        path.unlink()
        raise
    except FileExistsError:
        raise ReviewError(f"{path} is there already, perhaps with reviews in it; name another file") from None
    except OSError as error:
        raise ReviewError(f"{path} can't be written: {error.strerror}") from None
    return number


def assessment_of(connection: sa.Connection, run_id: str, node_id: str) -> Assessment:
    """The assessment that a run's node worked by."""
    return Assessment.load(runs.node_config(connection, run_id, node_id))


def only_assessment(nodes: Iterable[Node], run_id: str, named: str | None) -> str:
    """The assessment whose answers are meant. Raises NotOnRecordError when there is none, or several."""
    known = sorted({node.assessment for node in nodes if node.op_name == "ask_batches"})
    if named is not None and named not in known:
        raise NotOnRecordError(f"run {run_id} has no assessment {named!r}; it has {', '.join(known) or 'none'}")
    if named is None and len(known) != 1:
        several = f"several assessments ({', '.join(known)}); name one with --assessment"
        raise NotOnRecordError(f"run {run_id} has {several if known else 'no assessment that asked'}")
    return named or known[0]


class _Line(NamedTuple):
    lot: int
    cells: dict[str, object]
    is_refused: bool


def _answers(landscape: Landscape, run: Run, assessment: str, asked: Sequence[Question]) -> Iterator[_Line]:
    for page in rows.in_source_order(landscape, run.run_id, f"{assessment}.admit_rows", also_erased=True):
        with landscape.read() as connection:
            given = answers.of_tokens(connection, [row.token_id for row in page], also_erased=True)
        for row in page:
            for question in asked:
                if (one := given.get(row.token_id, {}).get(question.key)) is not None:
                    lot = _lot(run.run_id, row.row.row_key, question.key)
                    yield _Line(lot, _cells(row, question, one), not one.is_accepted)


def _lot(run_id: str, row_key: str, query_key: str) -> int:
    """A number below 2**56 that follows from what is asked, so that a sample is the same however often it is drawn."""
    return int.from_bytes(hashlib.sha256(canonical_json([run_id, row_key, query_key])).digest()[:7])


def _chosen(lines: Iterator[_Line], choice: Choice) -> Iterable[_Line]:
    wanted = (line for line in lines if line.is_refused or not choice.failed)
    if choice.sample is None:
        return wanted
    if choice.sample < 1:
        return (line for line in wanted if line.lot < choice.sample * 2**56)
    drawn = heapq.nsmallest(int(choice.sample), enumerate(wanted), key=lambda place: place[1].lot)
    return [line for _, line in sorted(drawn, key=lambda place: place[0])]


def _columns(asked: Sequence[Question], choice: Choice) -> list[str]:
    inputs = dict.fromkeys(f"{INPUT}{name}" for question in asked for name in question.inputs if choice.inputs)
    fields = list(dict.fromkeys(name for question in asked for name in question.fields))
    given, corrected = ([f"{kind}{name}" for name in fields] for kind in (GIVEN, CORRECTED))
    return [
        "row_key",
        "question",
        *inputs,
        "status",
        "refusal",
        *given,
        "reviewer",
        "verdict",
        *corrected,
        "reason",
        *OF_THE_ANSWER,
    ]


def _cells(row: AdmittedRow, question: Question, one: GivenAnswer) -> dict[str, object]:
    answer = one.answer
    return {
        "row_key": neutralized(row.row.row_key),
        "question": question.key,
        **{f"{INPUT}{name}": _input(row, column) for name, column in question.inputs.items()},
        "status": answer.status.value,
        "refusal": neutralized(_refusal(one)),
        **{f"{GIVEN}{name}": _cell(value) for name, value in one.values.items()},
        **{name: getattr(answer, name) for name in OF_THE_ANSWER},
    }


def _refusal(one: GivenAnswer) -> str:
    """Why there are no values to review."""
    if one.erased is not None:
        return f"erased {told(one.erased)}"
    answer = one.answer
    return f"{answer.reason}: {answer.detail}" if answer.detail else answer.reason or ""


def _input(row: AdmittedRow, column: str) -> object:
    return neutralized(f"erased {told(row.erased)}") if row.erased is not None else _cell(row.values[column])


def _cell(value: Json) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return neutralized(value) if isinstance(value, str) else value
