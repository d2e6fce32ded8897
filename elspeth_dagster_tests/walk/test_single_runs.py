"""Several partitions in one run: what comes of it is what a run for each makes, and no partition mixes with another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from elspeth_dagster.core.canonical import sha256
from elspeth_dagster.landscape import reviews
from elspeth_dagster.landscape.ledger import Landscape, now
from elspeth_dagster.landscape.records import Review
from elspeth_dagster.landscape.words import Verdict
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import ATTRIBUTES, Project, range_tags, rows_of_texts
from elspeth_dagster_tests.walk.staleness import causes
from elspeth_dagster_tests.walk.test_verifying import LEFT_OPEN

KEYS = ["east", "north", "south"]
TABLES = ("results", "answers", "failures", "rejections")
DECLARED: dict[str, Any] = {
    "source": {**ATTRIBUTES["source"], "path": "data/{partition}.csv"},
    "partitions": {"static": KEYS},
    "aggregate": {"rows": 2},
    "checks": {"failure_rate": {"max": 0.4}, "drift": None},
}
ONE_RUN = {**DECLARED, "backfill": "single_run"}
BATCHES = (
    "SELECT r.partition_key, b.trigger_fired, r.row_key FROM batches b JOIN batch_members m USING (batch_id) "
    "JOIN tokens t ON t.token_id = m.token_id JOIN rows r ON r.row_id = t.row_id WHERE b.run_id = :run "
    "ORDER BY b.ordinal, m.ordinal"
)
SENT = "SELECT count(*) FROM calls WHERE run_id = :run"
OF_ITS_OWN = ["run_id", "state_id", "call_id", "latency_ms"]
"""Columns of `answers` that no two runs have in common."""


def write(project: Project, **rows: list[dict[str, str]]) -> None:
    """A file for each partition; one without rows has a header alone."""
    for key in KEYS:
        project.write_rows(rows.get(key) or rows_of_texts(1), f"data/{key}.csv")
        if not rows.get(key):
            path = project.folder / "data" / f"{key}.csv"
            path.write_text(path.read_text().splitlines()[0] + "\n")


def files(project: Project, table: str) -> dict[str, Path]:
    return {key: project.home / "storage" / "trial" / table / f"{key}.parquet" for key in KEYS}


def kept(project: Project) -> dict[str, dict[str, bytes]]:
    return {table: {key: path.read_bytes() for key, path in files(project, table).items()} for table in TABLES}


def frames(project: Project, table: str) -> dict[str, pd.DataFrame]:
    return {key: pd.read_parquet(path) for key, path in files(project, table).items()}


def numbers(result: dg.ExecuteInProcessResult, output: str = "results") -> dict[str | None, dict[str, Any]]:
    """The numbers that plot, of each partition."""
    made = [event.materialization for event in result.get_asset_materialization_events()
            if event.asset_key == dg.AssetKey(["trial", output])]  # fmt: skip
    return {
        one.partition: {name: value.value for name, value in one.metadata.items() if is_number(value.value)}
        for one in made
    }


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def failure(result: Any) -> str:
    [failed] = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    return str(failed.step_failure_data.error.message)


def test_a_run_of_three_partitions_makes_what_three_runs_make(project: Project, server: FaultServer) -> None:
    server.configure(record=True, content_by="body")
    east = [*rows_of_texts(3), {"id": "R2", "cs1_text": "again", "cs2_text": "again"}]
    south = [*rows_of_texts(2, start=10), {"id": "R12", "cs1_text": "", "cs2_text": "text two of row 12."}]
    write(project, east=east, south=south)
    project.declare(**DECLARED)
    apart = {key: project.run(partition=key) for key in KEYS}
    assert all(run.success for run in apart.values())
    before, answers, rejections = kept(project), frames(project, "answers"), frames(project, "rejections")
    project.declare(**ONE_RUN)
    result = project.run_range("east", "south")
    assert result.success and project.fact(SENT, run=result.run_id) == 20
    after = kept(project)
    assert after["results"] == before["results"] and after["failures"] == before["failures"]
    assert_same_but_for_indexes(answers, frames(project, "answers"), OF_ITS_OWN)
    assert_same_but_for_indexes(rejections, frames(project, "rejections"), ["message"])
    [rejected] = frames(project, "rejections")["east"]["message"]
    assert rejected.startswith(f"{project.folder}/data/east.csv: Key 'R2' was there already, on line 4 of")
    assert_recorded_by_partition(project, result.run_id, {key: run.run_id for key, run in apart.items()})
    assert_told_by_partition(result, apart)
    for key in KEYS:
        assert causes(project, "trial/results", key) == []


def assert_same_but_for_indexes(
    before: dict[str, pd.DataFrame], after: dict[str, pd.DataFrame], own: list[str]
) -> None:
    """The same tables; the positions of records go on from partition to partition."""
    gone_by = 0
    for key in KEYS:
        expected = before[key].assign(row_index=before[key]["row_index"] + gone_by)
        pd.testing.assert_frame_equal(after[key].drop(columns=own), expected.drop(columns=own))
        gone_by += 4 if key == "east" else 0


def assert_recorded_by_partition(project: Project, run: str, apart: dict[str, str]) -> None:
    assert project.fact("SELECT partition_keys FROM runs WHERE run_id = :run", run=run) == json.dumps(KEYS)
    assert project.facts(BATCHES, run=run) == [line for key in KEYS for line in project.facts(BATCHES, run=apart[key])]
    written = project.facts("SELECT asset_key, partition_key, row_count FROM artifacts WHERE run_id = :run", run=run)
    expected = [
        project.facts("SELECT asset_key, partition_key, row_count FROM artifacts WHERE run_id = :run", run=one)
        for one in apart.values()
    ]
    assert sorted(map(str, written)) == sorted(str(line) for lines in expected for line in lines)
    assert project.fact(LEFT_OPEN) == 0


def assert_told_by_partition(result: dg.ExecuteInProcessResult, apart: dict[str, dg.ExecuteInProcessResult]) -> None:
    """Plots have each partition's own numbers; what is only the run's is not among them."""
    for output in TABLES:
        told = numbers(result, output)
        for key, run in apart.items():
            alone = numbers(run, output)[key]
            for timing in ("latency_p50_ms", "latency_p95_ms"):
                assert (timing in told[key]) == (timing in alone)
                told[key].pop(timing, None), alone.pop(timing, None)
            of_steps = dict.fromkeys(("throttled", "waited_seconds"), 0)
            assert told[key].pop("partitions") == 3
            assert {**of_steps, **told[key]} == {**of_steps, **alone}
    assert numbers(result)["east"]["rows"] == 3 and numbers(result)["north"]["rows"] == 0
    checks = {(one.check_name, one.partition): one.passed for one in result.get_asset_check_evaluations()}
    names = ("accounted", "linked", "within_bounds", "failure_rate")
    assert checks.pop(("verified", None))  # of the run, whatever partitions it has
    assert checks == {(name, key): True for name in names for key in KEYS}


def test_executed_again_after_a_failure_it_asks_only_what_is_missing(
    sqlite_project: Project, server: FaultServer
) -> None:
    project = sqlite_project
    write(project, east=rows_of_texts(2), north=rows_of_texts(2, start=2), south=rows_of_texts(2, start=4))
    project.declare(**ONE_RUN, review=True)
    project.env["ELSPETH_MAX_CONCURRENCY"] = "1"
    server.configure(rules=[{"status": 401, "contains": "row 3."}])
    failed = project.run_range("east", "south")
    assert not failed.success and project.fact(SENT, run=failed.run_id) == 13
    server.configure()
    again = project.run_again(failed.run_id, tags=range_tags("east", "south"))
    assert again.success and project.fact(SENT, run=again.run_id) == 12
    assert [list(table["reused"]) for table in frames(project, "answers").values()] == [
        [True] * 8, [True] * 4 + [False] * 4, [False] * 8
    ]  # fmt: skip
    agree(project, again.run_id, "R4", "cs1_clarity")
    assert_one_of_them_can_be_replayed_and_verified(project, server)


def agree(project: Project, run: str, row: str, question: str) -> None:
    """Have Ada say of an answer that it stands."""
    [answer] = project.facts(
        "SELECT a.state_id, a.token_id, a.query_key FROM answers a JOIN tokens t ON t.token_id = a.token_id "
        "JOIN rows r ON r.row_id = t.row_id WHERE a.run_id = :run AND r.row_key = :row AND a.query_key = :question",
        **{"run": run, "row": row, "question": question},
    )
    said = Review(**answer, reviewer="Ada", number=0, verdict=Verdict.AGREE, reason=None, values_ref=None,
                  file_hash=sha256(b"sheet"), reviewed_at=now())  # fmt: skip
    with Landscape.open(project.landscape_url) as landscape:
        assert reviews.put(landscape, [reviews.saying(said, {}, None)]) == 1


def assert_one_of_them_can_be_replayed_and_verified(project: Project, server: FaultServer) -> None:
    """With the same results; what people said of the run for all is beside them."""
    before = frames(project, "results")["south"]
    server.reset()
    assert project.run(partition="south", mode="replay").success and server.stats()["received"] == 0
    after = frames(project, "results")["south"]
    assert before["cs1_clarity_reviewer"].isna().all()
    assert list(after["cs1_clarity_reviewer"].dropna()) == ["Ada"] and list(after["id"]) == ["R4", "R5"]
    said = [name for name in after if "_review" in name or name.endswith("_verdict")]
    pd.testing.assert_frame_equal(after.drop(columns=said), before.drop(columns=said))
    assert project.run("trial_verify_job", partition="south", sample=1.0).success
    assert server.stats()["received"] == 8
    told = failure(project.run_range("east", "south", job="trial_verify_job"))
    assert "this takes one partition a run, and 3 were launched as one" in told


def test_a_missing_file_and_a_key_in_two_partitions_are_named_before_anything_is_asked(
    sqlite_project: Project, server: FaultServer
) -> None:
    write(sqlite_project, east=rows_of_texts(2), south=rows_of_texts(1, start=1))
    sqlite_project.declare(**ONE_RUN)
    folder = sqlite_project.folder / "data"
    told = failure(sqlite_project.run_range("east", "south"))
    assert f"Key 'R1' is in partition 'east', on line 3 of {folder}/east.csv" in told
    assert f"in partition 'south', on line 2 of {folder}/south.csv" in told and "one run per partition" in told
    (folder / "south.csv").unlink()
    told = failure(sqlite_project.run_range("east", "south"))
    assert f"{folder}/south.csv (partition 'south'): there is no such file" in told
    assert server.stats()["received"] == 0


def test_of_two_dimensions_a_range_is_a_rectangle_and_drift_is_looked_for_in_each_of_its_partitions(
    sqlite_project: Project, server: FaultServer
) -> None:
    multi = {"date": {"daily": "2026-01-01", "until": "2026-01-03"}, "region": {"static": ["north", "south"]}}
    sqlite_project.declare(
        **ONE_RUN
        | {"source": {**ATTRIBUTES["source"], "path": "data/{date}_{region}.csv"}, "partitions": {"multi": multi}}
        | {"checks": {"drift": {"window": 1}}}
    )
    places = ["2026-01-01|north", "2026-01-01|south", "2026-01-02|north", "2026-01-02|south"]
    for number, place in enumerate(places):
        sqlite_project.write_rows(rows_of_texts(1, start=number), f"data/{place.replace('|', '_')}.csv")
    result = sqlite_project.run_range(places[0], places[-1])
    assert sorted(str(event.partition) for event in result.get_asset_materialization_events()) == sorted(places * 4)
    assert list(sqlite_project.table("results", partition="2026-01-02/north")["id"]) == ["R2"]
    drift = {one.partition: one for one in result.get_asset_check_evaluations() if one.check_name == "drift"}
    assert "Not enough earlier partitions: 0 of 1" in str(drift["2026-01-01|south"].description)
    assert drift["2026-01-02|south"].metadata["earlier_partitions"].value == 1
