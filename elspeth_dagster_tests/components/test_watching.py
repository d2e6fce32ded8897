"""Which runs the sensor of a source's files asks for: a partition once its file is complete, each file once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
import fsspec
import pytest

from elspeth_dagster.components import watching
from elspeth_dagster.core.errors import SourceError
from elspeth_dagster_tests.components.loaded import Ticked
from elspeth_dagster_tests.components.test_automating import Daemon, all_four
from elspeth_dagster_tests.project import ATTRIBUTES, Project

TEXT = "id,cs1_text,cs2_text\nR0,a,b\n"
PAIRS = {"multi": {"date": {"daily": "2026-01-01"}, "region": {"static": ["north", "south_east"]}}}


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as kept:
        yield kept


class Watched(Ticked):
    """A project's file sensor, ticked at times of the test's choosing."""

    module, sensor = watching, "trial_files"

    def __init__(self, project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(project, instance, monkeypatch)
        self.added: list[str] = []
        (project.folder / "data").mkdir()

    def declare(
        self,
        partitions: dict[str, Any] | None,
        path: str = "data/{partition}.csv",
        automation: dict[str, str] | None = None,
        **sensor: Any,
    ) -> None:
        source = {**ATTRIBUTES["source"], "path": path}
        self._project.declare(source=source, partitions=partitions, sensor=sensor, automation=automation)

    def use(self, instance: dg.DagsterInstance) -> None:
        """Tick on another instance."""
        self._instance = instance

    def write(self, name: str, text: str = TEXT) -> None:
        path = self._project.folder / "data" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def remove(self, name: str) -> None:
        (self._project.folder / "data" / name).unlink()

    def tick(self, after: float = 30) -> list[str | None]:
        """The partitions that a tick asks for, so many seconds after the last one."""
        result = self._ticked(after)
        self.observed = [event.partition for event in result.asset_events]
        for event in result.asset_events:
            self._instance.report_runless_asset_event(event)
        self.added = [key for one in result.dynamic_partitions_requests or [] for key in one.partition_keys]
        self.run_keys = [request.run_key for request in result.run_requests or []]
        return [request.partition_key for request in result.run_requests or []]

    def settled(self) -> list[str | None]:
        """The partitions that are asked for once what is there has settled."""
        return [*self.tick(), *self.tick()]


@pytest.fixture
def watched(project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(project, instance, monkeypatch)


def test_a_partition_is_asked_for_once_its_file_has_settled(watched: Watched) -> None:
    watched.declare({"static": ["north", "south"]})
    watched.write("north.csv")
    assert watched.tick() == [] and watched.told == "No further file is complete: 0 dealt with, 1 waited for."
    assert watched.tick() == ["north"]
    assert watched.tick() == [] and watched.told == "No further file is complete: 1 dealt with, 0 waited for."


def test_while_a_file_is_being_written_nothing_is_asked_for(watched: Watched) -> None:
    watched.declare({"static": ["north"]})
    for lines in range(1, 4):
        watched.write("north.csv", TEXT * lines)
        assert watched.tick() == []
    assert watched.tick(after=9) == []
    assert watched.tick(after=1) == ["north"]


def test_how_long_a_file_must_have_settled_is_declared(watched: Watched) -> None:
    watched.declare({"static": ["north"]}, settled_seconds=100)
    watched.write("north.csv")
    assert watched.tick() == watched.tick(after=99) == []
    assert watched.tick(after=1) == ["north"]


def test_with_a_marker_a_file_is_asked_for_as_soon_as_that_is_there(watched: Watched) -> None:
    watched.declare({"dynamic": "sites"}, marker=".done")
    watched.write("north.csv")
    watched.write("south.csv")
    assert watched.settled() == []
    watched.write("south.csv.done", "")
    assert watched.tick() == ["south"]


def test_a_file_of_a_dynamic_partition_adds_it(watched: Watched) -> None:
    watched.declare({"dynamic": "sites"})
    watched.write("north.csv")
    assert watched.settled() == ["north"] and watched.added == ["north"]


def test_a_day_is_asked_for_when_it_is_over(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.declare({"daily": "2026-01-01", "until": "2026-01-31"})
    for day in ("2026-01-05", "2026-02-01", "2025-12-31", "notes"):
        watched.write(f"{day}.csv")
    assert watched.settled() == ["2026-01-05"]


@pytest.mark.parametrize("path", ["data/{date}_{region}.csv", "data/{region}/{date}.csv"])
def test_of_two_dimensions_the_pair_is_asked_for(watched: Watched, path: str) -> None:
    watched.declare(PAIRS, path)
    for day, region in (("2026-01-05", "south_east"), ("2026-01-05", "west"), ("2025-12-31", "north")):
        watched.write(path.removeprefix("data/").format(date=day, region=region))
    assert watched.settled() == ["2026-01-05|south_east"]


def test_of_two_dimensions_the_values_of_a_dynamic_one_are_added(watched: Watched) -> None:
    watched.declare({"multi": {"day": {"daily": "2026-01-01"}, "site": {"dynamic": "sites"}}}, "data/{site}/{day}.csv")
    watched.write("mill/2026-01-05.csv")
    assert watched.settled() == ["2026-01-05|mill"] and watched.added == ["mill"]


def test_a_file_that_its_partition_would_not_read_is_left(watched: Watched) -> None:
    watched.declare(PAIRS, "data/{region}/{partition}.csv")
    watched.write("north/2026-01-05|south_east.csv")
    watched.write("north/2026-01-06|north.csv")
    assert watched.settled() == ["2026-01-06|north"]


def test_without_partitions_the_one_file_is_asked_for(watched: Watched) -> None:
    watched.declare(None, "data/rows.csv")
    watched.write("rows.csv")
    assert watched.settled() == [None] and watched.run_keys == ["trial"]
    assert watched.tick() == []


def test_a_file_is_asked_for_once_also_after_the_cursor_was_lost(watched: Watched) -> None:
    watched.declare({"static": ["north"]})
    watched.write("north.csv")
    assert watched.settled() == ["north"]
    before = watched.run_keys
    watched.cursor = None
    assert watched.settled() == ["north"] and watched.run_keys == before == ["north"]  # Dagster runs a run key once


def test_a_file_that_changed_is_left_and_told(watched: Watched) -> None:
    watched.declare({"static": ["north"]})
    watched.write("north.csv")
    assert watched.settled() == ["north"]
    watched.write("north.csv", TEXT * 2)
    assert watched.settled() == []
    assert watched.told.endswith("Changed since their run was asked for, and left to you: data/north.csv.")


def test_a_file_that_changed_is_asked_for_again_where_that_is_declared(
    watched: Watched, instance: dg.DagsterInstance
) -> None:
    watched.declare({"static": ["west"]}, changed="ask")
    watched.write("west.csv")
    assert watched.settled() == ["west"]
    first = watched.run_keys
    materialize(instance, "west")
    watched.write("west.csv", TEXT * 2)
    assert watched.settled() == ["west"]
    assert first != watched.run_keys and watched.tick() == []


def materialize(instance: dg.DagsterInstance, partition: str) -> None:
    @dg.asset(key=["trial", "results"], partitions_def=dg.StaticPartitionsDefinition([partition]))
    def results() -> None: ...

    dg.materialize([results], instance=instance, partition_key=partition)


def test_a_partition_that_has_its_results_already_is_left_alone(watched: Watched, instance: dg.DagsterInstance) -> None:
    watched.declare({"static": ["east", "south"]})
    materialize(instance, "east")
    watched.write("east.csv")
    watched.write("south.csv")
    assert watched.settled() == ["south"]


def test_a_tick_asks_for_so_many_runs_and_the_next_goes_on(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "AT_ONCE", 2)
    watched.declare({"dynamic": "sites"})
    for name in "abcde":
        watched.write(f"{name}.csv")
    asked = [watched.tick() for _ in range(5)]
    assert asked == [[], ["a", "b"], ["c", "d"], ["e"], []]


@pytest.mark.parametrize("condition", ["eager", "missing"])
def test_beside_automation_a_file_is_asked_for_once_and_told_when_it_changed(
    watched: Watched, project: Project, condition: str
) -> None:
    watched.declare({"static": ["north"]}, automation={"condition": condition})
    with dg.instance_for_test() as own:
        watched.use(own)
        daemon = Daemon(project, own)
        assert daemon.requested() == set()
        watched.write("north.csv")
        assert watched.settled() == ["north"] and daemon.requested() == set()
        daemon.made("north")
        assert daemon.requested() == set()
        watched.write("north.csv", TEXT * 2)
        assert watched.settled() == [] and watched.observed == ["north"]
        assert daemon.requested() == (all_four("north") if condition == "eager" else set())
        assert watched.settled() == [] and watched.observed == [] and watched.told.endswith("to you: data/north.csv.")


def test_a_folder_that_is_not_there_fails_the_tick(watched: Watched, project: Project) -> None:
    watched.declare({"dynamic": "sites"}, "share/{partition}.csv")
    with pytest.raises(SourceError, match="there is no such folder"):
        watched.tick()


def test_names_with_signs_of_patterns_are_meant_as_they_stand(watched: Watched) -> None:
    watched.declare({"dynamic": "sites"}, "data/[a] {partition}.csv")
    watched.write("[a] north.csv")
    watched.write("a south.csv")
    watched.write(".hidden [a] west.csv")
    assert watched.settled() == ["north"]


def test_files_of_a_url_are_found(watched: Watched) -> None:
    files = fsspec.filesystem("memory")
    try:
        watched.declare({"dynamic": "sites"}, "memory://watched/{partition}.csv")
        files.pipe("/watched/north.csv", TEXT.encode())
        assert watched.settled() == ["north"]
        assert watched.tick() == []
    finally:
        files.rm("/watched", recursive=True)


def test_the_sensor_is_off_until_somebody_turns_it_on_and_looks_as_often_as_declared(project: Project) -> None:
    project.declare(sensor={"every_seconds": 5})
    sensor = project.definitions().resolve_sensor_def("trial_files")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    assert sensor.minimum_interval_seconds == 5


def test_without_a_sensor_declared_there_is_none(project: Project) -> None:
    project.declare()
    assert [sensor.name for sensor in project.definitions().sensors or []] == ["trial_run_ends", "trial_edits"]
