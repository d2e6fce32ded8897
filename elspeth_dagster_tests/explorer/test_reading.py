"""A reader in a real browser: by keyboard, in light and dark, without JavaScript, past every hostile text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from elspeth_dagster.explorer.visible import plain
from elspeth_dagster.landscape import runs
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.words import RunStatus
from elspeth_dagster_tests.explorer.browser import Reader
from elspeth_dagster_tests.explorer.conftest import DAGSTER, PARTITION, SPELLS, Explored, a_going_run, served


@pytest.fixture
def explored(on_sqlite: Explored) -> Explored:
    """On SQLite alone: what a browser shows doesn't depend on the database."""
    return on_sqlite


@pytest.fixture
def reader(browser: Browser, address: str) -> Iterator[Reader]:
    """A reader, who finds nothing wrong to the end."""
    found = Reader(browser, address)
    yield found
    found.context.close()
    assert found.wrong == []


def pages(explored: Explored) -> dict[str, str]:
    """A page of each kind, by its title."""
    trial, hostile = f"/runs/{explored.trial}", f"/runs/{explored.hostile}"
    return {
        "Runs": "/",
        f"Run {explored.trial[:8]}": trial,
        "Run going": "/runs/going",
        "Row R2": f"{trial}/trial/rows/2",
        "cs1_clarity of row R2": f"{trial}/trial/rows/2/cs1_clarity",
        "Rejected record 5": f"{trial}/trial/rows/5",
        f"Run {explored.hostile[:8]}": hostile,
        f"Row {SPELLS[0]}": f"{hostile}/hostile/rows/0",
        f"cs2_depth of row {SPELLS[0]}": f"{hostile}/hostile/rows/0/cs2_depth",
    }


def test_a_reader_comes_from_the_runs_to_a_cell_by_keyboard(reader: Reader, explored: Explored) -> None:
    reader.open("/")
    reader.press(explored.trial[:8])
    assert reader.page.title() == f"Run {explored.trial[:8]} · Explorer"
    reader.press("batch 1")
    reader.press("R2")
    assert reader.page.title() == "Row R2 · Explorer"
    reader.press("cs1_clarity")
    assert reader.page.title() == "cs1_clarity of row R2 · Explorer"
    assert reader.page.get_by_role("heading", name="Call 2: repair").is_visible()


def test_the_first_key_skips_to_the_content(reader: Reader) -> None:
    page = reader.open("/")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_grave_barrier(browser: Browser, address: str, explored: Explored, scheme: str) -> None:
    reader = Reader(browser, address, color_scheme=scheme)
    found = {}
    for title, path in pages(explored).items():
        assert reader.open(path).title() == f"{plain(title)} · Explorer"
        found[title] = reader.barriers(scheme)
    assert found == {title: [] for title in found}
    reader.context.close()


def test_hostile_text_is_shown_and_does_nothing(reader: Reader, explored: Explored) -> None:
    run = f"/runs/{explored.hostile}"
    shown = [reader.open("/").inner_text("main"), reader.open(run).inner_text("main")]
    for index, spell in enumerate(SPELLS):
        assert " ".join(plain(spell).split()) in " ".join(
            reader.open(f"{run}/hostile/rows/{index}").inner_text("h1").split()
        )
    for path in ("0", "0/cs1_depth", "0/cs2_depth", "1/cs1_depth", str(len(SPELLS))):
        page = reader.open(f"{run}/hostile/rows/{path}")
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        shown.append(page.inner_text("main"))
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert (
            page.locator(".text").evaluate_all("found => found.filter(e => e.scrollWidth > e.clientWidth + 1).length")
            == 0
        )
    assert plain(PARTITION) in shown[0] and plain(PARTITION) in shown[1]
    for text in shown[2:]:
        assert [spell for spell in SPELLS if plain(spell) not in text] == []
    reader.page.wait_for_timeout(200)  # for what a spell might still do


def test_a_hidden_character_is_marked_and_told_by_name(reader: Reader, explored: Explored) -> None:
    page = reader.open(f"/runs/{explored.hostile}/hostile/rows/11")
    mark = page.locator("h1 .hidden-character").first
    assert (mark.inner_text(), mark.get_attribute("title")) == ("⟨U+202E⟩", "right-to-left override")


def test_every_page_reads_without_javascript(browser: Browser, address: str, explored: Explored) -> None:
    reader = Reader(browser, address, java_script_enabled=False)
    for title, path in pages(explored).items():
        page = reader.open(path)
        assert page.title() == f"{plain(title)} · Explorer"
        assert page.get_by_role("main").inner_text()
    reader.open(f"/runs/{explored.trial}").fill("[name=key]", "R3")
    reader.page.get_by_role("button").click()
    assert reader.page.title() == "Row R3 · Explorer"
    reader.context.close()


def test_a_run_that_goes_on_shows_how_far_it_is_by_itself(browser: Browser, sqlite_url: str) -> None:
    with Landscape.open(sqlite_url) as landscape:
        landscape.write(*a_going_run("r1"))
        with served(sqlite_url) as address:
            reader = Reader(browser, address)
            page = reader.open("/runs/r1")
            assert page.get_by_role("progressbar").is_visible()
            runs.end(landscape, "r1", RunStatus.COMPLETED, None)
            page.get_by_role("progressbar").wait_for(state="detached", timeout=10_000)
            assert page.locator("#live .state").first.inner_text() == "completed"
            reader.context.close()
    assert reader.wrong == []


def test_a_cell_leads_to_dagster_and_to_the_run_that_asked(reader: Reader, explored: Explored) -> None:
    page = reader.open(f"/runs/{explored.again}/trial/rows/0/cs1_clarity")
    link = page.get_by_role("link", name="in Dagster")
    assert link.get_attribute("href") == f"{DAGSTER}/runs/{explored.trial}"
    page.get_by_role("link", name="another run").click()
    assert page.url.endswith(f"/runs/{explored.trial}/trial/rows/0/cs1_clarity")
