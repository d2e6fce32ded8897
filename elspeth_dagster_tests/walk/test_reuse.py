"""What is on record is not asked for again: after a crash, from the whole landscape on request, never by accident."""

import os
import signal
from contextlib import closing
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from elspeth_dagster.core.canonical import sha256
from elspeth_dagster.landscape import guards, runs
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.ledger import Landscape, insert
from elspeth_dagster.landscape.records import Edge, Node, Payload, Run
from elspeth_dagster.landscape.schema import calls
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.landscape.sample import a_run, all_of, only
from elspeth_dagster_tests.landscape.test_only_growing import drop_triggers
from elspeth_dagster_tests.project import ATTRIBUTES, Project, bodies, rows_of_texts

CALLS = "SELECT count(*) FROM calls"
MADE_BY = (
    "SELECT c.run_id AS made, a.run_id AS given FROM answers a JOIN calls c ON c.call_id = a.call_id "
    "WHERE a.run_id = :run"
)
DESCRIBED = {
    "system.j2": "You judge texts. Reply with JSON.",
    "ask.j2": "Judge {{ criterion.description }} of {{ case_study.name }}: {{ row.text }}",
}


def said(result: Any) -> str:
    """What the failed step tells."""
    [failure] = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    return str(failure.step_failure_data.error_display_string)


def a_completed_run(project: Project, server: FaultServer, **changes: Any) -> dg.ExecuteInProcessResult:
    """A run of five rows and four questions, and a server that has forgotten it."""
    project.declare(**changes)
    project.write_rows(rows_of_texts(5))
    result = project.run()
    assert result.success and server.stats()["received"] == 20
    server.reset()
    return result


def a_failed_run(project: Project, server: FaultServer) -> dg.ExecuteInProcessResult:
    """A run that stops, half way through its rows, at a provider that refuses the key."""
    project.env["ELSPETH_MAX_CONCURRENCY"] = "1"
    server.configure(rules=[{"status": 401, "contains": "row 3."}], record=True)
    project.declare()
    project.write_rows(rows_of_texts(5))
    result = project.run()
    assert not result.success and server.stats()["paid"] == 12
    server.configure(record=True)
    server.reset()
    return result


def test_a_launch_after_a_failed_run_asks_only_what_has_no_answer(project: Project, server: FaultServer) -> None:
    failed = a_failed_run(project, server)
    result = project.run()
    assert result.success
    assert server.stats()["received"] == 8
    made_by = [answer["made"] for answer in project.facts(MADE_BY, run=result.run_id)]
    assert (made_by.count(failed.run_id), made_by.count(result.run_id)) == (12, 8)
    answers = project.table("answers")
    assert list(answers["reused"]) == [True] * 12 + [False] * 8
    assert set(answers["attempts"]) == {1} and answers["cost_usd"].notna().all()


def test_a_re_execution_of_a_failed_run_asks_only_what_has_no_answer(
    sqlite_project: Project, server: FaultServer
) -> None:
    failed = a_failed_run(sqlite_project, server)
    assert sqlite_project.run_again(failed.run_id).success
    assert server.stats()["received"] == 8


def test_results_made_of_two_runs_are_those_of_one(project: Project, server: FaultServer, tmp_path: Any) -> None:
    a_failed_run(project, server)
    assert project.run().success
    undisturbed = Project(tmp_path / "other", f"sqlite:///{tmp_path}/other/landscape.sqlite", server.base_url)
    server.reset()
    undisturbed.declare()
    undisturbed.write_rows(rows_of_texts(5))
    assert undisturbed.run().success
    tables = [one.home / "storage" / "trial" / "results.parquet" for one in (project, undisturbed)]
    assert tables[0].read_bytes() == tables[1].read_bytes()


def test_materializing_a_completed_slice_again_asks_anew(sqlite_project: Project, server: FaultServer) -> None:
    a_completed_run(sqlite_project, server)
    assert sqlite_project.run().success
    assert server.stats()["received"] == 20


def test_a_launch_after_a_run_that_failed_in_dagster_when_all_was_on_record_sends_nothing(
    project: Project, server: FaultServer
) -> None:
    first = a_completed_run(project, server)
    with project.in_env(), dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(first.run_id)
        assert run is not None
        instance.report_run_failed(run, "its worker died while its last step went on")
    assert project.run().success
    assert server.stats()["received"] == 0
    assert project.run().success  # that one succeeded, so this one asks anew
    assert server.stats()["received"] == 20


@pytest.mark.parametrize("reuse", ["lineage", "landscape"])
def test_a_third_run_of_a_finished_slice_sends_nothing(project: Project, server: FaultServer, reuse: str) -> None:
    a_completed_run(project, server)
    tables = project.home / "storage" / "trial" / "results.parquet"
    before = tables.read_bytes()
    for _ in range(2):
        assert project.run(reuse=reuse).success
    assert server.stats()["received"] == 0
    assert tables.read_bytes() == before
    assert project.table("answers")["reused"].all()


def test_a_re_execution_of_a_completed_run_sends_nothing(sqlite_project: Project, server: FaultServer) -> None:
    first = a_completed_run(sqlite_project, server)
    assert sqlite_project.run_again(first.run_id).success
    assert server.stats()["received"] == 0


def test_with_reuse_none_a_re_execution_asks_everything(sqlite_project: Project, server: FaultServer) -> None:
    first = a_completed_run(sqlite_project, server)
    assert sqlite_project.run_again(first.run_id, reuse="none").success
    assert server.stats()["received"] == 20


def test_what_goes_on_after_a_run_that_asked_anew_does_not_reach_back_behind_it(
    sqlite_project: Project, server: FaultServer
) -> None:
    first = a_completed_run(sqlite_project, server)
    sqlite_project.env["ELSPETH_MAX_CONCURRENCY"] = "1"
    server.configure(rules=[{"status": 401, "contains": "row 3."}], record=True)
    anew = sqlite_project.run_again(first.run_id, reuse="none")
    assert not anew.success
    server.configure(record=True)
    server.reset()
    assert sqlite_project.run_again(anew.run_id).success
    assert server.stats()["received"] == 8


def test_a_re_execution_asks_again_what_a_completed_run_refused(sqlite_project: Project, server: FaultServer) -> None:
    server.configure(rules=[{"act": "wrong_types", "contains": "text one of row 3."}], record=True)
    first = a_completed_run(sqlite_project, server)
    assert list(sqlite_project.table("failures")["id"]) == ["R3"]
    server.configure(record=True)
    assert sqlite_project.run_again(first.run_id).success
    assert server.stats()["received"] == 2
    assert len(sqlite_project.table("results")) == 5


def test_a_refusal_of_a_run_that_did_not_complete_is_not_asked_again(
    sqlite_project: Project, server: FaultServer
) -> None:
    sqlite_project.env["ELSPETH_MAX_CONCURRENCY"] = "1"
    rules = [{"act": "wrong_types", "contains": "text one of row 1."}, {"status": 401, "contains": "row 3."}]
    server.configure(rules=rules, record=True)
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(5))
    assert not sqlite_project.run().success
    server.configure(record=True)
    server.reset()
    assert sqlite_project.run().success
    assert server.stats()["received"] == 8
    assert list(sqlite_project.table("failures")["id"]) == ["R1"]


@pytest.mark.parametrize("structured_output", ["json_schema", "json_object", "none"])
def test_other_answer_types_are_tried_on_the_recorded_replies(
    sqlite_project: Project, server: FaultServer, structured_output: str
) -> None:
    a_completed_run(sqlite_project, server, structured_output=structured_output)
    scores = sqlite_project.table("results")["cs1_clarity_score"]
    answer = {**ATTRIBUTES["answer"], "score": {"type": "integer", "minimum": 0, "maximum": int(scores.median())}}
    sqlite_project.declare(structured_output=structured_output, answer=answer, errors={"row": "keep_partial"})
    assert sqlite_project.run(reuse="landscape").success
    assert server.stats()["received"] == 0
    kept = sqlite_project.table("results")["cs1_clarity_score"]
    assert 0 < kept.notna().sum() < 5
    assert sqlite_project.table("answers")["reason"].dropna().unique().tolist() == ["out_of_bounds"]


def test_with_repair_a_reply_that_is_refused_now_is_repaired_by_one_more_call(
    sqlite_project: Project, server: FaultServer
) -> None:
    server.configure(first_tries={"act": "wrong_types", "times": 1}, record=True)
    a_completed_run(sqlite_project, server)
    sqlite_project.declare(errors={"repair": 1})
    assert sqlite_project.run(reuse="landscape").success
    assert server.stats()["received"] == 20
    assert set(sqlite_project.table("answers")["status"]) == {"refused"}  # their first tries are off, too
    assert set(sqlite_project.facts("SELECT cause FROM calls ORDER BY sent_at DESC LIMIT 20")[0].values()) == {"repair"}


def test_one_more_row_costs_one_more_row(project: Project, server: FaultServer) -> None:
    a_completed_run(project, server)
    project.write_rows(rows_of_texts(6))
    assert project.run(reuse="landscape").success
    assert server.stats()["received"] == 4
    assert all("row 5." in request_text(project, call) for call in calls_of_last_run(project))


def test_one_criterions_new_text_costs_its_questions(project: Project, server: FaultServer) -> None:
    criteria = [{"name": "clarity", "description": "how clear"}, {"name": "depth", "description": "how deep"}]
    a_completed_run(project, server, templates=DESCRIBED, criteria=criteria)
    project.declare(templates=DESCRIBED, criteria=[criteria[0], {"name": "depth", "description": "how profound"}])
    assert project.run(reuse="landscape").success
    assert server.stats()["received"] == 10
    assert {call["query_key"] for call in calls_of_last_run(project)} == {"cs1_depth", "cs2_depth"}


def calls_of_last_run(project: Project) -> list[dict[str, Any]]:
    return project.facts(
        "SELECT * FROM calls WHERE run_id = (SELECT run_id FROM runs ORDER BY started_at DESC LIMIT 1)"
    )


def request_text(project: Project, call: dict[str, Any]) -> str:
    from elspeth_dagster_tests.project import request_of

    return str(request_of(project, call["call_id"])["messages"])


def test_two_rows_with_the_same_text_are_two_questions(sqlite_project: Project, server: FaultServer) -> None:
    sqlite_project.declare()
    [row] = rows_of_texts(1)
    sqlite_project.write_rows([row, {**row, "id": "twin"}])
    assert sqlite_project.run(reuse="landscape").success
    assert server.stats()["received"] == 8
    server.reset()
    assert sqlite_project.run(reuse="landscape").success
    assert server.stats()["received"] == 0
    by_row = "SELECT count(DISTINCT call_id) FROM answers"
    assert sqlite_project.fact(by_row) == 8


@pytest.mark.parametrize("launch", [{"reuse": "lineage"}, {"reuse": "landscape"}, {"mode": "replay"}])
def test_what_was_recorded_before_names_had_scopes_is_found_by_its_plain_names(
    project: Project, server: FaultServer, launch: dict[str, str]
) -> None:
    a_completed_run(project, server, structured_output="none")
    name_plainly(project)
    assert project.run(**launch).success
    assert server.stats()["received"] == 0


def name_plainly(project: Project) -> None:
    """Give requests and questions the names that they had. Without structured output a question's form is null."""
    asked = bodies(project, sa.select(calls.c.call_id, calls.c.request_ref))
    with closing(Database.open(project.landscape_url)) as database:
        drop_triggers(database, "no_")
        with database.write() as connection:
            insert(connection, map(Payload.of, asked.values()))
            for call_id, body in asked.items():
                question = body.removesuffix(b"}") + b',"response_format":null}'
                plain = {"request_ref": sha256(body), "question_hash": sha256(question)}
                connection.execute(calls.update().where(calls.c.call_id == call_id).values(**plain))
            guards.install(connection)


def kill_with_a_call_in_flight(project: Project, server: FaultServer) -> list[dict[str, Any]]:
    """A run killed by -9 while one call is in flight, which the provider bills; the calls it left on record."""
    project.env["ELSPETH_MAX_CONCURRENCY"] = "1"
    server.configure(rules=[{"act": "hang", "contains": "depth of cs2: text two of row 1."}], record=True)
    project.declare()
    project.write_rows(rows_of_texts(2))
    run = project.launch()
    project.wait_for(CALLS, 8)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    server.configure(record=True)
    server.reset()
    return project.facts("SELECT * FROM calls ORDER BY sent_at")


def test_a_call_lost_in_a_crash_is_asked_again_under_the_same_key(project: Project, server: FaultServer) -> None:
    *_, lost = kill_with_a_call_in_flight(project, server)
    assert project.run().success
    [request] = server.stats()["requests"]
    assert request["idempotency_key"] == (lost["idempotency_key"] or lost["call_id"])
    assert request["headers"]["x-client-request-id"] != lost["call_id"]
    assert project.fact("SELECT outcome FROM replies WHERE call_id = :lost", lost=lost["call_id"]) == "unknown"


def test_with_on_unknown_fail_it_is_refused_until_somebody_decides(project: Project, server: FaultServer) -> None:
    *_, lost = kill_with_a_call_in_flight(project, server)
    project.declare(errors={"on_unknown": "fail"})
    result = project.run()
    assert result.success
    assert server.stats()["received"] == 0
    [failure] = project.table("failures").to_dict("records")
    assert failure["cs2_depth_reason"].startswith(f"unknown_call: Call {lost['call_id']} was sent and no reply")
    project.declare(errors={"on_unknown": "ask_again"})
    assert project.run_again(result.run_id).success
    assert server.stats()["received"] == 1
    assert len(project.table("results")) == 2


def test_a_step_re_executed_alone_says_which_rows_are_not_done(sqlite_project: Project, server: FaultServer) -> None:
    failed = a_failed_run(sqlite_project, server)
    again = sqlite_project.run_again(failed.run_id, steps=["trial.ask_batches[shard_00001]", "trial.collect_results"])
    assert not again.success
    assert "5 rows there have no outcome yet (R0, R1, R2, R3, R4)" in said(again)
    assert "Launch the partition again" in said(again)
    assert sqlite_project.run().success
    assert len(sqlite_project.table("results")) == 5


@pytest.mark.parametrize(
    ("launch", "told"),
    [
        ({"of_run": "latest"}, "of_run goes with mode: replay"),
        ({"mode": "replay", "reuse": "none"}, "reuse does not go with it"),
        ({"mode": "replay"}, "no run of this slice has completed yet"),
        ({"mode": "replay", "of_run": "nobody"}, "no run 'nobody' is on record"),
    ],
)
def test_choices_that_do_not_go_together_are_refused_before_anything_is_asked(
    sqlite_project: Project, server: FaultServer, launch: dict[str, str], told: str
) -> None:
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(1))
    result = sqlite_project.run(**launch)
    assert told in said(result)
    assert server.stats()["received"] == 0


def test_a_refusal_that_a_completed_run_took_over_is_asked_again_after_it(
    sqlite_project: Project, server: FaultServer
) -> None:
    sqlite_project.env["ELSPETH_MAX_CONCURRENCY"] = "1"
    rules = [{"act": "wrong_types", "contains": "text one of row 1."}, {"status": 401, "contains": "row 3."}]
    server.configure(rules=rules, record=True)
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(5))
    assert not sqlite_project.run().success
    server.configure(record=True)
    assert sqlite_project.run().success
    assert list(sqlite_project.table("failures")["id"]) == ["R1"]
    server.reset()
    assert sqlite_project.run(reuse="lineage").success
    assert server.stats()["received"] == 2
    assert len(sqlite_project.table("results")) == 5


def test_a_re_execution_of_one_that_died_before_it_was_on_record_goes_on_from_the_first(
    landscape: Landscape,
) -> None:
    facts = a_run("first")
    nodes, edges, configs = all_of(Node, facts), all_of(Edge, facts), [only(Payload, facts)]
    first = only(Run, facts)
    landscape.write(*facts)
    again = first._replace(run_id="third", parent_run_id="second, which died", root_run_id="first")
    mine = [node._replace(run_id="third") for node in nodes]
    runs.begin(landscape, again, mine, [edge._replace(run_id="third") for edge in edges], configs)
    with landscape.read() as connection:
        found = runs.get(connection, "third")
    assert (found.parent_run_id, found.root_run_id) == ("first", "first")


def test_an_automatic_retry_of_a_run_that_asked_anew_goes_on_with_it(
    sqlite_project: Project, server: FaultServer
) -> None:
    first = a_completed_run(sqlite_project, server)
    sqlite_project.env["ELSPETH_MAX_CONCURRENCY"] = "1"
    server.configure(rules=[{"status": 401, "contains": "row 3."}], record=True)
    anew = sqlite_project.run_again(first.run_id, reuse="none")
    server.configure(record=True)
    server.reset()
    assert sqlite_project.run_again(anew.run_id, tags={"dagster/retry_number": "1"}, reuse="none").success
    assert server.stats()["received"] == 8


def test_a_cut_connection_keeps_the_idempotency_key_and_an_error_ends_it(
    sqlite_project: Project, server: FaultServer
) -> None:
    server.configure(
        first_tries=[
            {"act": "cut", "times": 2, "contains": "row 0."},
            {"status": 500, "times": 2, "contains": "row 1."},
        ],
        record=True,
    )
    sqlite_project.declare(case_studies=[ATTRIBUTES["case_studies"][0]], criteria=[{"name": "clarity"}])
    sqlite_project.write_rows(rows_of_texts(2))
    assert sqlite_project.run().success
    keys: dict[str, list[str]] = {}
    for request in server.stats()["requests"]:
        keys.setdefault(request["sha256"], []).append(request["idempotency_key"])
    assert sorted(len(set(of_body)) for of_body in keys.values()) == [1, 3]
