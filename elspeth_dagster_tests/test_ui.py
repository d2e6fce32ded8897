"""Beside Dagster's pages `make ui` has the explorer, for as long as these are there."""

from __future__ import annotations

import socket
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from elspeth_dagster.ui import explorer_beside

SECONDS_TO_START = 60


def page(address: str) -> str:
    """The page, when it is there."""
    until = time.monotonic() + SECONDS_TO_START
    while True:
        with suppress(OSError), urllib.request.urlopen(address, timeout=10) as answer:
            return str(answer.read().decode())
        assert time.monotonic() < until
        time.sleep(0.2)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_explorer_is_there_before_the_first_run_and_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/landscape.sqlite"
    monkeypatch.setenv("ELSPETH_LANDSCAPE_URL", url)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with explorer_beside(url, port, "http://127.0.0.1:3000"):
        assert "No run on record is like that" in page(f"http://127.0.0.1:{port}/")
    assert not is_listening(port)
