"""A provider that misbehaves on demand, and a user's project that asks it, on either database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project


@pytest.fixture(scope="session")
def one_server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def server(one_server: FaultServer) -> FaultServer:
    """The provider, well-behaved and without memories."""
    one_server.configure(record=True)
    one_server.reset()
    return one_server


@pytest.fixture
def project(tmp_path: Path, database_url: str, server: FaultServer) -> Project:
    """A project with a landscape on SQLite, then on PostgreSQL."""
    return Project(tmp_path / "project", database_url, server.base_url)


@pytest.fixture
def sqlite_project(tmp_path: Path, server: FaultServer) -> Project:
    """A project with a landscape on SQLite, for what the database has no part in."""
    folder = tmp_path / "project"
    return Project(folder, f"sqlite:///{folder}/landscape.sqlite", server.base_url)
