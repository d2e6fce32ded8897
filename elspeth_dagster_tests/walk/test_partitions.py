"""One run for one partition, of whatever kind; what becomes of one whose file is not there; many files as one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from elspeth_dagster.cli.telling import tell
from elspeth_dagster.landscape import inboxes
from elspeth_dagster.landscape.explaining import explain
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import ATTRIBUTES, Project, rows_of_texts

BY_DATE_AND_REGION = {"multi": {"region": {"static": ["north", "south"]}, "date": {"daily": "2026-01-01"}}}
DYNAMIC = {"dynamic": "arrivals"}


def source(**changes: Any) -> dict[str, Any]:
    return {**ATTRIBUTES["source"], "path": "data/{partition}.csv", **changes}


def events(result: dg.ExecuteInProcessResult, kind: str) -> list[dg.DagsterEvent]:
    return [event for event in result.all_events if event.event_type_value == kind]


def failure(result: dg.ExecuteInProcessResult) -> str:
    [failed] = events(result, "STEP_FAILURE")
    assert failed.step_failure_data.error is not None
    return str(failed.step_failure_data.error.message)


def admitted(project: Project) -> dict[str, Any]:
    """What the last run's first op put on record of what it read."""
    detail = project.fact(
        "SELECT e.detail FROM node_states s JOIN node_state_ends e USING (state_id) "
        "JOIN runs r USING (run_id) WHERE s.node_id = 'trial.admit_rows' ORDER BY r.started_at DESC LIMIT 1"
    )
    return dict(json.loads(detail))


@pytest.mark.parametrize("path", ["data/{date}/{region}.csv", "data/{partition}.csv"])
def test_of_two_dimensions_each_pair_is_a_partition_with_a_file_a_table_and_a_record(
    sqlite_project: Project, path: str
) -> None:
    sqlite_project.declare(source=source(path=path), partitions=BY_DATE_AND_REGION)
    key = "2026-01-02|south"
    sqlite_project.write_rows(rows_of_texts(2), "data/2026-01-02/south.csv" if "date" in path else f"data/{key}.csv")
    result = sqlite_project.run(partition=key)
    assert result.success
    assert {event.partition for event in events(result, "ASSET_MATERIALIZATION")} == {key}
    assert list(sqlite_project.table("results", partition="2026-01-02/south")["id"]) == ["R0", "R1"]
    assert sqlite_project.facts("SELECT DISTINCT partition_keys FROM runs") == [{"partition_keys": json.dumps([key])}]
    assert sqlite_project.facts("SELECT DISTINCT partition_key FROM rows") == [{"partition_key": key}]
    assert sqlite_project.facts("SELECT DISTINCT partition_key FROM artifacts") == [{"partition_key": key}]


def test_a_run_of_one_region_takes_nothing_over_from_another_of_the_same_day(sqlite_project: Project) -> None:
    sqlite_project.declare(source=source(path="data/{date}/{region}.csv"), partitions=BY_DATE_AND_REGION)
    for region in ("north", "south"):
        sqlite_project.write_rows(rows_of_texts(1), f"data/2026-01-02/{region}.csv")
        assert sqlite_project.run(partition=f"2026-01-02|{region}").success
    runs = sqlite_project.facts("SELECT run_id, root_run_id FROM runs")
    assert len(runs) == 2 and all(run["run_id"] == run["root_run_id"] for run in runs)
    assert sqlite_project.fact("SELECT count(*) FROM calls") == 8


def test_a_missing_file_fails_the_run_and_is_named(sqlite_project: Project, server: FaultServer) -> None:
    sqlite_project.declare(source=source(), partitions={"static": ["north", "south"]})
    sqlite_project.write_rows(rows_of_texts(1), "data/north.csv")
    result = sqlite_project.run(partition="south")
    assert not result.success and server.stats()["received"] == 0
    assert f"{sqlite_project.folder}/data/south.csv (partition 'south'): there is no such file" in failure(result)


def test_a_missing_file_that_may_be_is_a_run_that_materializes_nothing_and_says_so(
    project: Project, server: FaultServer
) -> None:
    project.declare(source=source(missing="skip"), partitions={"static": ["north", "south"]})
    project.write_rows(rows_of_texts(1), "data/north.csv")
    result = project.run(partition="south")
    assert result.success and server.stats()["received"] == 0
    assert events(result, "ASSET_MATERIALIZATION") == []
    with project.in_env(), dg.DagsterInstance.get() as instance:
        told = "\n".join(entry.user_message for entry in instance.all_logs(result.run_id))
    assert "data/south.csv (partition 'south'): there is no such file" in told and "Nothing was materialized" in told
    [missing] = admitted(project)["missing"]
    assert "data/south.csv" in missing
    assert project.facts("SELECT status FROM run_ends") == [{"status": "completed"}]
    assert project.fact("SELECT count(*) FROM tokens t LEFT JOIN token_outcomes o USING (token_id) "
                        "WHERE o.token_id IS NULL") == 0  # fmt: skip


def test_a_skipped_run_keeps_the_tables_and_is_none_to_replay_or_to_go_on_with(
    sqlite_project: Project, server: FaultServer
) -> None:
    project = sqlite_project
    project.declare(source=source(missing="skip"), partitions={"static": ["north"]})
    project.write_rows(rows_of_texts(1), "data/north.csv")
    asked = project.run(partition="north")
    path = project.folder / "data" / "north.csv"
    path.rename(path.with_suffix(".away"))
    assert project.run(partition="north").success
    assert list(project.table("results", partition="north")["id"]) == ["R0"]
    path.with_suffix(".away").rename(path)
    server.reset()
    for launch in ({"mode": "replay"}, {"reuse": "lineage"}):
        assert project.run(partition="north", **launch).success
    assert server.stats()["received"] == 0
    last = project.facts("SELECT parent_run_id, root_run_id FROM runs ORDER BY started_at")[-1]
    assert last == {"parent_run_id": asked.run_id, "root_run_id": asked.run_id}


def test_a_folder_that_is_not_there_is_no_missing_file(sqlite_project: Project) -> None:
    sqlite_project.declare(source=source(missing="skip"), partitions={"static": ["north"]})
    assert "Its folder is not there either" in failure(sqlite_project.run(partition="north"))


def test_a_run_of_several_partitions_at_once_is_refused_before_anything_is_read(
    sqlite_project: Project, server: FaultServer
) -> None:
    sqlite_project.declare(source=source(), partitions={"static": ["north", "south"]})
    result = sqlite_project.run_range("north", "south")
    assert "`backfill: single_run`" in failure(result) and server.stats()["received"] == 0
    assert sqlite_project.fact("SELECT count(*) FROM runs") == 0


def test_a_range_of_one_partition_is_that_partition(sqlite_project: Project) -> None:
    sqlite_project.declare(source=source(), partitions={"static": ["north", "south"]})
    sqlite_project.write_rows(rows_of_texts(1), "data/south.csv")
    assert sqlite_project.run_range("south", "south").success
    assert sqlite_project.facts("SELECT partition_keys FROM runs") == [{"partition_keys": '["south"]'}]
    assert len(sqlite_project.table("results", partition="south")) == 1


def take(project: Project, *names: str, partition: str = "000001") -> None:
    """Take files into a partition, as the inbox's sensor does."""
    with project.in_env(), Landscape.open(project.landscape_url) as landscape:
        inboxes.take(landscape, "trial", partition, [f"data/inbox/{name}" for name in names])
    with project.in_env(), dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("arrivals", [partition])


def declare_inbox(project: Project, **changes: Any) -> None:
    project.declare(
        source=source(path=None, inbox="data/inbox/*.csv", **changes),
        partitions=DYNAMIC,
        sensor={"max_age_seconds": 60},
    )


def test_the_files_of_an_inbox_are_read_one_after_another_as_one_partition(project: Project) -> None:
    declare_inbox(project)
    project.write_rows(rows_of_texts(2), "data/inbox/b.csv")
    project.write_rows(rows_of_texts(3, start=1), "data/inbox/a.csv")
    project.write_rows(rows_of_texts(1, start=9), "data/inbox/later.csv")
    take(project, "b.csv", "a.csv")
    assert project.run(partition="000001").success
    assert list(project.table("results", partition="000001")["id"]) == ["R0", "R1", "R2", "R3"]
    with Landscape.open(project.landscape_url) as landscape:
        told = {key: explain(landscape, "latest", key) for key in ("R0", "R1", "R2", "R3")}
    files = {key: one.row and one.row.file and Path(one.row.file.name).name for key, one in told.items()}
    assert files == {"R0": "b.csv", "R1": "b.csv", "R2": "a.csv", "R3": "a.csv"}
    assert any(line.strip().startswith(f"from {project.folder}/data/inbox/a.csv  sha256:") for line in tell(told["R3"]))
    [rejection] = project.table("rejections", partition="000001").to_dict("records")
    folder = project.folder / "data" / "inbox"
    assert rejection["row_index"] == 2 and rejection["line"] == 2
    assert rejection["message"].startswith(f"{folder}/a.csv: Key 'R1' was there already, on line 3 of {folder}/b.csv")
    read = admitted(project)["files"]
    assert [(one["source"], one["records"]) for one in read] == [(f"{folder}/b.csv", 2), (f"{folder}/a.csv", 3)]
    assert all(one["sha256"].startswith("sha256:") and one["size"] > 0 for one in read)


def test_a_bad_file_of_an_inbox_is_named_and_when_it_is_mended_the_same_partition_is_read(
    sqlite_project: Project, server: FaultServer
) -> None:
    declare_inbox(sqlite_project)
    sqlite_project.write_rows(rows_of_texts(1), "data/inbox/good.csv")
    sqlite_project.write_rows([{"id": "R5", "other": "x"}], "data/inbox/bad.csv")
    take(sqlite_project, "good.csv", "bad.csv")
    told = failure(sqlite_project.run(partition="000001"))
    assert "data/inbox/bad.csv" in told and "'other'" in told and server.stats()["received"] == 0
    sqlite_project.write_rows(rows_of_texts(1, start=5), "data/inbox/bad.csv")
    assert sqlite_project.run(partition="000001").success
    assert list(sqlite_project.table("results", partition="000001")["id"]) == ["R0", "R5"]


@pytest.mark.parametrize("gone", [["a.csv"], ["a.csv", "b.csv"]])
def test_of_an_inbox_what_is_gone_is_skipped_where_it_may_be(sqlite_project: Project, gone: list[str]) -> None:
    declare_inbox(sqlite_project, missing="skip")
    for number, name in enumerate(("a.csv", "b.csv")):
        sqlite_project.write_rows(rows_of_texts(1, start=number), f"data/inbox/{name}")
    take(sqlite_project, "a.csv", "b.csv")
    for name in gone:
        (sqlite_project.folder / "data" / "inbox" / name).unlink()
    result = sqlite_project.run(partition="000001")
    assert result.success and len(admitted(sqlite_project)["missing"]) == len(gone)
    assert len(events(result, "ASSET_MATERIALIZATION")) == (4 if len(gone) == 1 else 0)


def test_a_partition_of_an_inbox_that_nobody_took_files_into_is_refused(sqlite_project: Project) -> None:
    declare_inbox(sqlite_project)
    take(sqlite_project, "a.csv")
    with sqlite_project.in_env(), dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("arrivals", ["typed"])
    assert "no files were taken into partition 'typed'" in failure(sqlite_project.run(partition="typed"))


def test_an_inbox_whose_folder_is_gone_fails_also_where_files_may_be_missing(sqlite_project: Project) -> None:
    declare_inbox(sqlite_project, missing="skip")
    sqlite_project.write_rows(rows_of_texts(1), "data/inbox/a.csv")
    take(sqlite_project, "a.csv")
    shutil.rmtree(sqlite_project.folder / "data" / "inbox")
    assert "Its folder is not there either" in failure(sqlite_project.run(partition="000001"))
