"""Whatever a provider replies ends as documented, with the raw bytes kept and the neighbours untouched."""

from contextlib import closing

import pytest
from click.testing import CliRunner

from elspeth_dagster.cli import main
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.llm.secrets import fingerprint
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.landscape.told import texts_on_record
from elspeth_dagster_tests.project import KEY, Project, rows_of_texts

ONE_QUESTION = {"case_studies": [{"name": "cs1", "inputs": {"text": "cs1_text"}}], "criteria": [{"name": "clarity"}]}
REFUSALS = {
    "null_content": "no_content",
    "empty_choices": "no_content",
    "no_choices": "not_a_completion",
    "html": "not_a_completion",
    "empty_body": "not_a_completion",
    "truncated": "truncated",
    "wrong_types": "wrong_type",
    "list": "not_an_object",
    "nan": "not_finite",
    "duplicate_keys": "duplicate_key",
    "refusal": "model_refused",
    "content_filter": "content_filter",
    "not_json": "not_json",
    "tool_calls": "not_stopped",
    "huge": "oversized",
    "cut": "connection",
    "reset": "connection",
    "garbage": "connection",
    "500": "server",
    "400": "bad_request",
    "429": "rate_limited",
}


def one_row_of(text: str, key: str = "R0") -> dict[str, str]:
    return {"id": key, "cs1_text": text, "cs2_text": "-"}


def test_every_bad_reply_is_a_refusal_with_its_reason_and_its_bytes(project: Project) -> None:
    project.declare(**ONE_QUESTION, errors={"retry_seconds": 0})
    rows = [one_row_of(f"[[{act}]]", act) for act in REFUSALS]
    project.write_rows([*rows, one_row_of("fine", "fine"), one_row_of("[[fenced]]", "fenced")])
    assert project.run().success
    answers = project.table("answers").set_index("id")
    assert {act: answers.loc[act, "reason"] for act in REFUSALS} == REFUSALS
    assert sorted(project.table("results")["id"]) == ["fenced", "fine"]
    assert list(project.table("failures")["id"]) == list(REFUSALS)
    kept = project.facts(
        "SELECT r.row_key, y.size, p.outcome FROM replies p JOIN calls c ON c.call_id = p.call_id "
        "JOIN payloads y ON y.ref = p.body_ref "
        "JOIN tokens t ON t.token_id = c.token_id JOIN rows r ON r.row_id = t.row_id"
    )
    assert len(kept) == len(REFUSALS) + 2
    assert {reply["row_key"] for reply in kept if reply["size"] == 0} <= {
        "empty_body", "reset", "garbage", "cut",
    }  # fmt: skip


@pytest.mark.parametrize("act", ["429", "503", "reset", "cut"])
def test_a_transient_error_is_tried_again_and_every_try_is_a_call(
    sqlite_project: Project, server: FaultServer, act: str
) -> None:
    what = {"status": int(act)} if act.isdigit() else {"act": act}
    server.configure(first_tries={**what, "times": 2}, record=True)
    sqlite_project.declare(**ONE_QUESTION)
    sqlite_project.write_rows(rows_of_texts(2))
    assert sqlite_project.run().success
    assert list(sqlite_project.table("answers")["attempts"]) == [3, 3]
    calls = sqlite_project.facts(
        "SELECT c.query_attempt, c.cause, p.outcome FROM calls c JOIN replies p ON p.call_id = c.call_id "
        "ORDER BY c.token_id, c.query_attempt"
    )
    one = [(1, "first", "error"), (2, "retry", "error"), (3, "retry", "success")]
    assert [tuple(call.values()) for call in calls] == one * 2
    assert server.stats()["received"] == 6


def test_a_400_that_says_rate_is_not_tried_again(sqlite_project: Project, server: FaultServer) -> None:
    server.configure(rules=[{"status": 400, "message": "rate limit exceeded, retry after 1 s"}], record=True)
    sqlite_project.declare(**ONE_QUESTION)
    sqlite_project.write_rows(rows_of_texts(2))
    assert sqlite_project.run().success
    assert server.stats()["received"] == 2
    assert set(sqlite_project.table("answers")["reason"]) == {"bad_request"}


def test_retry_after_is_waited_for(sqlite_project: Project, server: FaultServer) -> None:
    server.configure(first_tries={"status": 429, "times": 1, "retry_after": "2"})
    sqlite_project.declare(**ONE_QUESTION)
    sqlite_project.write_rows(rows_of_texts(1))
    assert sqlite_project.run().success
    first, second = sqlite_project.facts("SELECT sent_at FROM calls ORDER BY query_attempt")
    assert second["sent_at"] - first["sent_at"] >= 2_000_000


def test_no_longer_than_retry_seconds(sqlite_project: Project, server: FaultServer) -> None:
    server.configure(rules=[{"status": 429, "retry_after": "30"}])
    sqlite_project.declare(**ONE_QUESTION, errors={"retry_seconds": 5})
    sqlite_project.write_rows(rows_of_texts(1))
    assert sqlite_project.run().success
    assert sqlite_project.table("failures")["cs1_clarity_reason"][0].startswith("rate_limited")
    assert server.stats()["received"] == 1


def test_a_refused_reply_is_asked_again_with_the_reason(sqlite_project: Project, server: FaultServer) -> None:
    server.configure(first_tries={"act": "wrong_types", "times": 1}, record=True)
    sqlite_project.declare(**ONE_QUESTION, errors={"repair": 1})
    sqlite_project.write_rows(rows_of_texts(1))
    assert sqlite_project.run().success
    calls = sqlite_project.facts("SELECT cause, query_attempt FROM calls ORDER BY query_attempt")
    assert [tuple(call.values()) for call in calls] == [("first", 1), ("repair", 2)]


def test_without_repair_it_is_not(sqlite_project: Project, server: FaultServer) -> None:
    server.configure(first_tries={"act": "wrong_types", "times": 1})
    sqlite_project.declare(**ONE_QUESTION, errors={"repair": 0})
    sqlite_project.write_rows(rows_of_texts(1))
    assert sqlite_project.run().success
    assert server.stats()["received"] == 1
    assert list(sqlite_project.table("failures")["id"]) == ["R0"]


def test_a_failed_row_keeps_every_questions_own_reason(sqlite_project: Project) -> None:
    sqlite_project.declare(errors={"retry_seconds": 0})
    sqlite_project.write_rows([{"id": "R0", "cs1_text": "[[nan]]", "cs2_text": "fine"}, *rows_of_texts(1, start=1)])
    assert sqlite_project.run().success
    [failure] = sqlite_project.table("failures").to_dict("records")
    assert failure["cs1_clarity_reason"].startswith("not_finite: ")
    assert failure["cs1_depth_reason"].startswith("not_finite: ")
    assert isinstance(failure["cs2_clarity_reason"], float) or failure["cs2_clarity_reason"] is None
    assert list(sqlite_project.table("results")["id"]) == ["R1"]


def test_keep_partial_keeps_the_cells_there_are(sqlite_project: Project) -> None:
    sqlite_project.declare(errors={"row": "keep_partial", "retry_seconds": 0})
    sqlite_project.write_rows([{"id": "R0", "cs1_text": "[[nan]]", "cs2_text": "fine"}])
    assert sqlite_project.run().success
    [result] = sqlite_project.table("results").to_dict("records")
    assert result["cs2_clarity_score"] == result["cs2_clarity_score"]
    assert result["cs1_clarity_score"] != result["cs1_clarity_score"]
    assert list(sqlite_project.table("failures")["id"]) == ["R0"]
    assert sqlite_project.fact("SELECT outcome FROM token_outcomes o JOIN tokens t USING (token_id) "
                               "WHERE t.kind = 'row'") == "partial"  # fmt: skip


def test_a_blank_input_fails_its_row_and_nothing_is_sent_for_it(sqlite_project: Project, server: FaultServer) -> None:
    sqlite_project.declare()
    sqlite_project.write_rows([{"id": "R0", "cs1_text": "text", "cs2_text": " "}, *rows_of_texts(1, start=1)])
    assert sqlite_project.run().success
    [failure] = sqlite_project.table("failures").to_dict("records")
    assert "'cs2_text' is blank" in failure["cs2_clarity_reason"]
    assert failure["cs1_clarity_reason"].startswith("row_not_asked")
    assert server.stats()["received"] == 4


def test_with_keep_partial_only_the_questions_of_a_blank_input_are_left_out(
    sqlite_project: Project, server: FaultServer
) -> None:
    sqlite_project.declare(errors={"row": "keep_partial"})
    sqlite_project.write_rows([{"id": "R0", "cs1_text": "text", "cs2_text": " "}])
    assert sqlite_project.run().success
    assert server.stats()["received"] == 2


def test_a_template_that_a_row_can_not_fill_refuses_that_row_only(sqlite_project: Project) -> None:
    templates = {"system.j2": "Reply with JSON.", "ask.j2": "{{ 12 // (row.text | length - 4) }} {{ criterion.name }}"}
    sqlite_project.declare(templates=templates)
    sqlite_project.write_rows([{"id": "R0", "cs1_text": "four", "cs2_text": "fine!"}, *rows_of_texts(1, start=1)])
    assert sqlite_project.run().success
    assert list(sqlite_project.table("failures")["id"]) == ["R0"]
    assert list(sqlite_project.table("results")["id"]) == ["R1"]


@pytest.mark.parametrize(
    ("behaviour", "env", "told"),
    [
        ({"expected_key": "another"}, {}, "the key was refused"),
        ({"rules": [{"status": 404}]}, {}, "no model or deployment 'gpt-4o-mini' there"),
        ({"rules": [{"status": 403}]}, {}, "not allowed"),
        ({}, {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}, "nothing answers there"),
    ],
)
def test_a_provider_that_can_not_be_used_is_one_error_and_its_calls_are_on_record(
    sqlite_project: Project, server: FaultServer, behaviour: dict, env: dict, told: str
) -> None:
    server.configure(**behaviour, record=True)
    sqlite_project.env.update(env, ELSPETH_MAX_CONCURRENCY="4")
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(50))
    result = sqlite_project.run()
    assert not result.success
    failures = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    assert [told in failure.step_failure_data.error_display_string for failure in failures] == [True]
    calls = sqlite_project.facts("SELECT p.outcome FROM calls c LEFT JOIN replies p ON p.call_id = c.call_id")
    assert 1 <= len(calls) <= 4
    assert {call["outcome"] for call in calls} == {"error"}
    [state] = sqlite_project.facts(
        "SELECT e.status, e.error FROM node_states s JOIN node_state_ends e USING (state_id) "
        "WHERE s.node_id = 'trial.ask_batches'"
    )
    assert state["status"] == "failed" and told in state["error"]


# A command that prints what is on record, or writes it to a file in the project's folder, belongs on this list.
COMMANDS = [
    ["runs"],
    ["runs", "--json"],
    ["calls", "latest"],
    ["calls", "latest", "--json"],
    ["explain", "latest", "--row", "R0"],
    ["explain", "latest", "--row", "R1", "--json"],
    ["cost"],
    ["verify", "--all"],
    ["prove", "latest", "--row", "R0", "--to", "{folder}/proof.json"],
    ["export", "latest", "--to", "{folder}/export"],
    ["erase", "--row", "R0", "--reason", "a test", "--by", "nobody"],
]


def test_no_secret_is_anywhere(project: Project, server: FaultServer, capfd: pytest.CaptureFixture[str]) -> None:
    server.configure(expected_key="another", echo_key=True, headers={"x-ms-echo": f"key {KEY}"})
    project.keep_compute_logs()
    project.declare()
    project.write_rows(rows_of_texts(2))
    assert not project.run_in_processes().success
    echoes = {"act": "echo_key", "times": 1}
    fails = {"status": 400, "message": f"your key {KEY} can't do that", "contains": "two of row 1.", "times": 1}
    server.configure(first_tries=[fails, echoes], headers={"x-ms-echo": f"key {KEY}"})
    assert project.run_in_processes().success
    for command in COMMANDS:
        words = [word.format(folder=project.folder) for word in command]
        printed = CliRunner().invoke(main, [*words, "--landscape", project.landscape_url])
        assert (printed.exit_code, KEY in printed.output) == (0, False), command
    assert KEY not in "".join(capfd.readouterr())
    found = [path for path in project.folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert found == []
    assert list(project.home.rglob("*.err")), "there are no compute logs to look at"
    with closing(Landscape.open(project.landscape_url)) as landscape:
        texts = list(texts_on_record(landscape))
    assert not any(KEY in text for text in texts)
    assert sum(f"your key {fingerprint(KEY)} can't do that" in text for text in texts) == 1
    refused = "SELECT redacted FROM replies WHERE http_status IN (400, 401)"
    assert {reply["redacted"] for reply in project.facts(refused)} == {1}
