"""The second verifier, as a stranger runs it: a copy of its one file, in a process that knows nothing of ours."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from elspeth_dagster import elspeth_verify
from elspeth_dagster.core.canonical import canonical_json

Change = Callable[[dict[str, Any]], object]


def run_alone(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the file, isolated from this project's path and environment."""
    copy = Path(shutil.copy(elspeth_verify.__file__, folder / "elspeth_verify.py"))
    command = [sys.executable, "-I", str(copy), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def verify(path: Path, vkey: str, capsys: Any, *more: str) -> tuple[int, dict[str, Any]]:
    """Its exit code and findings, in this process."""
    capsys.readouterr()
    code = elspeth_verify.main([str(path), "--key", vkey, "--json", *more])
    return code, json.loads(capsys.readouterr().out)


def changed(proof: bytes, change: Change) -> bytes:
    """A proof with something done to it."""
    document = json.loads(proof)
    change(document)
    return canonical_json(document)


def bodies(document: dict[str, Any]) -> dict[str, bytes]:
    """The bytes of a proof's payloads, by name."""
    return {one["ref"]: base64.b64decode(one["base64"]) for one in document["payloads"]}


def of_table(document: dict[str, Any], table: str) -> list[dict[str, Any]]:
    """A proof's records of a table, with their places."""
    return [one for one in document["records"] if one["table"] == table]
