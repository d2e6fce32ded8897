"""What a person does in Dagster's pages, done over GraphQL to a real `dagster dev`: launch, backfill, stop, go on.

All tests share one; each has an assessment of its own. What takes long is begun when it starts, and looked at later.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from elspeth_dagster_tests.dagster_dev import PATIENCE, DagsterDev
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import ATTRIBUTES, TEMPLATES, Project, rows_of_texts
from elspeth_dagster_tests.test_pacing import assert_paced

ASSETS = ("results", "answers", "failures", "rejections")
IN_ONE_PROCESS = """
from pathlib import Path
import dagster as dg
from elspeth_dagster import resources_from_env

@dg.definitions
def defs():
    resources = resources_from_env()
    resources["llm"] = resources["llm"].model_copy(update={"grace_seconds": 1})
    return dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=Path(__file__).parent),
        dg.Definitions(resources=resources, executor=dg.in_process_executor),
    )
"""
PER_MINUTE = 1200
DAYS = [f"2026-01-0{day}" for day in range(1, 5)]
"""The days of the backfill; there is a file for each."""


def source(path: str | None = "data/{partition}.csv", **changes: Any) -> dict[str, Any]:
    return {**ATTRIBUTES["source"], "path": path, **changes}


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer(record=True) as started:
        yield started


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, server: FaultServer) -> Project:
    folder = tmp_path_factory.mktemp("dev") / "project"
    made = Project(folder, f"sqlite:///{folder}/landscape.sqlite", server.base_url)
    made.env["ELSPETH_REQUESTS_PER_MINUTE"] = str(PER_MINUTE)
    (folder / "trial" / "definitions.py").write_text(IN_ONE_PROCESS)
    days = {"daily": DAYS[0], "until": DAYS[-1]}
    made.declare("days", source=source("data/days/{partition}.csv"), partitions=days)
    pairs = {"multi": {"date": days, "region": {"static": ["north", "south"]}}}
    made.declare("pairs", source=source("data/pairs/{date}_{region}.csv", missing="skip"), partitions=pairs)
    made.declare("twice", source=source("data/twice/{partition}.csv"), partitions={"static": ["north"]})
    made.declare("stopped", source=source("data/stopped/{partition}.csv"), partitions={"static": ["north"]})
    made.declare("late", source=source("data/late/{partition}.csv"), partitions={"static": ["north"]})
    watching = {"settled_seconds": 1, "every_seconds": 1}
    made.declare("sites", source=source("data/sites/{partition}.csv"), partitions={"dynamic": "sites"}, sensor=watching)
    made.declare(
        "letters",
        source=source(None, inbox="data/letters/*.csv"),
        partitions={"dynamic": "letters"},
        sensor={**watching, "files": 2, "max_age_seconds": 3600},
    )
    made.declare("at_once", source=source("data/at_once/{partition}.csv"), partitions=days, backfill="single_run")
    for number, day in enumerate(DAYS):
        made.write_rows(rows_of_texts(10), f"data/days/{day}.csv")
        made.write_rows(rows_of_texts(2, start=2 * number), f"data/at_once/{day}.csv")
    made.write_rows(rows_of_texts(3, start=20), "data/twice/north.csv")
    for assessment in ("pairs", "sites", "letters", "stopped", "late"):
        (folder / "data" / assessment).mkdir()
    return made


def tables(assessment: str) -> list[str]:
    """The assets that a person selects for a backfill."""
    return [f"{assessment}/{name}" for name in ASSETS]


class Story:
    """A `dagster dev`, and the backfills that were begun when it started."""

    def __init__(self, dev: DagsterDev) -> None:
        self.dev = dev
        self.twice = [dev.backfill(tables("twice"), ["north"]) for _ in range(2)]
        self.days = dev.backfill(tables("days"), DAYS)
        self.at_once = dev.backfill(tables("at_once"), DAYS[:3])
        self.late = dev.launch("late_job", "north")
        self.pairs = dev.backfill(tables("pairs"), [f"{DAYS[0]}|north"])


@pytest.fixture(scope="module")
def story(project: Project) -> Iterator[Story]:
    with DagsterDev(project) as dev:
        yield Story(dev)


def calls_of(project: Project, run: str) -> int:
    query = "SELECT count(*) FROM calls c JOIN node_states s USING (state_id) WHERE s.run_id = :run"
    return int(project.fact(query, run=run))


def test_a_run_that_is_stopped_and_executed_again_goes_on(story: Story, project: Project, server: FaultServer) -> None:
    dev = story.dev
    project.write_rows([*rows_of_texts(2, start=70), *rows_of_texts(1, start=99)], "data/stopped/north.csv")
    server.configure(record=True, rules=[{"act": "hang", "contains": "row 99", "times": 1}])
    run = dev.launch("stopped_job", "north")
    answered = "SELECT count(*) FROM answers JOIN runs USING (run_id) WHERE run_id = '{run}'"
    project.wait_for(answered.format(run=run), 8, seconds=PATIENCE)
    dev.terminate(run)
    assert dev.finished(run) == "CANCELED"
    again = dev.execute_again(run, "FROM_ASSET_FAILURE")
    assert dev.finished(again) == "SUCCESS"
    assert calls_of(project, again) == 4
    assert dev.numbers("stopped/results")["north"]["reused"] == 8


def test_a_file_that_comes_is_assessed_once_when_it_is_complete(story: Story, project: Project) -> None:
    story.dev.start_sensor("sites_files")
    story.dev.start_sensor("letters_inbox")
    project.write_rows(rows_of_texts(1), "data/letters/a.csv")
    project.write_rows(rows_of_texts(1, start=1), "data/letters/b.csv")
    project.write_rows(rows_of_texts(1), "data/sites/mill.csv")
    [run] = story.dev.wait_for(lambda: story.dev.runs(dagster__partition="mill"))
    assert story.dev.finished(run["runId"]) == "SUCCESS"
    assert run["tags"]["dagster/run_key"] == "mill"
    assert len(story.dev.runs(dagster__partition="mill")) == 1
    assert {tick["status"] for tick in story.dev.ticks("sites_files")} <= {"SKIPPED", "SUCCESS", "STARTED"}


def test_the_files_of_an_inbox_are_assessed_as_one_partition(story: Story, project: Project) -> None:
    dev = story.dev
    [run] = dev.wait_for(lambda: dev.runs(dagster__sensor_name="letters_inbox"))
    assert dev.finished(run["runId"]) == "SUCCESS"
    [(partition, numbers)] = dev.numbers("letters/results").items()
    assert partition is not None and partition.startswith("000001_")
    assert numbers["rows"] == 2


def test_a_backfill_makes_a_run_for_each_partition_within_limits_and_its_numbers_plot(
    story: Story, project: Project, server: FaultServer
) -> None:
    assert story.dev.backfilled(story.days) == ("COMPLETED_SUCCESS", dict.fromkeys(DAYS, "SUCCESS"))
    assert_plotted(story.dev, DAYS, rows=10)
    assert_paced([request["at"] for request in server.stats()["requests"]], PER_MINUTE)
    edit_a_template(story.dev, project)  # which is noticed by the time of the last test


def edit_a_template(dev: DagsterDev, project: Project) -> None:
    assert dev.stale("days/results", DAYS[0]) == ("FRESH", set())
    (project.folder / "trial" / "defs" / "days" / "ask.j2").write_text(TEMPLATES["ask.j2"] + " Be strict.")


def test_a_backfill_in_a_single_run_materializes_each_partition_with_its_own_numbers_and_checks(
    story: Story, project: Project
) -> None:
    dev, days = story.dev, DAYS[:3]
    assert dev.backfilled(story.at_once) == ("COMPLETED_SUCCESS", {f"{days[0]}...{days[-1]}": "SUCCESS"})
    assert dev.partitions("at_once/results") == {"materialized": 3, "failed": 0, "all": 4}
    told = dev.numbers("at_once/results")
    assert {day: (of_day["rows"], of_day["calls"]) for day, of_day in told.items()} == dict.fromkeys(days, (2, 8))
    checks = dev.checks("at_once/results")["accounted"]
    assert {one["partition"]: one["status"] for one in checks} == dict.fromkeys(days, "SUCCEEDED")


def assert_plotted(dev: DagsterDev, days: list[str], rows: int) -> None:
    """The plots have a point for each day, and every row of it is there."""
    numbers = dev.numbers("days/results")
    assert sorted(str(day) for day in numbers) == days
    for told in numbers.values():
        assert (told["rows"], told["calls"], told["assessed"], told["failed"]) == (rows, 4 * rows, rows, 0)
        assert told["cost_usd"] > 0 and told["prompt_tokens"] > 0
    assert dev.partitions("days/answers") == {"materialized": len(days), "failed": 0, "all": len(days)}


def test_a_column_leads_to_the_columns_of_the_source_that_its_question_is_asked_about(story: Story) -> None:
    lineage = story.dev.column_lineage("days/results")
    assert lineage["cs1_clarity_score"] == {("days/source", "cs1_text")}
    assert lineage["cs2_depth_rationale"] == {("days/source", "cs2_text")}
    assert lineage["id"] == {("days/source", "id")}


def test_the_checks_of_the_last_results_have_passed_and_say_what_they_found(story: Story) -> None:
    found = story.dev.latest_checks("days/results")
    assert set(found) >= {"accounted", "linked", "within_bounds"}
    own = [found[name] for name in ("accounted", "linked", "within_bounds")]
    assert all(one and one["success"] and one["description"] for one in own)
    of_days = story.dev.checks("days/results")["accounted"]
    assert sorted(one["partition"] for one in of_days) == DAYS
    assert {one["status"] for one in of_days} == {"SUCCEEDED"}


def test_a_partition_that_failed_for_want_of_its_file_goes_through_when_it_has_come(
    story: Story, project: Project
) -> None:
    dev = story.dev
    assert dev.finished(story.late) == "FAILURE"
    assert "data/late/north.csv (partition 'north'): there is no such file" in dev.failure(story.late)
    assert dev.partitions("late/results") == {"materialized": 0, "failed": 1, "all": 1}
    project.write_rows(rows_of_texts(1, start=40), "data/late/north.csv")
    assert dev.finished(dev.execute_again(story.late, "FROM_ASSET_FAILURE")) == "SUCCESS"
    assert dev.partitions("late/results") == {"materialized": 1, "failed": 0, "all": 1}


def test_two_backfills_of_a_partition_at_once_are_two_runs_and_each_row_has_one_outcome_in_each(
    story: Story, project: Project
) -> None:
    dev = story.dev
    ended = [dev.backfilled(backfill)[1]["north"] for backfill in story.twice]
    runs = {run["runId"]: run["status"] for run in dev.runs(dagster__partition="north") if is_of(run, story.twice)}
    assert len(runs) == 2 and sorted(runs.values()) == sorted(ended) and "SUCCESS" in ended
    assert all("took over" in dev.failure(run) for run, status in runs.items() if status == "FAILURE")
    outcomes = project.facts(
        "SELECT t.run_id, count(DISTINCT t.token_id) AS rows, count(o.token_id) AS outcomes FROM tokens t "
        "LEFT JOIN token_outcomes o USING (token_id) WHERE t.kind = 'row' AND t.run_id IN (:first, :second) "
        "GROUP BY t.run_id",
        first=min(runs),
        second=max(runs),
    )
    assert [(each["rows"], each["outcomes"]) for each in outcomes] == [(3, 3), (3, 3)]
    assert dev.numbers("twice/results")["north"]["rows"] == 3


def is_of(run: dict[str, Any], backfills: list[str]) -> bool:
    return run["tags"].get("dagster/backfill") in backfills


def test_a_backfill_over_a_partition_without_a_file_comes_to_an_end_and_leaves_it_missing(story: Story) -> None:
    dev = story.dev
    # Dagster calls a backfill failed that didn't materialize all of its partitions, though its runs succeeded.
    assert dev.backfilled(story.pairs) == ("COMPLETED_FAILED", {f"{DAYS[0]}|north": "SUCCESS"})
    assert dev.numbers("pairs/results") == {}
    assert dev.partitions("pairs/results") == {"materialized": 0, "failed": 0, "all": 8}


def test_an_edited_template_marks_the_results_as_stale_and_is_named_as_the_cause(story: Story) -> None:
    dev = story.dev
    dev.wait_for(lambda: dev.stale("days/results", DAYS[0])[0] == "STALE")
    assert dev.stale("days/results", DAYS[0]) == ("STALE", {"days/files/ask.j2"})
    assert dev.stale("twice/results", "north")[0] == "FRESH"


@pytest.mark.skipif("ELSPETH_SOAK" not in os.environ, reason="ten minutes and more; `make soak` runs it")
def test_a_month_of_a_hundred_rows_a_day_ends_complete_and_within_limits(tmp_path: Path, server: FaultServer) -> None:
    days = [f"2026-01-{day:02}" for day in range(1, 31)]
    server.configure(record=True, latency_ms=[20, 200], shares={"429": 0.02, "503": 0.02})
    server.reset()
    folder = tmp_path / "project"
    project = Project(folder, f"sqlite:///{folder}/landscape.sqlite", server.base_url)
    project.env["ELSPETH_REQUESTS_PER_MINUTE"] = "6000"
    partitions = {"daily": days[0], "until": days[-1]}
    project.declare("days", source=source("data/days/{partition}.csv"), partitions=partitions)
    for number, day in enumerate(days):
        project.write_rows(rows_of_texts(100, start=1000 * number), f"data/days/{day}.csv")
    with DagsterDev(project, impatient=False) as dev:
        backfill = dev.backfill(tables("days"), days)
        assert dev.backfilled(backfill, 3600) == ("COMPLETED_SUCCESS", dict.fromkeys(days, "SUCCESS"))
        numbers = dev.numbers("days/results")
        assert sorted(str(day) for day in numbers) == days
        assert {told["rows"] for told in numbers.values()} == {told["assessed"] for told in numbers.values()} == {100}
        assert sum(told["calls"] for told in numbers.values()) == server.stats()["received"] >= 12_000
    assert_paced([request["at"] for request in server.stats()["requests"]], 6000)
