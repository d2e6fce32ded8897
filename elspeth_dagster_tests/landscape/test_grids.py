"""A grid shows what the record says, and every choice, order and page of it is what anybody would make of a drawing."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elspeth_dagster.core.errors import NotOnRecordError
from elspeth_dagster.landscape import grids, leafing
from elspeth_dagster.landscape.choosing import Choice
from elspeth_dagster.landscape.contrasting import Difference
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.grids import FilledLine, Grid
from elspeth_dagster.landscape.leafing import Deadline, Place
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import ErasedPayload, Erasure
from elspeth_dagster.landscape.schema import payloads
from elspeth_dagster.landscape.tallying import ContrastTally, ValueTally
from elspeth_dagster.landscape.writing import insert
from elspeth_dagster_tests.landscape.drawing import (
    QUESTIONS,
    DrawnCell,
    DrawnRow,
    Try,
    cell_of,
    drawings,
    put_on_record,
)
from elspeth_dagster_tests.landscape.sample import NOON

LENIENT = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
MANY, FEW = settings(LENIENT, max_examples=15), settings(LENIENT, max_examples=3)
NOW = Deadline(0)
GOOD = Try(1, True, 3, "alpha", "", False)
ORDERS = ("row", "key", *QUESTIONS)


@pytest.fixture(autouse=True)
def two_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small drawings are read in parts."""
    monkeypatch.setattr(leafing, "CELLS_AT_ONCE", 2 * len(QUESTIONS))


def look(landscape: Landscape, run_id: str) -> Grid:
    with landscape.read() as connection:
        return grids.open_grid(connection, run_id)


def drawn_row(key: str, *scores: int | None, word: str = "alpha") -> DrawnRow:
    """A row asked once, refused where there is no score."""
    tries = {
        question: (Try(1, True, score, word, "not_json", False),)
        for question, score in zip(QUESTIONS, scores, strict=True)
    }
    return DrawnRow(key, word, tries)


def all_pages(landscape: Landscape, grid: Grid, choice: Choice, size: int, *, back: bool = False) -> list[list[str]]:
    """The keys of all pages, each read with no more time than it must take, by the places that they give."""
    pages: list[list[str]] = []
    place: Place | None = Place(None, is_before=back)
    with landscape.read() as connection:
        order = leafing.order_of(connection, grid, choice, Deadline(None))
        while place is not None:
            page = leafing.page(connection, grid, choice, order, place, NOW, size)
            pages.append([line.row_key for line in page.lines])
            place = page.before if back else page.after
    return pages


# Against a drawing ---------------------------------------------------------------------------------------------------


@MANY
@given(drawn=drawings(), is_over=st.booleans())
def test_every_cell_shows_the_last_decision_and_what_it_took(
    landscape: Landscape, drawn: list[DrawnRow], is_over: bool
) -> None:
    run_id = put_on_record(landscape, drawn, is_over=is_over)
    grid = look(landscape, run_id)
    seen = {line.line.row_key: line for page in leafing.go_through(landscape.read, grid, Choice()) for line in page}
    assert list(seen) == [row.key for row in drawn]
    for row in drawn:
        assert {key: shown(seen[row.key], key) for key in QUESTIONS} == {
            key: cell_of(row, key, is_over=is_over) for key in QUESTIONS
        }


def shown(line: FilledLine, key: str) -> DrawnCell:
    cell = line.cells[key]
    values = tuple(str(value) for value in (cell.values or {}).values())
    answer = cell.answer
    texts = (str(answer.reason), str(answer.detail)) if answer and answer.reason else values
    return DrawnCell(cell.status.value, cell.value("score"), texts, cell.calls, cell.is_reused)


WISHES: list[dict[str, Any]] = [
    {},
    {"order": "row", "descending": True},
    {"order": "key"},
    {"order": "key", "descending": True},
    {"order": "cs1_clarity"},
    {"order": "tone", "descending": True},
    {"order": "cs1_depth", "field": "why", "descending": True},
    {"failed": True},
    {"missing": True},
    {"retried": True},
    {"reused": True},
    {"text": "ALPHA"},
    {"text": "d\u00e9lta"},
    {"text": "not_json"},
    {"text": "~b"},
    {"text": "g"},
    {"least": 2},
    {"most": 1, "order": "tone"},
    {"least": 1, "most": 2},
    {"differs": True},
    {"differs": True, "field": "why", "order": "key"},
]


@FEW
@given(
    drawn=drawings(least=10),
    other=drawings(least=8),
    question=st.sampled_from(QUESTIONS),
    more=st.lists(st.sampled_from(WISHES), min_size=2, max_size=3),
    size=st.integers(1, 3),
)
def test_pages_hold_each_chosen_row_once_and_in_order(
    landscape: Landscape,
    drawn: list[DrawnRow],
    other: list[DrawnRow],
    question: str,
    more: list[dict[str, Any]],
    size: int,
) -> None:
    grid = look(landscape, put_on_record(landscape, drawn))
    there = look(landscape, put_on_record(landscape, other))
    both = {name: value for wish in more for name, value in wish.items()}
    for wish in (*WISHES, *({**wish, "question": question} for wish in WISHES[7:]), both):
        wished = {name: value for name, value in wish.items() if name != "differs"}
        choice = Choice(**wished, differs_from=there if "differs" in wish else None)
        expected = ordered([row for row in drawn if is_chosen(row, other, choice)], choice)
        forward = all_pages(landscape, grid, choice, size)
        assert [key for page in forward for key in page] == expected, wish
        assert all(len(page) <= size for page in forward)
    backward = all_pages(landscape, grid, choice, size, back=True)
    assert [key for page in reversed(backward) for key in page] == expected
    exported = [line.line.row_key for page in leafing.go_through(landscape.read, grid, choice, size) for line in page]
    assert exported == expected


@pytest.mark.parametrize("order", ORDERS)
def test_the_page_before_is_the_page_that_one_came_from(landscape: Landscape, small: Grid, order: str) -> None:
    choice = Choice(order=order)
    with landscape.read() as connection:
        sequence = leafing.order_of(connection, small, choice, Deadline(None))
        first, second, third = pages_from(connection, small, choice, sequence, 3)
        assert second.before is not None and third.before is not None and first.before is None
        for before, page in ((third.before, second), (second.before, first)):
            back = leafing.page(connection, small, choice, sequence, before, Deadline(None), 2)
            assert (back.lines, back.after) == (page.lines, page.after)


def pages_from(
    connection: sa.Connection, grid: Grid, choice: Choice, order: leafing.Order, number: int
) -> list[leafing.Page]:
    """The first pages, of two rows each."""
    pages: list[leafing.Page] = []
    for _ in range(number):
        place = pages[-1].after if pages else Place()
        assert place is not None
        pages.append(leafing.page(connection, grid, choice, order, place, Deadline(None), 2))
    return pages


def is_chosen(row: DrawnRow, other: Sequence[DrawnRow], choice: Choice) -> bool:
    asked = QUESTIONS if choice.question is None else (choice.question,)
    cells = {key: cell_of(row, key) for key in asked}
    twin = next((each for each in other if each.key == row.key), None)
    values = [value_of(cells[key], key, choice.field) for key in asked]
    numbers = [value for value in values if isinstance(value, int)]
    texts = [row.key, row.key, row.word, *(text for cell in cells.values() for text in cell.texts)]
    return (
        (not choice.failed or any(cell.status in ("refused", "failed") for cell in cells.values()))
        and (not choice.missing or any(cell.status == "missing" for cell in cells.values()))
        and (not choice.retried or any(cell.calls > 1 for cell in cells.values()))
        and (not choice.reused or any(cell.is_reused for cell in cells.values()))
        and (not choice.text or any(alike(choice.text) in alike(text) for text in texts))
        and (not choice.has_range or any(is_within(number, choice) for number in numbers))
        and (choice.differs_from is None or any(differs(cells[key], twin, key, choice.field) for key in asked))
    )


def value_of(cell: DrawnCell, key: str, field: str | None) -> Any:
    """The value that stands for an answer: `why` where that is wished for and there is one, else the score."""
    if cell.status != "accepted":
        return None
    return cell.texts[1] if field == "why" and key != "tone" else cell.score


def alike(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def is_within(number: int, choice: Choice) -> bool:
    return (choice.least is None or number >= choice.least) and (choice.most is None or number <= choice.most)


def differs(cell: DrawnCell, twin: DrawnRow | None, key: str, field: str | None) -> bool:
    theirs = cell_of(twin, key) if twin else DrawnCell("missing", None, (), 0, False)
    return value_of(cell, key, field) != value_of(theirs, key, field)


def ordered(chosen: list[DrawnRow], choice: Choice) -> list[str]:
    if choice.order == "key":
        return sorted((row.key for row in chosen), reverse=choice.descending)
    if choice.order == "row":
        return [row.key for row in (reversed(chosen) if choice.descending else chosen)]
    values = [(value_of(cell_of(row, choice.order), choice.order, choice.field), row.key) for row in chosen]
    valued = [pair for pair in values if pair[0] is not None]
    in_order = sorted(valued, key=lambda pair: pair[0], reverse=choice.descending)
    return [key for _, key in in_order] + [key for value, key in values if value is None]


@MANY
@given(
    drawn=drawings(),
    other=drawings(),
    question=st.none() | st.sampled_from(QUESTIONS),
    failed=st.booleans(),
    text=st.sampled_from(["", "beta"]),
)
def test_tallies_count_every_chosen_row_once_however_often_they_stop(
    landscape: Landscape,
    drawn: list[DrawnRow],
    other: list[DrawnRow],
    question: str | None,
    failed: bool,
    text: str,
) -> None:
    grid = look(landscape, put_on_record(landscape, drawn))
    there = look(landscape, put_on_record(landscape, other))
    choice = Choice(question=question, failed=failed, text=text)
    chosen = [row for row in drawn if is_chosen(row, other, choice)]
    values, contrast = ValueTally(grid, choice), ContrastTally(grid, there, choice)
    with landscape.read() as connection:
        for tally in (values, contrast):
            while not tally.is_done:
                tally.go_on(connection, NOW)
            assert (tally.rows, tally.looked_at(connection)) == (len(chosen), len(drawn))
    for one in values.distributions:
        scores = [cell_of(row, one.question).score for row in chosen]
        there_are = [score for score in scores if score is not None]
        assert sorted(one.numbers or one.counts.elements()) == sorted(
            ["calm"] * len(there_are) if one.field.name == "word" else there_are
        )
        assert one.lacking == len(chosen) - len(there_are)
    for key, agreement in contrast.agreements.items():
        pairs = [pair(row, other, key) for row in chosen]
        assert agreement.counts[Difference.SAME] == sum(a == b and a is not None for a, b in pairs)
        assert agreement.counts[Difference.ONLY_HERE] == sum(b is None and a is not None for a, b in pairs)
        assert agreement.counts[Difference.ONLY_THERE] == sum(a is None and b is not None for a, b in pairs)
        assert agreement.counts[Difference.NEITHER] == sum(a is None and b is None for a, b in pairs)
        assert list(agreement.by) == [b - a for a, b in pairs if a is not None and b is not None]


def pair(row: DrawnRow, other: Sequence[DrawnRow], key: str) -> tuple[int | None, int | None]:
    twin = next((each for each in other if each.key == row.key), None)
    return cell_of(row, key).score, cell_of(twin, key).score if twin else None


# By example ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(landscape: Landscape) -> Grid:
    """Six rows."""
    run_id = put_on_record(landscape, [drawn_row(key, place, None, 4) for place, key in enumerate("fedcba")])
    return look(landscape, run_id)


def test_a_page_says_how_far_it_came_when_the_time_is_over(landscape: Landscape, small: Grid) -> None:
    choice = Choice(text="nowhere to be found")
    with landscape.read() as connection:
        order = leafing.order_of(connection, small, choice, NOW)
        page = leafing.page(connection, small, choice, order, Place(2), NOW, 1)
        assert (page.lines, page.is_cut, page.looked_until, page.of_rows) == ((), True, 4, 6)
        assert page.after == Place(6)
        last = leafing.page(connection, small, choice, order, page.after, Deadline(None), 1)
        assert (last.lines, last.is_cut, last.looked_until, last.after) == ((), False, 6, None)


def test_an_order_by_values_says_when_it_is_of_a_part_only(landscape: Landscape, small: Grid) -> None:
    choice = Choice(order="cs1_clarity", descending=True)
    with landscape.read() as connection:
        part = leafing.order_of(connection, small, choice, NOW)
        whole = leafing.order_of(connection, small, choice, Deadline(None))
        assert isinstance(part, leafing.ValueOrder) and isinstance(whole, leafing.ValueOrder)
        assert (part.is_whole, part.count(connection, None)) == (False, 2)
        assert (whole.is_whole, whole.count(connection, None)) == (True, 6)


def test_a_value_whose_bytes_are_gone_says_so_and_is_in_no_count(database: Database) -> None:
    with Landscape(database) as landscape:
        grid = look(landscape, put_on_record(landscape, [drawn_row("a", 1, 2, 3), drawn_row("b", 1, 4, 4)]))
        answer = first_line(landscape, grid).cells["cs1_depth"].answer
        assert answer is not None
        assert answer.values_ref is not None
        with database.write() as connection:
            erasure = Erasure("e1", "a request", "a clerk", "{}", NOON)
            insert(connection, [erasure, ErasedPayload(answer.values_ref, "e1", None)])
            connection.execute(payloads.update().where(payloads.c.ref == answer.values_ref).values(body=b""))
        cell = first_line(landscape, grid).cells["cs1_depth"]
        assert (cell.status.value, cell.values, cell.gone) == ("accepted", None, "erased")
        tally = ValueTally(grid, Choice(question="cs1_depth"))
        with landscape.read() as connection:
            tally.go_on(connection, Deadline(None))
        assert (list(tally.distributions[0].numbers), tally.distributions[0].lacking, tally.unread) == ([4], 1, 1)


def first_line(landscape: Landscape, grid: Grid) -> FilledLine:
    return next(leafing.go_through(landscape.read, grid, Choice()))[0]


def test_a_run_of_several_assessments_is_asked_which(landscape: Landscape) -> None:
    run_id = put_on_record(landscape, [drawn_row("a", 1, 2, 3)])
    with landscape.read() as connection:
        assert grids.open_grid(connection, run_id, "trial").rows == 1
        with pytest.raises(NotOnRecordError, match="has no assessment 'trail'; it has trial"):
            grids.open_grid(connection, run_id, "trail")
        with pytest.raises(NotOnRecordError, match="has no question 'cs1_cost'; it has cs1_clarity, cs1_depth, tone"):
            leafing.order_of(connection, grids.open_grid(connection, run_id), Choice(order="cs1_cost"), NOW)
