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


def tell(project: Project, command: str | None) -> tuple[str, dg.SkipReason | None]:
    """The id of a run that fails, and what the sensor says of it."""
    source = {**ATTRIBUTES["source"], "path": "data/{partition}.csv"}
    project.declare(source=source, partitions={"static": ["north"]})
    (project.folder / "data").mkdir(exist_ok=True)
    shutil.copy(EXAMPLE, project.folder / "trial" / "defs")
    if command is not None:
        project.env["TELL_OF_FAILURES"] = command
    failed = project.run(partition="north")
    sensor = project.definitions().resolve_sensor_def("tell_of_failures")
    with project.in_env(), dg.DagsterInstance.get() as instance:
        context = dg.build_run_status_sensor_context(
            sensor_name="tell_of_failures",
            dagster_event=failed.get_run_failure_event(),
            dagster_instance=instance,
            dagster_run=failed.dagster_run,
        )
        return failed.run_id, sensor(context.for_run_failure())


def test_a_failed_run_is_told_with_its_partition_its_step_and_where_it_is(sqlite_project: Project) -> None:
    news = sqlite_project.folder / "news.json"
    sqlite_project.env["DAGSTER_PAGES"] = "https://dagster.example.org/"
    run, _ = tell(sqlite_project, f"{sys.executable} -c '{TAKES_THE_NEWS}' {news}")
    where = f"https://dagster.example.org/runs/{run}"
    told = f"trial_job failed of partition north in trial.admit_rows: {where}"
    assert json.loads(news.read_text()) == {"text": told}


def test_a_command_that_fails_makes_the_tick_fail(sqlite_project: Project) -> None:
    with pytest.raises(CalledProcessError):
        tell(sqlite_project, f"{sys.executable} -c 'raise SystemExit(1)'")


def test_without_a_command_the_tick_says_that_nobody_was_told(sqlite_project: Project) -> None:
    _, skipped = tell(sqlite_project, None)
    assert skipped is not None and "nobody was told" in (skipped.skip_message or "")
