"""The example of a run-failure hook, in a user's project, with a run that fails."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from subprocess import CalledProcessError

import dagster as dg
import pytest

from elspeth_dagster_tests.project import ATTRIBUTES, Project

EXAMPLE = Path(__file__).parents[2] / "examples" / "on_failure" / "tell_of_failures.py"
TAKES_THE_NEWS = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read())"


def failed_run(project: Project) -> dg.ExecuteInProcessResult:
    """A run that fails, in a project with the example."""
    source = {**ATTRIBUTES["source"], "path": "data/{partition}.csv"}
    project.declare(source=source, partitions={"static": ["north"]})
    (project.folder / "data").mkdir()
    shutil.copy(EXAMPLE, project.folder / "trial" / "defs")
    return project.run(partition="north")


def tell(project: Project, failed: dg.ExecuteInProcessResult, **env: str) -> dg.SkipReason | None:
    """What the sensor does about a run, in an environment."""
    sensor = project.definitions().resolve_sensor_def("tell_of_failures")
    with project.in_env(env), dg.DagsterInstance.get() as instance:
        context = dg.build_run_status_sensor_context(
            sensor_name="tell_of_failures",
            dagster_event=failed.get_run_failure_event(),
            dagster_instance=instance,
            dagster_run=failed.dagster_run,
        )
        said = sensor(context.for_run_failure())
    assert said is None or isinstance(said, dg.SkipReason)
    return said


def test_a_failed_run_is_told_or_the_tick_says_why_not(sqlite_project: Project) -> None:
    failed = failed_run(sqlite_project)
    news = sqlite_project.folder / "news.json"
    command = f"{sys.executable} -c '{TAKES_THE_NEWS}' {news}"
    tell(sqlite_project, failed, TELL_OF_FAILURES=command, DAGSTER_PAGES="https://dagster.example.org/")
    where = f"https://dagster.example.org/runs/{failed.run_id}"
    told = f"trial_job failed of partition north in trial.admit_rows: {where}"
    assert json.loads(news.read_text()) == {"text": told}
    with pytest.raises(CalledProcessError):
        tell(sqlite_project, failed, TELL_OF_FAILURES=f"{sys.executable} -c 'raise SystemExit(1)'")
    skipped = tell(sqlite_project, failed)
    assert skipped is not None and "nobody was told" in (skipped.skip_message or "")
