"""Rows from files and assets, with and without partitions; what can't be a row is kept, what can't be read told."""

import json

import dagster as dg
import pandas as pd
import pytest

from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project, load_definitions, rows_of_texts

COLUMNS = {"id": "str", "cs1_text": "str", "cs2_text": "str"}


def source(path: str) -> dict:
    return {"path": path, "key": ["id"], "columns": COLUMNS}


def write(project: Project, name: str, text: str | bytes) -> None:
    path = project.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
def test_the_same_rows_of_any_format_are_asked_the_same(
    sqlite_project: Project, server: FaultServer, ending: str
) -> None:
    rows = rows_of_texts(3)
    frame = pd.DataFrame(rows)
    write(sqlite_project, "data/rows.csv", frame.to_csv(index=False))
    write(sqlite_project, "data/rows.jsonl", frame.to_json(orient="records", lines=True))
    write(sqlite_project, "data/rows.json", frame.to_json(orient="records"))
    frame.to_parquet(sqlite_project.folder / "data" / "rows.parquet")
    sqlite_project.declare(source=source(f"data/rows.{ending}"))
    assert sqlite_project.run().success
    assert sqlite_project.table("results")[list(COLUMNS)].to_dict("records") == rows
    asked = sqlite_project.facts("SELECT request_ref FROM calls ORDER BY request_ref")
    assert len(asked) == 12 == len({bytes(call["request_ref"]) for call in asked})


def test_a_bad_record_is_a_rejection_with_its_raw_text_and_the_rest_go_on(project: Project) -> None:
    write(
        project,
        "data/rows.csv",
        b'id,cs1_text,cs2_text\nR0,a,b\nR1,only two\nR2,"unclosed,b\nR3,caf\xe9,b\nR0,again,b\nR4,n\x00l,b\nR5,a,b\n',
    )
    project.declare()
    assert project.run().success
    assert list(project.table("results")["id"]) == ["R0", "R5"]
    rejections = project.table("rejections")
    assert list(rejections["line"]) == [3, 4, 5, 6, 7]
    assert list(rejections["reason"]) == ["ragged", "quoting", "encoding", "repeated_key", "nul"]
    assert list(rejections["raw"])[:2] == ["R1,only two", 'R2,"unclosed,b']
    assert project.fact("SELECT count(*) FROM rows") == 2
    assert project.fact("SELECT count(*) FROM row_rejections") == 5
    read = project.fact("SELECT e.detail FROM node_states s JOIN node_state_ends e USING (state_id) "
                        "WHERE s.node_id = 'trial.admit_rows'")  # fmt: skip
    assert {name: json.loads(read)[name] for name in ("rows", "rejected")} == {"rows": 2, "rejected": 5}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "there is no such file"),
        ("", "empty"),
        ("id,cs1_text,cs1_text\nR0,a,b\n", "cs1_text"),
        ("id,cs1_text,cs2_text,extra\nR0,a,b,c\n", "extra"),
        ("id,cs1_text\nR0,a\n", "cs2_text"),
        ("R0,a,b\n", "column 1 is not declared"),
        ("id,cs1_text,cs2_text\n".encode("utf-16"), "UTF-8"),
    ],
)
def test_a_source_that_can_not_be_read_stops_the_run_and_names_file_and_column(
    sqlite_project: Project, server: FaultServer, content: str | bytes | None, told: str
) -> None:
    if content is not None:
        write(sqlite_project, "data/rows.csv", content)
    sqlite_project.declare()
    result = sqlite_project.run()
    assert not result.success
    [failure] = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    message = failure.step_failure_data.error_display_string
    assert told in message and "data/rows.csv" in message
    assert server.stats()["received"] == 0


def test_a_key_too_long_to_be_one_is_a_rejection_on_either_database(project: Project) -> None:
    long = "".join(chr(33 + n * 7 % 90) for n in range(4000)).replace('"', "x").replace(",", "x")
    write(project, "data/rows.csv", f"id,cs1_text,cs2_text\nR0,a,b\n{long},a,b\n{'é' * 500},a,b\n{'é' * 501},a,b\n")
    project.declare()
    assert project.run().success
    assert list(project.table("results")["id"]) == ["R0", "é" * 500]
    assert list(project.table("rejections")["reason"]) == ["too_large", "too_large"]
    assert list(project.table("rejections")["column"]) == ["id", "id"]


def test_daily_partitions_read_a_file_each(sqlite_project: Project) -> None:
    sqlite_project.declare(source=source("data/{partition}.csv"), partitions={"daily": "2026-01-01"})
    for day in (1, 2):
        sqlite_project.write_rows(rows_of_texts(1, start=day), f"data/2026-01-0{day}.csv")
        assert sqlite_project.run(partition=f"2026-01-0{day}").success
        assert list(sqlite_project.table("results", partition=f"2026-01-0{day}")["id"]) == [f"R{day}"]
    assert sqlite_project.facts("SELECT partition_keys FROM runs ORDER BY started_at") == [
        {"partition_keys": '["2026-01-01"]'},
        {"partition_keys": '["2026-01-02"]'},
    ]


def test_static_and_dynamic_partitions(sqlite_project: Project) -> None:
    sqlite_project.declare("trial", source=source("data/{partition}.csv"), partitions={"static": ["north", "south"]})
    sqlite_project.declare("second", source=source("data/{partition}.csv"), partitions={"dynamic": "sites"})
    sqlite_project.write_rows(rows_of_texts(1), "data/north.csv")
    assert sqlite_project.run("trial_job", partition="north").success
    with sqlite_project.in_env(), dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("sites", ["north"])
    assert sqlite_project.run("second_job", partition="north").success
    assert len(sqlite_project.table("results", "second", partition="north")) == 1


ASSETS = """
import pandas as pd
alone = defs

@dg.asset(key=["intake", "texts"])
def texts():
    return pd.DataFrame([
        {"id": "R0", "cs1_text": "one", "cs2_text": "two", "weight": 1.5},
        {"id": "R1", "cs1_text": "one", "cs2_text": None, "weight": 2.5},
        {"id": "R0", "cs1_text": "again", "cs2_text": "two", "weight": 1.5},
    ])

@dg.asset(ins={"results": dg.AssetIn(["trial", "results"])})
def report(results: pd.DataFrame):
    assert list(results["id"]) == ["R0"], results
    assert results["cs1_clarity_score"].dtype == "Int64"
    return int(results["cs1_clarity_score"].sum())

@dg.definitions
def defs():
    everything = dg.define_asset_job("everything_job", selection=dg.AssetSelection.all())
    return dg.Definitions.merge(alone(), dg.Definitions(assets=[texts, report], jobs=[everything]))
"""


def test_an_upstream_data_frame_goes_in_and_a_downstream_asset_takes_one_out(project: Project) -> None:
    from_asset = {"asset": "intake/texts", "key": ["id"], "columns": {**COLUMNS, "weight": "float"}}
    project.declare(source=from_asset)
    with (project.folder / "trial" / "definitions.py").open("a") as file:
        file.write(ASSETS)
    assert project.run("everything_job").success
    assert list(project.table("rejections")["reason"]) == ["repeated_key"]
    assert "'cs2_text' is blank" in project.table("failures")["cs2_clarity_reason"][0]
    assert list(project.table("results")["weight"]) == [1.5]


def test_declared_types_come_out_as_they_went_in(sqlite_project: Project) -> None:
    columns = {**COLUMNS, "n": "int", "x": "float", "ok": "bool", "on": "date", "at": "datetime"}
    sqlite_project.declare(source={**source("data/rows.csv"), "columns": columns})
    row = {**rows_of_texts(1)[0], "n": 9007199254740991, "x": 0.1, "ok": "yes", "on": "2026-02-28"}
    sqlite_project.write_rows([{**row, "at": "2026-02-28T12:00:00+02:00"}, {**row, "id": "R1", "n": "", "at": ""}])
    assert sqlite_project.run().success
    with sqlite_project.in_env(), dg.DagsterInstance.get() as instance:
        results = load_definitions(sqlite_project.folder).load_asset_value(["trial", "results"], instance=instance)
    assert [results["n"][0], results["x"][0], results["ok"][0]] == [9007199254740991, 0.1, True]
    assert results["at"][0] == pd.Timestamp("2026-02-28T10:00:00Z")
    assert results["n"].isna().tolist() == [False, True]
