"""Rows in batches, questions in flight together: every call belongs to its batch's state and names its row."""

import json

import pytest

from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project, request_of, rows_of_texts

CALLS_WITH_PARENTS = """
    SELECT c.call_id, c.call_index, c.query_key, c.query_attempt, c.state_id, r.row_key, m.batch_id
    FROM calls c
    JOIN node_states s ON s.state_id = c.state_id AND s.run_id = c.run_id
    JOIN tokens t ON t.token_id = c.token_id AND t.run_id = c.run_id
    JOIN rows r ON r.row_id = t.row_id
    JOIN batches b ON b.token_id = s.token_id
    JOIN batch_members m ON m.batch_id = b.batch_id AND m.token_id = c.token_id
    JOIN replies p ON p.call_id = c.call_id
    ORDER BY c.call_index
"""


def check_three_rows_twelve_calls(project: Project, server: FaultServer) -> None:
    calls = project.facts(CALLS_WITH_PARENTS)
    assert len(calls) == 12 == server.stats()["received"]
    assert len({call["state_id"] for call in calls}) == 1
    assert [call["call_index"] for call in calls] == list(range(12))
    for row in ("R0", "R1", "R2"):
        own = [call for call in calls if call["row_key"] == row]
        assert [call["query_key"] for call in own] == ["cs1_clarity", "cs1_depth", "cs2_clarity", "cs2_depth"]
        for call in own:
            check_request_and_answer_belong_together(project, call)
    assert project.fact("SELECT count(*) FROM node_states WHERE node_id = 'trial.ask_batches'") == 1


def check_request_and_answer_belong_together(project: Project, call: dict) -> None:
    asked = request_of(project, call["call_id"])["messages"][-1]["content"]
    case_study, criterion = call["query_key"].split("_")
    number = {"cs1": "one", "cs2": "two"}[case_study]
    assert asked == f"Judge the {criterion} of {case_study}: text {number} of row {call['row_key'][1:]}."
    answers = project.table("answers")
    told = answers[(answers["id"] == call["row_key"]) & (answers["question"] == call["query_key"])]
    assert list(told["call_id"]) == [call["call_id"]]


def test_a_batch_of_rows_shares_one_state_and_each_call_names_its_row(project: Project, server: FaultServer) -> None:
    server.configure(latency_ms=[0, 60], record=True)
    project.declare()
    project.write_rows(rows_of_texts(3))
    assert project.run().success
    check_three_rows_twelve_calls(project, server)


def test_the_same_holds_when_every_step_is_a_process(project: Project, server: FaultServer) -> None:
    server.configure(latency_ms=[0, 60], record=True)
    project.declare()
    project.write_rows(rows_of_texts(3))
    assert project.run_in_processes().success
    check_three_rows_twelve_calls(project, server)


def test_shards_in_parallel_processes_write_to_one_landscape(project: Project, server: FaultServer) -> None:
    project.declare(aggregate={"rows": 2}, rows_per_step=4)
    project.write_rows(rows_of_texts(12))
    assert project.run_in_processes(max_concurrent=3).success
    assert list(project.table("results")["id"]) == [f"R{n}" for n in range(12)]
    assert len(project.facts(CALLS_WITH_PARENTS)) == 48 == server.stats()["received"]
    steps = project.facts("SELECT DISTINCT step_key FROM node_states WHERE node_id = 'trial.ask_batches'")
    assert sorted(step["step_key"] for step in steps) == [f"trial.ask_batches[shard_0000{n}]" for n in (1, 2, 3)]


def test_a_batch_of_one_row(project: Project) -> None:
    project.declare(aggregate={"rows": 1})
    project.write_rows(rows_of_texts(2))
    assert project.run().success
    assert project.fact("SELECT count(*) FROM batches WHERE trigger_fired = 'rows'") == 2
    assert project.fact("SELECT count(*) FROM node_states WHERE node_id = 'trial.ask_batches'") == 2


def test_no_rows_make_no_batch_no_call_and_four_empty_tables(project: Project, server: FaultServer) -> None:
    project.declare()
    project.write_rows(rows_of_texts(1))
    source = project.folder / "data" / "rows.csv"
    source.write_text(source.read_text().splitlines()[0] + "\n")
    assert project.run().success
    assert project.fact("SELECT count(*) FROM batches") == 0
    assert server.stats()["received"] == 0
    for name in ("results", "answers", "failures", "rejections"):
        assert len(project.table(name)) == 0
    assert project.fact("SELECT status FROM run_ends") == "completed"


@pytest.mark.parametrize("round_", range(20))
def test_call_indexes_are_dense_whatever_the_order_of_replies(
    sqlite_project: Project, server: FaultServer, round_: int
) -> None:
    server.configure(latency_ms=[0, 8], seed=round_, record=True)
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(16))
    assert sqlite_project.run().success
    calls = sqlite_project.facts(CALLS_WITH_PARENTS)
    assert [call["call_index"] for call in calls] == list(range(64))
    assert [call["row_key"] for call in calls] == [f"R{n // 4}" for n in range(64)]
    assert server.stats()["in_flight_max"] > 1


def test_results_are_in_source_order_whatever_the_order_of_replies(project: Project, server: FaultServer) -> None:
    server.configure(latency_ms=[0, 50])
    project.declare(aggregate={"rows": 3, "group_by": ["cs2_text"]})
    rows = [{**row, "cs2_text": f"group {n % 3}"} for n, row in enumerate(rows_of_texts(10))]
    project.write_rows(rows)
    assert project.run().success
    assert list(project.table("results")["id"]) == [row["id"] for row in rows]
    triggers = project.facts("SELECT trigger_fired, count(*) AS n FROM batches GROUP BY trigger_fired")
    assert {row["trigger_fired"]: row["n"] for row in triggers} == {"rows": 3, "group_by": 1}


def test_a_when_expression_flushes_after_the_row_that_asks_for_it(sqlite_project: Project) -> None:
    sqlite_project.declare(aggregate={"rows": 50, "when": "row.id == 'R1'"})
    sqlite_project.write_rows(rows_of_texts(4))
    assert sqlite_project.run().success
    flushed = sqlite_project.facts(
        "SELECT b.trigger_fired, count(*) AS n FROM batches b JOIN batch_members m ON m.batch_id = b.batch_id "
        "GROUP BY b.ordinal, b.trigger_fired ORDER BY b.ordinal"
    )
    assert [(row["trigger_fired"], row["n"]) for row in flushed] == [("when", 2), ("end_of_slice", 2)]


def test_two_assessments_in_one_deployment_keep_apart(project: Project) -> None:
    project.declare("trial")
    project.declare("second", criteria=[{"name": "style"}])
    project.write_rows(rows_of_texts(2))
    assert project.run("trial_job").success
    assert project.run("second_job").success
    assert list(project.table("results", "second").columns[3:5]) == ["cs1_style_score", "cs1_style_rationale"]
    ended = project.facts("SELECT e.status, r.assessments FROM run_ends e JOIN runs r ON r.run_id = e.run_id")
    assert sorted((row["status"], row["assessments"]) for row in ended) == [
        ("completed", '["second"]'),
        ("completed", '["trial"]'),
    ]


def test_two_assessments_in_one_run_end_it_together(project: Project) -> None:
    project.declare("trial")
    project.declare("second", criteria=[{"name": "style"}])
    project.write_rows(rows_of_texts(2))
    with (project.folder / "trial" / "definitions.py").open("a") as file:
        file.write(BOTH)
    assert project.run("both_job").success
    assert json.loads(project.fact("SELECT assessments FROM runs")) == ["second", "trial"]
    assert project.fact("SELECT status FROM run_ends") == "completed"
    assert project.fact("SELECT count(*) FROM calls") == 2 * 4 + 2 * 2
    assert project.fact("SELECT count(*) FROM tokens WHERE token_id NOT IN (SELECT token_id FROM token_outcomes)") == 0


BOTH = """
alone = defs

@dg.definitions
def defs():
    verification = dg.AssetSelection.assets("trial/verification", "second/verification")
    both = dg.define_asset_job("both_job", selection=dg.AssetSelection.all() - verification)
    return dg.Definitions.merge(alone(), dg.Definitions(jobs=[both]))
"""
