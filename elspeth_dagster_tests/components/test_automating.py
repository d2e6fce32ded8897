"""When Dagster asks for an assessment's assets by itself, on a real instance, evaluation after evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from elspeth_dagster_tests.components.loaded import mistakes
from elspeth_dagster_tests.project import ATTRIBUTES, Project

SOURCE = dg.AssetKey(["trial", "source"])
TEMPLATE = dg.AssetKey(["trial", "files", "ask.j2"])
FOUR = {dg.AssetKey(["trial", output]) for output in ("results", "answers", "failures", "rejections")}
DAILY = {
    "source": {**ATTRIBUTES["source"], "path": "data/{partition}.csv"},
    "partitions": {"daily": "2026-01-01", "until": "2026-01-02"},
}


class Daemon:
    """Dagster's automation daemon, evaluation by evaluation."""

    def __init__(self, project: Project, instance: dg.DagsterInstance) -> None:
        self._definitions = project.definitions()
        self._instance = instance
        self._cursor: Any = None

    def requested(self, at: datetime | None = None) -> set[tuple[str, str | None]]:
        """The assets that are asked for now, each with its partition."""
        evaluated = dg.evaluate_automation_conditions(
            self._definitions, self._instance, cursor=self._cursor, evaluation_time=at
        )
        self._cursor = evaluated.cursor
        return {(key.path[-1], partition) for key in FOUR for partition in evaluated.get_requested_partitions(key)}

    def observed(self, key: dg.AssetKey, version: str, partition: str | None = None) -> None:
        tags = {"dagster/data_version": version}
        self._instance.report_runless_asset_event(dg.AssetObservation(key, partition=partition, tags=tags))

    def made(self, partition: str | None = None) -> None:
        for key in FOUR:
            self._instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


def all_four(partition: str | None = None) -> set[tuple[str, str | None]]:
    return {(key.path[-1], partition) for key in FOUR}


def test_eager_waits_for_the_source_and_answers_an_edited_template(
    project: Project, instance: dg.DagsterInstance
) -> None:
    project.declare(automation={"condition": "eager"})
    daemon = Daemon(project, instance)
    assert daemon.requested() == set()
    daemon.observed(SOURCE, "1")
    assert daemon.requested() == all_four()
    assert daemon.requested() == set()
    daemon.made()
    assert daemon.requested() == set()
    daemon.observed(TEMPLATE, "2")
    assert daemon.requested() == all_four()


def test_what_a_run_tells_of_its_own_ingredients_asks_for_no_other_run(
    project: Project, instance: dg.DagsterInstance
) -> None:
    project.declare(automation={"condition": "eager"})
    daemon = Daemon(project, instance)
    assert daemon.requested() == set()
    daemon.observed(SOURCE, "1")
    assert daemon.requested() == all_four()
    daemon.observed(TEMPLATE, "1")
    daemon.made()
    assert daemon.requested() == set() and daemon.requested() == set()


def test_missing_asks_for_the_last_day_when_its_source_is_there(project: Project, instance: dg.DagsterInstance) -> None:
    project.declare(**DAILY, automation={"condition": "missing"})
    daemon = Daemon(project, instance)
    assert daemon.requested(datetime(2026, 1, 2, 12, 0, tzinfo=UTC)) == set()
    daemon.observed(SOURCE, "1", "2026-01-01")
    daemon.observed(SOURCE, "1", "2026-01-02")
    assert daemon.requested(datetime(2026, 1, 3, 0, 30, tzinfo=UTC)) == all_four("2026-01-02")
    daemon.observed(TEMPLATE, "2")
    assert daemon.requested(datetime(2026, 1, 3, 0, 31, tzinfo=UTC)) == set()


def test_on_cron_asks_after_a_tick_and_waits_for_no_file(project: Project, instance: dg.DagsterInstance) -> None:
    project.declare(automation={"condition": "on_cron", "cron": "0 6 * * *"})
    daemon = Daemon(project, instance)
    assert daemon.requested(datetime(2026, 1, 2, 5, 0, tzinfo=UTC)) == set()
    assert daemon.requested(datetime(2026, 1, 2, 5, 59, tzinfo=UTC)) == set()
    assert daemon.requested(datetime(2026, 1, 2, 6, 1, tzinfo=UTC)) == all_four()
    assert daemon.requested(datetime(2026, 1, 2, 6, 2, tzinfo=UTC)) == set()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"automation": {"condition": "on_cron"}}, "attributes.automation: `cron` goes with condition on_cron"),
        ({"automation": {"condition": "eager", "cron": "0 6 * * *"}}, "attributes.automation: `cron` goes with"),
        (
            {"automation": {"condition": "on_cron", "cron": "0 25 * * *"}},
            "attributes.automation.cron: '0 25 * * *' is not a cron expression",
        ),
        (
            {"automation": {"condition": "eager"}, "schedule": "0 6 * * *"},
            "attributes.automation: `schedule` would ask for the same partitions once more.",
        ),
        ({"freshness": {"fail_hours": 1, "warn_hours": 2}}, "attributes.freshness: `warn_hours` is less than"),
        (
            {"checks": {"linked": {"severity": "warn"}}},
            "attributes.checks.linked: A warning blocks nothing: give `severity: error`, or `blocking: false`.",
        ),
    ],
)
def test_what_can_not_work_is_refused(project: Project, changes: dict[str, Any], message: str) -> None:
    project.declare(**changes)
    [line] = mistakes(project)
    assert message in line
