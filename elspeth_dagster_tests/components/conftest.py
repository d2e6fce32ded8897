"""A user's project whose definitions are loaded, never run."""

from pathlib import Path

import pytest

from elspeth_dagster_tests.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project without an assessment yet; nothing listens where its provider should be."""
    folder = tmp_path / "project"
    return Project(folder, f"sqlite:///{folder}/landscape.sqlite", "http://127.0.0.1:9/v1")
