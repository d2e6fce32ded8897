"""`verify` and `keys` on the command line: what they say, and how they exit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from elspeth_dagster.cli import main
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.signing import load_signer
from elspeth_dagster_tests.landscape.sealed import FIRST, SECOND, write_run, write_sealed_runs
from elspeth_dagster_tests.landscape.test_only_growing import drop_triggers

Ask = Callable[..., Result]


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The verifier key of a deployment that has one, made as a user makes it."""
    made = CliRunner().invoke(main, ["keys", "generate", "--name", "ours", "--to", str(tmp_path / "key")])
    monkeypatch.setenv("ELSPETH_SIGNING_KEY", str(tmp_path / "key"))
    return made.output.strip()


@pytest.fixture
def ask(key: str, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """A command on two sealed runs."""
    monkeypatch.setenv("ELSPETH_LANDSCAPE_URL", sqlite_url)
    write_sealed_runs(sqlite_url, tmp_path / "outside.txt", load_signer(str(tmp_path / "key")))
    yield lambda *words: CliRunner().invoke(main, words)


def forge(url: str, statement: str) -> None:
    """Change the record as its owner can."""
    with Landscape.open(url) as landscape:
        drop_triggers(landscape._database, "")
        landscape.operate(lambda connection: connection.execute(sa.text(statement)))


def test_what_is_sound_exits_with_0_and_what_is_not_with_1_naming_what_is_in_doubt(
    ask: Ask, sqlite_url: str, tmp_path: Path, key: str
) -> None:
    for words in (["latest"], [FIRST], ["--all"], ["--all", "--anchor", f"{tmp_path}/outside.txt", "--key", key]):
        told = ask("verify", *words)
        assert (told.exit_code, "Sound" in told.output) == (0, True), told.output
    forge(sqlite_url, "UPDATE answers SET detail = '\x1b[31m' WHERE token_id = 'run-1-0000001-row'")
    told = ask("verify", FIRST)
    assert told.exit_code == 1
    assert "edited in answers" in told.output and "R1 cs1_depth" in told.output
    document = json.loads(ask("verify", "--all", "--json").output)
    assert (document["sound"], document["found"]) == (False, 2)
    assert document["findings"][0]["touches"] == [{"row": "R1", "question": "cs1_depth"}]
    assert ask("verify", SECOND).exit_code == 0


@pytest.mark.parametrize(
    "words", [[], [FIRST, "--all"], ["--all", "--key", "nonsense"], ["--all", "--anchor", "/nowhere/at/all"]]
)
def test_what_can_not_be_asked_exits_with_2(ask: Ask, words: list[str]) -> None:
    told = ask("verify", *words)
    assert told.exit_code == 2, told.output


def test_a_run_that_is_not_there_exits_with_1(ask: Ask) -> None:
    told = ask("verify", "nobody")
    assert (told.exit_code, "no run 'nobody'" in told.stderr) == (1, True)


def test_a_stranger_s_key_and_an_anchor_of_another_installation_are_found(
    ask: Ask, tmp_path: Path, sqlite_template: Path
) -> None:
    stranger = ask("keys", "generate", "--to", str(tmp_path / "stranger")).output.strip()
    assert "not by " + stranger in ask("verify", "--all", "--key", stranger).output
    (tmp_path / "other.sqlite").write_bytes(sqlite_template.read_bytes())
    write_sealed_runs(f"sqlite:///{tmp_path}/other.sqlite", tmp_path / "other.txt")
    told = ask("verify", "--all", "--anchor", f"{tmp_path}/other.txt")
    assert told.exit_code == 1 and "another installation" in told.output


def test_runs_without_a_seal_are_sealed_on_request(ask: Ask, sqlite_url: str, tmp_path: Path) -> None:
    with Landscape.open(sqlite_url, signer=load_signer(str(tmp_path / "key"))) as landscape:
        write_run(landscape, "run-3")
    assert ask("verify", "run-3").exit_code == 1
    told = ask("verify", "run-3", "--seal-missing")
    assert (told.exit_code, "Sealed run run-3." in told.stderr) == (0, True)


def test_a_key_is_shown_and_handed_over(ask: Ask, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask("keys", "show").output.strip() == key
    new = ask("keys", "generate", "--name", "new", "--to", str(tmp_path / "new")).output.strip()
    told = ask("keys", "rotate", "--new", str(tmp_path / "new"))
    assert (told.exit_code, new in told.output) == (0, True), told.output
    assert ask("keys", "rotate", "--new", str(tmp_path / "new")).exit_code == 2  # the old one is no longer in force
    monkeypatch.setenv("ELSPETH_SIGNING_KEY", str(tmp_path / "new"))
    assert ask("verify", "--all", "--key", key).exit_code == 0


def test_what_a_command_says_of_a_key_file_never_shows_it(ask: Ask, tmp_path: Path) -> None:
    secret = (tmp_path / "key").read_text().strip()
    (tmp_path / "key").chmod(0o644)
    for words in (["keys", "show"], ["verify", "--all"], ["keys", "rotate", "--new", str(tmp_path / "key")]):
        told = ask(*words)
        assert told.exit_code == 2
        assert secret[-20:] not in told.output + told.stderr
    assert ask("keys", "generate", "--to", str(tmp_path / "key")).exit_code == 2
