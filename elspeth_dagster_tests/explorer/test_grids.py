"""The views of a grid in a real browser: filters, keys, cells, two runs, pictures, and what is taken along."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from playwright.sync_api import Browser

from elspeth_dagster.landscape import leafing
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster_tests.explorer.browser import Reader
from elspeth_dagster_tests.explorer.conftest import SPELLS, Explored, served
from elspeth_dagster_tests.landscape.drawing import QUESTIONS, DrawnRow, Try, put_on_record


@pytest.fixture
def reader(browser: Browser, address: str) -> Iterator[Reader]:
    """A reader, who finds nothing wrong to the end."""
    found = Reader(browser, address)
    yield found
    found.context.close()
    assert found.wrong == []


def views(explored: Explored) -> list[str]:
    """An address of each kind of view, over what went well, badly, and is hostile."""
    trial, hostile = f"/runs/{explored.trial}/trial", f"/runs/{explored.hostile}/hostile"
    return [
        f"{trial}/grid?failed=yes&order=cs1_depth&descending=yes",
        f"{trial}/compare?other={explored.again}&same=yes",
        f"{trial}/distribution",
        f"{hostile}/grid?field=rationale",
    ]


def keys(reader: Reader) -> list[str]:
    """The keys of the rows on the page, in order."""
    return reader.page.locator("tbody th a").all_inner_texts()


def test_a_reader_goes_from_the_run_through_the_grid_to_a_cell_by_keyboard(reader: Reader, on_sqlite: Explored) -> None:
    reader.open(f"/runs/{on_sqlite.trial}")
    reader.press("Grid of rows and questions")
    page = reader.page
    assert page.title() == "Grid of trial · Explorer"
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('tbody') !== null"):
            break
    moves = ["ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowUp", "ArrowDown", "ArrowRight"]
    for key in moves:
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.getAttribute('href')").endswith("/rows/2/cs1_depth")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('tbody')") is None
    page.keyboard.press("Shift+Tab")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.title() == "cs1_depth of row R2 · Explorer"


def test_a_cell_shows_its_value_and_by_a_sign_that_it_failed_or_was_asked_again(
    reader: Reader, on_sqlite: Explored
) -> None:
    page = reader.open(f"/runs/{on_sqlite.trial}/trial/grid")
    labels = {
        cell.get_attribute("href").rpartition("/rows/")[2]: cell.get_attribute("aria-label")  # type: ignore[union-attr]
        for cell in page.locator("tbody td a").all()
    }
    assert labels["0/cs1_clarity"].isdigit()  # type: ignore[union-attr]
    assert str(labels["1/cs1_clarity"]).endswith(", asked 2 times")
    assert labels["3/cs2_clarity"] == "refused: not json, asked 2 times"
    assert str(labels["4/cs2_depth"]).startswith("failed: blank input")
    assert page.locator("td.refused use").first.get_attribute("href") == "#refused"
    page = reader.open(f"/runs/{on_sqlite.again}/trial/grid")
    assert "taken from an earlier reply" in str(page.locator("tbody td a").first.get_attribute("aria-label"))


def test_the_form_narrows_the_rows_and_the_address_says_how(reader: Reader, on_sqlite: Explored) -> None:
    grid = f"/runs/{on_sqlite.trial}/trial/grid"
    page = reader.open(grid)
    page.get_by_label("failed or was refused").check()
    page.get_by_label("descending").check()
    page.get_by_role("button", name="Show").click()
    assert keys(reader) == ["R4", "R3"]
    assert "2 rows of 2 that are like that, of 5" in page.locator("caption").inner_text()
    assert "failed=yes" in page.url and "descending=yes" in page.url
    page.get_by_role("link", name="All rows").click()
    page.get_by_label("Text in key").fill("TWO OF row 2")
    page.get_by_role("button", name="Show").click()
    assert keys(reader) == ["R2"]
    reader.open(f"{grid}?retried=yes&question=cs1_clarity")
    assert keys(reader) == ["R1", "R2"]
    assert page.get_by_label("was asked again").is_checked()
    page.get_by_role("link", name="Distributions").click()
    assert page.get_by_text("2 rows are chosen of 5").is_visible()


def test_wishes_that_can_not_be_understood_are_refused_by_name(address: str, on_sqlite: Explored) -> None:
    grid = f"{address}/runs/{on_sqlite.trial}/trial/grid"
    for query, told in {
        "failed=maybe": "failed is &#39;maybe&#39;",
        "question=cs9": "question is &#39;cs9&#39;; it can be cs1_clarity, cs1_depth, cs2_clarity, cs2_depth",
        "least=much": "least is &#39;much&#39;; it must be a number",
        "least=nan": "must be a number",
        "least=3&most=2": "at least 3 and at most 2",
        "order=size": "order is &#39;size&#39;",
        "seconds=500": "from 0 to 30",
        "after=x": "take them from a page",
        f"text={'x' * 201}": "it can have 200",
    }.items():
        answer = httpx.get(f"{grid}?{query}")
        assert (answer.status_code, told in answer.text) == (400, True), query
    assert httpx.get(f"{grid}?after=99").status_code == 404
    assert httpx.get(f"{grid}?other=nobody").status_code == 404
    assert httpx.get(f"{address}/runs/{on_sqlite.trial}/hostile/grid").status_code == 404


def test_pages_lead_on_and_back_and_say_how_far_a_search_came(
    browser: Browser, on_sqlite: Explored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leafing, "CELLS_AT_ONCE", 1)
    monkeypatch.setattr(leafing.page, "__defaults__", (2,))
    with served(on_sqlite.project.landscape_url) as address:
        reader = Reader(browser, address)
        page = reader.open(f"/runs/{on_sqlite.trial}/trial/grid?order=key")
        seen = [keys(reader)]
        for name in ("Page after", "Page after", "Page before", "First page"):
            page.get_by_role("link", name=name).click()
            seen.append(keys(reader))
        assert seen == [["R0", "R1"], ["R2", "R3"], ["R4"], ["R2", "R3"], ["R0", "R1"]]
        reader.open(f"/runs/{on_sqlite.trial}/trial/grid?text=row+4&seconds=0")
        assert page.get_by_text("Searched 3 of 5 rows").is_visible()
        page.get_by_role("link", name="Go on", exact=True).click()
        assert keys(reader) == ["R4"]
        reader.context.close()
    assert reader.wrong == []


def test_two_runs_stand_side_by_side_with_what_differs_and_by_how_much(reader: Reader, on_sqlite: Explored) -> None:
    page = reader.open(f"/runs/{on_sqlite.trial}/trial/compare")
    page.get_by_role("link", name=f"Run {on_sqlite.again[:8]}").click()
    table = page.get_by_role("region", name="Agreement").locator("tbody tr").all_inner_texts()
    assert [line.split("\t")[:5] for line in table] == [
        ["cs1_clarity", "score", "4", "3", "75.0 %"],
        ["cs1_depth", "score", "4", "3", "75.0 %"],
        ["cs2_clarity", "score", "3", "3", "100.0 %"],
        ["cs2_depth", "score", "3", "3", "100.0 %"],
    ]
    here, there = (score_of(reader.address, run, "R2", "cs1_clarity") for run in (on_sqlite.trial, on_sqlite.again))
    assert page.locator("tbody tr").filter(has_text="R2").locator("td").first.inner_text().split() == [
        str(here), "→", str(there), f"{there - here:+d}",
    ]  # fmt: skip
    page.get_by_role("link", name="Show all rows").click()
    assert keys(reader)[-8:] == ["R0", "other", "R1", "other", "R2", "other", "R3", "other", "R4", "other"][-8:]
    assert page.locator("td.missing").first.inner_text() == "none"


def score_of(address: str, run_id: str, key: str, question: str) -> int:
    """A score, as the exact export has it."""
    [row] = httpx.get(f"{address}/runs/{run_id}/trial/grid.json?text={key}").json()["rows"]
    score: int = row["answers"][question]["values"]["score"]
    return score


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_view_of_a_grid_has_a_grave_barrier(
    browser: Browser, address: str, on_sqlite: Explored, scheme: Any
) -> None:
    reader = Reader(browser, address, color_scheme=scheme)
    found = {}
    for path in views(on_sqlite):
        reader.open(path).evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        found[path] = reader.barriers(scheme)
    assert found == {path: [] for path in found}
    reader.context.close()


def test_hostile_text_in_a_grid_is_shown_and_does_nothing(reader: Reader, on_sqlite: Explored) -> None:
    page = reader.open(f"/runs/{on_sqlite.hostile}/hostile/grid?field=rationale&text={'%3Cscript%3E'}")
    assert page.get_by_label("Text in key").input_value() == "<script>"
    assert SPELLS[0] in keys(reader)
    page.wait_for_timeout(200)  # for what a spell might still do


def test_every_view_of_a_grid_reads_without_javascript(browser: Browser, address: str, on_sqlite: Explored) -> None:
    reader = Reader(browser, address, java_script_enabled=False)
    for path in views(on_sqlite):
        assert reader.open(path).get_by_role("main").inner_text()
    page = reader.open(f"/runs/{on_sqlite.trial}/trial/grid")
    assert page.get_by_text("arrow keys").count() == 0 or not page.get_by_text("arrow keys").is_visible()
    page.locator("tbody td a").first.click()
    assert page.title() == "cs1_clarity of row R0 · Explorer"
    reader.context.close()


def test_a_printed_grid_has_all_its_columns_and_no_form(reader: Reader, on_sqlite: Explored) -> None:
    page = reader.open(f"/runs/{on_sqlite.trial}/trial/grid")
    page.emulate_media(media="print")
    assert not page.get_by_role("button", name="Show").is_visible()
    assert page.get_by_role("table").is_visible()
    assert page.evaluate("document.querySelector('.grid').scrollWidth <= innerWidth")


def test_a_picture_has_its_numbers_as_a_table(reader: Reader, on_sqlite: Explored) -> None:
    page = reader.open(f"/runs/{on_sqlite.trial}/trial/distribution?question=cs1_depth")
    assert page.get_by_role("img").count() == 1
    page.get_by_text("As a table").click()
    answers = page.locator("section.picture tbody td").all_inner_texts()
    assert sum(map(int, answers)) == 4  # R3 has no answer


# What is taken along -------------------------------------------------------------------------------------------------


def test_the_rows_of_the_view_are_taken_along_as_they_are(address: str, on_sqlite: Explored) -> None:
    grid = f"{address}/runs/{on_sqlite.trial}/trial/grid"
    answer = httpx.get(f"{grid}.csv?failed=yes&descending=yes")
    assert answer.headers["content-disposition"].startswith('attachment; filename="trial_')
    lines = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert [line["row_key"] for line in lines] == ["R4", "R3"]
    assert (lines[1]["cs2_clarity_status"], lines[1]["cs2_clarity_reason"]) == ("refused", "not_json")
    assert lines[1]["cs2_clarity_calls"] == "2" and lines[1]["cs2_clarity_score"] == ""
    found = httpx.get(f"{grid}.json?failed=yes&descending=yes").json()
    assert [row["row_key"] for row in found["rows"]] == ["R4", "R3"]
    assert found["rows"][1]["answers"]["cs1_depth"]["values"]["score"] == int(lines[1]["cs1_depth_score"])
    assert httpx.get(f"{grid}.json?text=nowhere").json()["rows"] == []


FORMULAS = [
    "=1+1",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "\uff1d1",
    "\uff0b1",
    "\uff0d1",
    "\uff20x",
    " =1",
    "\u00a0=1",
    "\u200b=cmd|' /C calc'!A0",
    "\ufeff@x",
    '=HYPERLINK("http://elsewhere.example","x")',
    "'quoted'",
]
HARMLESS = ["a=b", "R1", "", "1-2", "x@y.example", "ｅ＝mc", "two\nlines", 'with "quotes", and commas']


def texted(place: int, text: str) -> DrawnRow:
    """A row whose key is a formula, and whose first answer says this, with a number that begins like one."""
    tries = {question: (Try(1, True, -7, text, "", False),) for question in QUESTIONS}
    return DrawnRow(f"=key {place}", text, tries)


def test_no_text_of_a_csv_is_a_formula(sqlite_url: str, tmp_path: Path) -> None:
    texts = [*FORMULAS, *HARMLESS]
    with Landscape.open(sqlite_url) as landscape:
        run_id = put_on_record(landscape, [texted(place, text) for place, text in enumerate(texts)])
        with served(sqlite_url) as address:
            answer = httpx.get(f"{address}/runs/{run_id}/trial/grid.csv")
            exact = httpx.get(f"{address}/runs/{run_id}/trial/grid.json").json()
    lines = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"), newline="")))
    shown = [line["cs1_clarity_why"] for line in lines]
    assert shown == [*(f"'{text}" for text in FORMULAS), *HARMLESS]
    assert [line["row_key"] for line in lines][:2] == ["'=key 0", "'=key 1"]
    assert [line["cs1_clarity_score"] for line in lines] == ["-7"] * len(texts)
    assert [row["answers"]["cs1_clarity"]["values"]["why"] for row in exact["rows"]] == texts
    assert json.dumps(exact["rows"][0]["row_key"]) == '"=key 0"'
