"""What the sensor of an inbox takes, and asks for: each file in one partition, each partition with its run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from elspeth_dagster.components import emptying
from elspeth_dagster.core.errors import SourceError
from elspeth_dagster.landscape import inboxes
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster_tests.components.loaded import Ticked
from elspeth_dagster_tests.project import ATTRIBUTES, Project


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as kept:
        yield kept


class Inbox(Ticked):
    """A project's inbox and its sensor, ticked at times of the test's choosing."""

    module, sensor = emptying, "trial_inbox"

    def __init__(self, project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(project, instance, monkeypatch)
        self._folder = project.folder / "data" / "inbox"
        self._folder.mkdir(parents=True)
        self.declare(files=2, max_age_seconds=600)

    def declare(self, **sensor: Any) -> None:
        source = {**ATTRIBUTES["source"], "path": None, "inbox": "data/inbox/*.csv"}
        self._project.declare(source=source, partitions={"dynamic": "arrivals"}, sensor=sensor)

    def bring(self, *names: str) -> None:
        for name in names:
            (self._folder / name).write_text("id,cs1_text,cs2_text\nR0,a,b\n")

    def tick(self, after: float = 30) -> list[list[str]]:
        """The files of each partition that a tick asks for, so many seconds after the last one."""
        result = self._ticked(after)
        self.keys = [request.partition_key or "" for request in result.run_requests or []]
        assert self.keys == [request.run_key for request in result.run_requests or []]
        added = [key for one in result.dynamic_partitions_requests or [] for key in one.partition_keys]
        assert added == self.keys
        return [self.files(key) for key in self.keys]

    def files(self, key: str) -> list[str]:
        """The names of a partition's files, as it is kept."""
        with Landscape.open(self._project.landscape_url) as landscape, landscape.read() as connection:
            return [Path(file).name for file in inboxes.files_of(connection, "trial", key)]


@pytest.fixture
def inbox(project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Inbox:
    return Inbox(project, instance, monkeypatch)


def test_when_enough_files_have_come_they_are_a_partition_and_the_rest_follows_when_it_is_old(inbox: Inbox) -> None:
    inbox.bring("a.csv", "b.csv", "c.csv")
    assert inbox.tick() == [] and inbox.told == "0 complete files wait, 3 are still being written."
    assert inbox.tick() == [["a.csv", "b.csv"]]
    assert re.fullmatch(r"000001_[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{6}Z", inbox.keys[0])
    assert inbox.tick() == [] and inbox.told == "1 complete files wait, 0 are still being written."
    assert inbox.tick(after=539) == []
    assert inbox.tick() == [["c.csv"]] and inbox.keys[0].startswith("000002_")
    assert inbox.tick(after=10_000) == [] and inbox.told == "0 complete files wait, 0 are still being written."


def test_a_file_that_lies_in_the_inbox_for_ever_is_taken_once_also_after_the_cursor_was_lost(inbox: Inbox) -> None:
    inbox.bring("a.csv", "b.csv")
    assert [*inbox.tick(), *inbox.tick()] == [["a.csv", "b.csv"]]
    first, inbox.cursor = inbox.keys, None
    inbox.bring("c.csv", "d.csv")
    assert inbox.tick() == [["a.csv", "b.csv"]] and inbox.keys == first  # Dagster runs a run key once
    assert inbox.tick() == [["c.csv", "d.csv"]]


def test_what_a_tick_took_before_it_died_is_asked_for_by_the_next(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.bring("a.csv", "b.csv")
    inbox.tick()
    with monkeypatch.context() as dying:
        dying.setattr(emptying.inboxes, "partitions_after", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            inbox.tick()
    inbox.bring("c.csv", "d.csv")
    assert inbox.tick() == [["a.csv", "b.csv"]]
    assert inbox.tick() == [["c.csv", "d.csv"]]


def test_a_file_that_changes_after_it_was_taken_stays_where_it_is(inbox: Inbox, project: Project) -> None:
    inbox.bring("a.csv", "b.csv")
    assert len([*inbox.tick(), *inbox.tick()]) == 1
    (project.folder / "data" / "inbox" / "a.csv").write_text("id,cs1_text,cs2_text\nR0,changed,b\n")
    assert [*inbox.tick(), *inbox.tick(after=1000)] == []


def test_with_a_marker_files_wait_for_that_and_markers_are_no_files(inbox: Inbox) -> None:
    inbox.declare(files=1, max_age_seconds=600, marker=".done.csv")
    inbox.bring("a.csv", "b.csv", "b.csv.done.csv")
    assert inbox.tick() == [["b.csv"]]
    assert inbox.tick() == [] and inbox.told == "0 complete files wait, 1 are still being written."


def test_other_files_stay_where_they_are(inbox: Inbox) -> None:
    inbox.declare(max_age_seconds=60)
    inbox.bring("a.csv", "a.csv.part", ".b.csv")
    assert [*inbox.tick(), *inbox.tick(after=100)] == [["a.csv"]]


def test_an_inbox_that_is_not_there_fails_the_tick(inbox: Inbox, project: Project) -> None:
    (project.folder / "data" / "inbox").rmdir()
    with pytest.raises(SourceError, match="there is no such folder"):
        inbox.tick()


def test_the_sensor_is_off_until_somebody_turns_it_on(inbox: Inbox, project: Project) -> None:
    sensor = project.definitions().resolve_sensor_def("trial_inbox")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    assert sensor.description is not None and "when there are 2 of them or one has waited for 600 seconds" in (
        sensor.description
    )
