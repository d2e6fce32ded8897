"""A run is sealed when it ends, however it ends, and what is on record is sound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from elspeth_dagster.cli import main
from elspeth_dagster.core.checkpoints import RunSeal
from elspeth_dagster.core.notes import Note
from elspeth_dagster.landscape.anchoring import held
from elspeth_dagster.landscape.signing import make_key
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project, rows_of_texts


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


def secret_is_nowhere(secret: str, folder: Path, *texts: str) -> bool:
    """Whether a secret is in no file of a folder and in none of these texts."""
    files = (path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return not any(secret.encode() in data for data in (*files, *(text.encode() for text in texts)))
