"""`make demo` as a newcomer runs it, asking a server that answers at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from elspeth_dagster_tests.fault_server import FaultServer


def test_the_demo_tells_its_results_and_leaves_a_link_to_each_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer() as server:
        env = {**os.environ, "DAGSTER_HOME": str(tmp_path), "OPENAI_BASE_URL": server.base_url, "ELSPETH_LLM": "local"}
        command = [sys.executable, "-m", "elspeth_dagster.demo"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "6 records: 5 rows admitted, 1 rejected; 4 assessed, 1 failed." in done.stdout
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(["case_studies", "results"]))
        assert event is not None and event.asset_materialization is not None
        link = event.asset_materialization.metadata["explorer"].value
    assert str(link).startswith("http://127.0.0.1:3001/runs/")
