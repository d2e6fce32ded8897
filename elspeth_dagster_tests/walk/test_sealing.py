"""A run is sealed when it ends, however it ends, and what is on record is sound."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from elspeth_dagster.cli import main
from elspeth_dagster.core.checkpoints import RunSeal
from elspeth_dagster.core.notes import Note
from elspeth_dagster.landscape import sealing
from elspeth_dagster.landscape.anchoring import held
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.signing import load_signer, make_key
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project, rows_of_texts
from elspeth_dagster_tests.walk.test_presenting import DOWNSTREAM

ALL_BUT_VERIFICATION = DOWNSTREAM.replace(
    "materializable()", 'materializable() - dg.AssetSelection.assets(["trial", "verification"])'
)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A deployment that has a key, and an anchor outside."""
    signer = make_key(tmp_path / "signing.key", "ours")
    monkeypatch.setenv("ELSPETH_SIGNING_KEY", str(tmp_path / "signing.key"))
    monkeypatch.setenv("ELSPETH_ANCHORS", str(tmp_path / "outside.txt"))
    secret = (tmp_path / "signing.key").read_text().strip().rpartition("+")[2]
    yield SimpleNamespace(verifier=signer.verifier, anchor=str(tmp_path / "outside.txt"), secret=secret)


def test_a_run_is_sealed_anchored_and_verified_and_its_re_execution_names_its_root(
    project: Project, server: FaultServer, kept: SimpleNamespace, tmp_path: Path
) -> None:
    project.declare()
    project.write_rows(rows_of_texts(3))
    server.configure(rules=[{"status": 401, "contains": "row 1."}])
    first = project.run()
    server.configure(rules=[])
    second = project.run()
    assert (first.success, second.success) == (False, True)
    seals = project.facts("SELECT run_id, note FROM seals ORDER BY sealed_at")
    assert [seal["run_id"] for seal in seals] == [first.run_id, second.run_id]
    sealed = [RunSeal.read(Note.read(seal["note"]).text) for seal in seals]
    assert sealed[1].parent == (first.run_id, sealed[0].root)
    for seal in seals:
        assert Note.read(seal["note"]).signed_by([kept.verifier]) == [kept.verifier]
    kinds = [fact["kind"] for fact in project.facts("SELECT kind FROM log_entries ORDER BY log_index")]
    assert kinds[:3] == ["begin", "key", "run_start"] and kinds.count("run_seal") == len(seals)
    assert len(held(kept.anchor)) >= 2
    [check] = [one for one in second.get_asset_check_evaluations() if one.check_name == "verified"]
    assert check.passed, check.metadata
    told = CliRunner().invoke(
        main, ["verify", "--all", "--landscape", project.landscape_url, "--key", kept.verifier.vkey]
    )
    assert told.exit_code == 0, told.output
    assert "Note" not in told.output
    assert secret_is_nowhere(kept.secret, tmp_path / "project", told.output)


def test_a_record_that_is_not_sealed_is_as_grave_as_declared(
    sqlite_project: Project, server: FaultServer, kept: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite_project.declare(checks={"verified": {"blocking": True}})
    (sqlite_project.folder / "trial" / "defs" / "report.py").write_text(ALL_BUT_VERIFICATION)
    sqlite_project.write_rows(rows_of_texts(1))
    enter_the_key(sqlite_project)
    monkeypatch.delenv("ELSPETH_SIGNING_KEY")
    assert made_and_told(sqlite_project) == (False, "ERROR", False)
    sqlite_project.declare(checks={"verified": {"severity": "warn"}})
    assert made_and_told(sqlite_project) == (True, "WARN", False)


def enter_the_key(project: Project) -> None:
    """Have the log name the key that signs, before any run."""
    signer = load_signer(os.environ["ELSPETH_SIGNING_KEY"])
    with Landscape.open(project.landscape_url, signer=signer) as landscape:
        sealing.publish(landscape)


def made_and_told(project: Project) -> tuple[bool, str, bool]:
    """Whether what is downstream was made, and what the check says."""
    run = project.run("whole_job")
    made = {event.asset_key.path[-1] for event in run.get_asset_materialization_events() if event.asset_key}
    [check] = [one for one in run.get_asset_check_evaluations() if one.check_name == "verified"]
    return "report" in made, check.severity.value, check.passed


def test_a_record_that_was_put_back_is_noticed_by_what_dagster_holds(
    sqlite_project: Project, server: FaultServer, kept: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ELSPETH_ANCHORS")
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(1))
    enter_the_key(sqlite_project)
    database = Path(sqlite_project.landscape_url.removeprefix("sqlite:///"))
    backup = database.with_suffix(".backup")
    with closing(sqlite3.connect(database)) as there, closing(sqlite3.connect(backup)) as copied:
        there.backup(copied)
    run = sqlite_project.run()
    [results] = [one.materialization for one in run.get_asset_materialization_events()
                 if one.materialization.asset_key.path[-1] == "results"]  # fmt: skip
    held_by_dagster = str(results.metadata["checkpoint"].value)
    assert Note.read(held_by_dagster).signed_by([kept.verifier])
    (sqlite_project.home / "copied from the page.txt").write_text(f"checkpoint\n{held_by_dagster}")
    for ending in ("-wal", "-shm"):
        database.with_name(database.name + ending).unlink(missing_ok=True)
    backup.replace(database)
    arguments = ["verify", "--all", "--landscape", sqlite_project.landscape_url]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    told = CliRunner().invoke(main, [*arguments, "--anchor", str(sqlite_project.home / "copied from the page.txt")])
    assert told.exit_code == 1 and "rolled back" in told.output
    [check] = [one for one in sqlite_project.run().get_asset_check_evaluations() if one.check_name == "verified"]
    assert not check.passed and "in Dagster's event log" in str(check.metadata["found"].value)


def secret_is_nowhere(secret: str, folder: Path, *texts: str) -> bool:
    """Whether a secret is in no file of a folder and in none of these texts."""
    files = (path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return not any(secret.encode() in data for data in (*files, *(text.encode() for text in texts)))
