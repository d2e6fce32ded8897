"""A page about texts that were erased says so in their place, and shows all that is left."""

from __future__ import annotations

import shutil
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from elspeth_dagster.cli.telling import tell
from elspeth_dagster.landscape.explaining import explain
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster_tests.explorer.conftest import Explored, served

OF_ROW = """
    SELECT r.values_ref FROM rows r WHERE r.run_id = :run AND r.row_index = 0
    UNION SELECT r.raw_ref FROM rows r WHERE r.run_id = :run AND r.row_index = 0
    UNION SELECT c.request_ref FROM calls c JOIN tokens t USING (token_id) JOIN rows r USING (row_id)
        WHERE r.run_id = :run AND r.row_index = 0
    UNION SELECT p.body_ref FROM replies p JOIN calls c USING (call_id) JOIN tokens t USING (token_id)
        JOIN rows r USING (row_id) WHERE r.run_id = :run AND r.row_index = 0
    UNION SELECT a.values_ref FROM answers a JOIN tokens t USING (token_id) JOIN rows r USING (row_id)
        WHERE r.run_id = :run AND r.row_index = 0
"""


@pytest.fixture(scope="module")
def landscape_url(on_sqlite: Explored, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A copy of the landscape in which all texts of the first row of a run are gone."""
    kept = Path(on_sqlite.project.landscape_url.removeprefix("sqlite:///"))
    copy = tmp_path_factory.mktemp("erased") / "landscape.sqlite"
    for ending in ("", "-wal"):
        if (file := Path(f"{kept}{ending}")).exists():
            shutil.copy(file, f"{copy}{ending}")
    with closing(sqlite3.connect(copy)) as database, database:
        guards = database.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'payloads'"
        )
        guards_of_payloads = guards.fetchall()
        for name, _ in guards_of_payloads:
            database.execute(f"DROP TRIGGER {name}")
        database.execute(f"UPDATE payloads SET body = x'' WHERE ref IN ({OF_ROW})", {"run": on_sqlite.trial})
        for _, guard in guards_of_payloads:
            database.execute(guard)
    return f"sqlite:///{copy}"


@pytest.fixture(scope="module")
def address(landscape_url: str) -> Iterator[str]:
    with served(landscape_url) as found:
        yield found


def read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return str(answer.read().decode())


def test_the_page_of_a_row_shows_what_is_left(address: str, on_sqlite: Explored) -> None:
    page = read(f"{address}/runs/{on_sqlite.trial}/trial/rows/0")
    assert '<span class="state erased">erased</span>' in page and "text one of row 0" not in page
    assert "cs1_clarity" in page and "data/rows.csv" in page


def test_the_page_of_a_cell_shows_what_is_left(address: str, on_sqlite: Explored) -> None:
    page = read(f"{address}/runs/{on_sqlite.trial}/trial/rows/0/cs1_clarity")
    assert "Request, erased" in page and "Reply, erased" in page and "text one of row 0" not in page
    assert page.count('class="state erased"') >= 5  # the answer, prompt and reply, and both in the list of calls
    assert "gpt-4o-mini" in page and "prompt_tokens" in page


def test_explain_tells_what_is_left(landscape_url: str, on_sqlite: Explored) -> None:
    with Landscape.look_at(landscape_url, patience=5) as landscape:
        explained = explain(landscape, on_sqlite.trial, "R0", "cs1_clarity")
    told = "\n".join(tell(explained))
    assert "as it came  erased: payload " in told and "values erased: payload " in told
    assert "OUTCOME assessed" in told and "text one of row 0" not in told
    assert explained.document()["row"]["erased"].endswith("its hash is left")  # type: ignore[index,call-overload,union-attr]
