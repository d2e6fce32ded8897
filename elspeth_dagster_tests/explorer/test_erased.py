"""A page about texts that were erased says so in their place, and shows all that is left."""

from __future__ import annotations

import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from elspeth_dagster.cli.telling import tell
from elspeth_dagster.core.canonical import sha256
from elspeth_dagster.landscape import reviews, scopes
from elspeth_dagster.landscape.erasing import Wanted, erase
from elspeth_dagster.landscape.explaining import explain
from elspeth_dagster.landscape.ledger import Landscape, now
from elspeth_dagster.landscape.records import Review
from elspeth_dagster.landscape.words import Verdict
from elspeth_dagster_tests.explorer.conftest import Explored, served


@pytest.fixture(scope="module")
def landscape_url(on_sqlite: Explored, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A copy of the landscape in which all texts of a row were erased."""
    kept = Path(on_sqlite.project.landscape_url.removeprefix("sqlite:///"))
    copy = tmp_path_factory.mktemp("erased") / "landscape.sqlite"
    for ending in ("", "-wal"):
        if (file := Path(f"{kept}{ending}")).exists():
            shutil.copy(file, f"{copy}{ending}")
    with Landscape.open(f"sqlite:///{copy}", create=False) as landscape:
        correct(landscape, on_sqlite.trial, "cs1_clarity")
        erase(landscape, Wanted(row_key="R0", assessment="trial"), "a request", "a clerk")
    return f"sqlite:///{copy}"


def correct(landscape: Landscape, run_id: str, question: str) -> None:
    """Have somebody correct what was answered about R0."""
    given = explain(landscape, run_id, "R0", question).questions[0].answer
    assert given is not None
    key = (given.answer.state_id, given.answer.token_id, given.answer.query_key)
    review = Review(*key, "Ada", 0, Verdict.CORRECT, None, None, sha256(b"a sheet"), now())
    scope = scopes.of_rows(landscape, "trial", ["R0"])["R0"]
    assert reviews.put(landscape, [reviews.saying(review, {"score": 7}, scope)]) == 1


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
    assert told.count("under a request by a clerk") >= 3 and "values erased on " in told
    assert "review 1 by Ada: correct, at " in told and "correction erased on " in told
    assert "OUTCOME assessed" in told and "text one of row 0" not in told
    assert explained.document()["row"]["erased"]["reason"] == "a request"  # type: ignore[index,call-overload]
