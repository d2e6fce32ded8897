"""`erase`, `hold` and `roles` as commands: what they refuse, print and do."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from elspeth_dagster.cli import main
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster_tests.landscape.told import a_text, tell

WHY = ["--reason", "request 42", "--by", "A. Clerk"]


@pytest.fixture
def url(sqlite_url: str) -> str:
    """A landscape with one run about the rows A and B."""
    with Landscape.open(sqlite_url) as landscape:
        tell(landscape, "r1", {"A": a_text("A1"), "B": a_text("B1")})
    return sqlite_url


def command(url: str, *words: str) -> tuple[int, str]:
    printed = CliRunner().invoke(main, [*words, "--landscape", url])
    return printed.exit_code, printed.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "Say what"),
        (["--row", "A", "--run", "r1", *WHY], "Say what"),
        (["--run", "r1", "--with-rejections", *WHY], "go with --row"),
        (["--row", "A", "--reason", "x"], "--reason and --by"),
        (["--older-than", "90 days", *WHY], "is no duration"),
        (["--row", "A", "--reason", "a\x1bb", "--by", "x"], "printable characters"),
    ],
)
def test_what_is_not_said_plainly_is_used_wrongly(url: str, words: list[str], told: str) -> None:
    code, output = command(url, "erase", *words)
    assert code == 2 and told in output


def test_a_held_row_is_named_and_stays_until_the_hold_is_released(url: str) -> None:
    assert command(url, "hold", "add", "--row", "A", "--reason", "case 7", "--by", "B. Counsel") == (
        0,
        "Held: row A.\n",
    )
    code, output = command(url, "erase", "--row", "A", *WHY)
    assert code == 0 and "not touched: row A, held since" in output and "by B. Counsel: case 7" in output
    assert command(url, "erase", "--row", "A", *WHY, "--yes")[0] == 1
    [held] = json.loads(command(url, "hold", "list", "--json")[1])
    assert (held["subject"], held["reason"], held["release"]) == ("A", "case 7", None)
    assert command(url, "hold", "release", "--row", "A", *WHY)[0] == 0
    assert "request 42 (A. Clerk)" in command(url, "hold", "list")[1]
    code, output = command(url, "erase", "--row", "A", *WHY, "--yes", "--json")
    assert code == 0 and json.loads(output)["erasure"]["payloads"] == 5
    assert command(url, "hold", "add", "--row", "Z", *WHY)[0] == 1


def test_files_can_be_written_anew_by_themselves(url: str) -> None:
    assert command(url, "erase", "--clean") == (0, "The database's files are written anew.\n")


def test_roles_are_printed_and_nothing_is_run() -> None:
    printed = CliRunner().invoke(main, ["roles", "--print", "--prefix", "team", "--schema", "audit"])
    assert printed.exit_code == 0
    assert "GRANT INSERT ON audit.calls TO team_writer;" in printed.output
    assert "GRANT INSERT ON audit.erasures" not in printed.output
    assert CliRunner().invoke(main, ["roles"]).exit_code == 2
