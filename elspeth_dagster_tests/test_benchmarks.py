"""Benchmarks still start, measure and tell: each once, as small as it goes, in a process of its own.

What it measures then means nothing. Four can't be made small, and are only imported. `compare.py` starts a PostgreSQL
server and four systems, twice: two of those are asked here by `subjects.py`, and ours is what `ask_step.py` asks with.
`memory.py` and `rows_per_step.py` are whole runs of Dagster, `imports.py` loads it twice.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from elspeth_dagster_tests.fault_server import FaultServer

ROOT = Path(__file__).parents[1]
TELLS = {
    "ask_step.py --rows 2 --concurrency 2": "20 calls, 2 in flight, 0 ms",
    "landscape_size.py --calls 20 --rows 1": "explain slowest",
    "verify.py --rows 2": "0 findings",
}


def told(*command: str) -> str:
    """What a benchmark prints."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    folder = ROOT / "benchmarks"
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize(("command", "words"), TELLS.items(), ids=TELLS)
def test_a_benchmark_tells_what_it_measured(command: str, words: str) -> None:
    assert words in told(*command.split())


def test_the_pages_of_the_explorer_are_measured() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "grid, all filters" in told("explorer.py", "--rows", "2", "--limit", "60", "--port", str(port))


@pytest.mark.parametrize("name", ["bare", "openai"])
def test_what_we_are_compared_with_is_asked(name: str) -> None:
    with FaultServer() as server:
        assert '"seconds"' in told("subjects.py", name, server.base_url, "10", "2")
        assert server.stats()["outcomes"] == {"ok": 10}


def test_what_takes_too_long_to_run_here_can_be_imported() -> None:
    told("-c", "import compare, imports, memory, rows_per_step")
