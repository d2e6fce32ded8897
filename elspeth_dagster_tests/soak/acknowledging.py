"""What a process was told is durable, noted outside the database at once.

A note is a line `table<TAB>key` in one file, appended by one write: it survives a SIGKILL of its writer. The key is the
primary key, and the status or outcome where a fact has one: others may say something else of the same thing later.
What is noted and not in the database was acknowledged and lost.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from elspeth_dagster.landscape.records import TABLES, Fact, Payload
from elspeth_dagster_tests.soak.failpoints import FOLDER
from elspeth_dagster_tests.soak.instrumenting import surround

LEDGER = "elspeth_dagster.landscape.ledger:Landscape"


def install() -> None:
    """Note every fact of which this process learns that it is durable."""
    for method in ("write", "record"):
        surround(f"{LEDGER}.{method}", after=lambda _landscape, *facts: note(*facts))
    surround("elspeth_dagster.landscape.runs:begin", after=lambda _landscape, run, *_args, **_kwargs: note(run))


def note(*facts: Fact) -> None:
    """Append a line per fact. (Payloads are missed when the facts that name them are.)"""
    lines = [f"{name}\t{json.dumps(key)}\n" for name, key in map(_name, facts) if name != "payloads"]
    os.write(_file(os.getpid()), "".join(lines).encode())


def _name(fact: Fact) -> tuple[str, list[Any]]:
    table = TABLES[type(fact)]
    if isinstance(fact, Payload):
        return table.name, []
    return table.name, [getattr(fact, name) for name in key_columns(table)]


def key_columns(table: sa.Table) -> list[str]:
    """The columns that tell a fact from any other that could stand in its place."""
    words = [name for name in ("status", "outcome") if name in table.columns]
    return [*(column.name for column in table.primary_key), *words]


@functools.cache
def _file(_pid: int) -> int:
    return os.open(noted_file(Path(os.environ[FOLDER])), os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def noted_file(folder: Path) -> Path:
    """Where the notes of all launches of a slice are."""
    return folder / "acknowledged"


def noted(folder: Path) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Table and primary key of everything that was acknowledged."""
    file = noted_file(folder)
    for line in file.read_text().splitlines() if file.exists() else []:
        name, _, key = line.partition("\t")
        yield name, tuple(json.loads(key))
