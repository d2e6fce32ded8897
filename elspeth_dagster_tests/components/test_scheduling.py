"""Which runs a tick of an assessment's schedule asks for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest

from elspeth_dagster_tests.project import ATTRIBUTES, Project

SIX = "0 6 * * *"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as kept:
        yield kept


def tick(
    project: Project, instance: dg.DagsterInstance, partitions: dict[str, object] | None, at: str = "2026-01-07T06:00"
) -> list[tuple[str | None, str | None]]:
    """The partition and run key of each run that a tick at this time (UTC) asks for."""
    path = "data/{partition}.csv" if partitions else "data/rows.csv"
    project.declare(source={**ATTRIBUTES["source"], "path": path}, partitions=partitions, schedule=SIX)
    definitions = project.definitions()
    schedule = definitions.resolve_schedule_def("trial_schedule")
    assert schedule.job_name == "trial_job" and schedule.cron_schedule == SIX
    time = datetime.fromisoformat(at).replace(tzinfo=UTC)
    repository = definitions.get_repository_def()
    with dg.build_schedule_context(instance, time, repository_def=repository) as context:
        told = schedule.evaluate_tick(context)
    if told.skip_message:
        assert told.run_requests == []
        assert told.skip_message == "There is no partition to run."
    return [(request.partition_key, request.run_key) for request in told.run_requests or []]


def test_of_daily_partitions_the_last_complete_day_is_run(project: Project, instance: dg.DagsterInstance) -> None:
    assert tick(project, instance, {"daily": "2026-01-05"}) == [("2026-01-06", "2026-01-06")]


def test_a_late_tick_runs_the_day_of_its_own_time(project: Project, instance: dg.DagsterInstance) -> None:
    assert tick(project, instance, {"daily": "2026-01-05"}, at="2026-02-01T06:00") == [("2026-01-31", "2026-01-31")]


def test_before_the_first_day_is_over_nothing_is_run(project: Project, instance: dg.DagsterInstance) -> None:
    assert tick(project, instance, {"daily": "2026-01-07"}) == []


def test_after_the_last_day_nothing_is_run(project: Project, instance: dg.DagsterInstance) -> None:
    partitions: dict[str, object] = {"daily": "2026-01-05", "until": "2026-01-06"}
    assert tick(project, instance, partitions) == [("2026-01-06", "2026-01-06")]
    assert tick(project, instance, partitions, at="2026-01-08T06:00") == []


def test_of_static_partitions_each_key_is_run_at_every_tick(project: Project, instance: dg.DagsterInstance) -> None:
    for at in ("2026-01-07T06:00", "2026-01-08T06:00"):
        assert tick(project, instance, {"static": ["south", "north"]}, at) == [("south", "south"), ("north", "north")]


def test_of_dynamic_partitions_each_key_that_exists_is_run(project: Project, instance: dg.DagsterInstance) -> None:
    assert tick(project, instance, {"dynamic": "tenders"}) == []
    instance.add_dynamic_partitions("tenders", ["T-1", "T-2"])
    assert [key for key, _ in tick(project, instance, {"dynamic": "tenders"})] == ["T-1", "T-2"]


def test_of_two_dimensions_the_last_complete_day_is_run_with_each_key_of_the_other(
    project: Project, instance: dg.DagsterInstance
) -> None:
    pairs: dict[str, object] = {"multi": {"day": {"daily": "2026-01-05"}, "area": {"static": ["south", "north"]}}}
    assert [key for key, _ in tick(project, instance, pairs)] == ["south|2026-01-06", "north|2026-01-06"]
    assert tick(project, instance, pairs, at="2026-01-05T06:00") == []


def test_of_two_dimensions_without_days_each_pair_is_run(project: Project, instance: dg.DagsterInstance) -> None:
    pairs: dict[str, object] = {"multi": {"site": {"dynamic": "sites"}, "area": {"static": ["south", "north"]}}}
    instance.add_dynamic_partitions("sites", ["mill"])
    assert [key for key, _ in tick(project, instance, pairs)] == ["south|mill", "north|mill"]


def test_without_partitions_the_whole_source_is_run(project: Project, instance: dg.DagsterInstance) -> None:
    assert tick(project, instance, None) == [(None, None)]


def test_a_schedule_is_off_until_somebody_turns_it_on(project: Project) -> None:
    project.declare(schedule=SIX)
    schedule = project.definitions().resolve_schedule_def("trial_schedule")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    assert schedule.execution_timezone == "UTC"


def test_without_a_cron_expression_there_is_no_schedule(project: Project) -> None:
    project.declare()
    assert list(project.definitions().schedules or []) == []
