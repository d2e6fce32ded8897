"""A replay makes the same tables again from the record alone: no key, no network, errors as they were."""

import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from elspeth_dagster.landscape.columns import written_ref
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.inserting import insert
from elspeth_dagster.landscape.ledger import now
from elspeth_dagster.landscape.records import ErasedPayload, Erasure
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import TEMPLATES, Project, rows_of_texts, sent
from elspeth_dagster_tests.walk.test_reuse import said

NOBODY = "http://127.0.0.1:9/v1"
UNHARMED = ("results", "failures", "rejections")


def tables(project: Project) -> dict[str, bytes]:
    """The files of the tables that name no run."""
    folder = project.home / "storage" / "trial"
    return {name: (folder / f"{name}.parquet").read_bytes() for name in UNHARMED}


def remove_tables(project: Project) -> None:
    for path in (project.home / "storage" / "trial").glob("*.parquet"):
        path.unlink()


def forbid_network(project: Project) -> None:
    """Nobody listens, and there is no key."""
    project.env["OPENAI_BASE_URL"] = NOBODY
    del project.env["OPENAI_API_KEY"]


def a_checkered_run(project: Project, server: FaultServer) -> str:
    """A run with retries, repairs, refusals of every kind and a rejected record; its id."""
    server.configure(
        first_tries=[
            {"status": 500, "times": 1, "contains": "row 1."},
            {"act": "nan", "times": 1, "contains": "row 2."},
        ],
        rules=[
            {"act": "refusal", "contains": "one of row 3."},
            {"status": 400, "contains": "one of row 4."},
            {"status": 429, "contains": "two of row 4."},
        ],
        record=True,
    )
    project.declare(errors={"repair": 1, "retry_seconds": 2})
    project.write_rows([*rows_of_texts(6), {"id": "R6", "cs1_text": " ", "cs2_text": "text"}])
    with (project.folder / "data" / "rows.csv").open("a") as file:
        file.write("R7,ragged\n")
    result = project.run()
    assert result.success
    return str(result.run_id)


def test_a_replay_makes_the_same_tables_byte_for_byte(project: Project, server: FaultServer) -> None:
    a_checkered_run(project, server)
    before, asked = tables(project), server.stats()["received"]
    assert {row["id"] for row in project.table("failures").to_dict("records")} == {"R2", "R3", "R4", "R6"}
    remove_tables(project)
    forbid_network(project)
    replay = project.run(mode="replay")
    assert replay.success
    assert tables(project) == before
    assert server.stats()["received"] == asked
    assert project.fact("SELECT mode FROM runs WHERE run_id = :run", run=replay.run_id) == "replay"
    assert project.fact("SELECT count(*) FROM calls WHERE run_id = :run", run=replay.run_id) == 0


def test_a_replay_may_be_replayed_by_the_same_run(sqlite_project: Project, server: FaultServer) -> None:
    first = a_checkered_run(sqlite_project, server)
    before = tables(sqlite_project)
    forbid_network(sqlite_project)
    for of_run in ({}, {}, {"of_run": first}):
        assert sqlite_project.run(mode="replay", **of_run).success
        assert tables(sqlite_project) == before


def test_a_run_that_went_on_from_others_is_replayed_with_their_replies(project: Project, server: FaultServer) -> None:
    project.env["ELSPETH_MAX_CONCURRENCY"] = "1"
    rules = [{"act": "wrong_types", "contains": "one of row 0."}, {"status": 401, "contains": "row 3."}]
    server.configure(rules=rules, record=True)
    project.declare(errors={"repair": 1})
    project.write_rows(rows_of_texts(5))
    assert not project.run().success
    server.configure(record=True)
    second = project.run()
    assert second.success
    server.configure(rules=[{"act": "list", "contains": "one of row 4."}], record=True)
    assert project.run(reuse="none").success  # another lineage, other answers
    other = tables(project)
    forbid_network(project)
    assert project.run(mode="replay", of_run=second.run_id).success
    assert tables(project) != other
    assert project.run(mode="replay").success
    assert tables(project) == other


def test_a_prompt_that_changed_is_a_miss_that_names_row_and_question(
    sqlite_project: Project, server: FaultServer
) -> None:
    a_checkered_run(sqlite_project, server)
    before = tables(sqlite_project)
    changed = "{% if case_study.name == 'cs2' and row.text == 'text two of row 5.' %}Well: {% endif %}"
    templates = {**TEMPLATES, "ask.j2": changed + TEMPLATES["ask.j2"]}
    sqlite_project.declare(templates=templates, errors={"repair": 1, "retry_seconds": 2})
    result = sqlite_project.run(mode="replay")
    assert "2 questions can't be replayed" in said(result)
    for question in ("cs2_clarity", "cs2_depth"):
        assert f"has no reply to {question} of row R5 as it would be asked now" in said(result)
    assert tables(sqlite_project) == before


def test_a_row_that_was_not_there_is_a_miss(sqlite_project: Project, server: FaultServer) -> None:
    a_checkered_run(sqlite_project, server)
    sqlite_project.write_rows(rows_of_texts(8))
    result = sqlite_project.run(mode="replay")
    assert "8 questions can't be replayed" in said(result)
    assert "cs1_clarity of row R6" in said(result)


def erase_reply(project: Project, row_key: str, question: str) -> str:
    """Take a reply's bytes away, as an erasure does; its hash."""
    database = Database.open(project.landscape_url)
    with database.write() as connection:
        [ref] = connection.execute(
            sa.text(
                "SELECT p.body_ref FROM replies p JOIN calls c ON c.call_id = p.call_id JOIN tokens t ON t.token_id = "
                "c.token_id JOIN rows r ON r.row_id = t.row_id WHERE r.row_key = :row AND c.query_key = :question"
            ),
            {"row": row_key, "question": question},
        ).scalars()
        erased = written_ref(bytes(ref))
        insert(connection, [Erasure("e1", "a request", "a clerk", "{}", now()), ErasedPayload(erased, "e1", None)])
        connection.execute(sa.text("UPDATE payloads SET body = :none WHERE ref = :ref"), {"none": b"", "ref": ref})
    database.close()
    return erased


def test_an_erased_reply_is_an_error_of_its_own(project: Project, server: FaultServer) -> None:
    a_checkered_run(project, server)
    before = tables(project)
    erased = erase_reply(project, "R5", "cs1_depth")
    result = project.run(mode="replay")
    assert "1 questions can't be replayed" in said(result)
    assert f"payload {erased} was erased on" in said(result)
    assert project.facts("SELECT reason FROM answers WHERE run_id = :run AND reason = 'erased'", run=result.run_id)
    assert tables(project) == before


def test_an_erased_reply_is_asked_for_again_where_asking_is_allowed(
    sqlite_project: Project, server: FaultServer
) -> None:
    a_checkered_run(sqlite_project, server)
    erase_reply(sqlite_project, "R5", "cs1_depth")
    server.configure(record=True)
    server.reset()
    assert sqlite_project.run(reuse="landscape").success
    requests = [request["sha256"] for request in server.stats()["requests"]]
    of_row_5 = "SELECT c.call_id FROM calls c JOIN tokens t ON t.token_id = c.token_id JOIN rows r ON r.row_id = " \
        "t.row_id WHERE r.row_key = 'R5' AND c.query_key = 'cs1_depth'"  # fmt: skip
    asked = sent(sqlite_project)
    assert {asked[call["call_id"]] for call in sqlite_project.facts(of_row_5)} <= set(requests)


def test_an_error_that_stopped_the_step_stops_the_replay(sqlite_project: Project, server: FaultServer) -> None:
    server.configure(expected_key="another", record=True)
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(1))
    failed = sqlite_project.run()
    assert not failed.success
    server.configure(record=True)
    replay = sqlite_project.run(mode="replay", of_run=failed.run_id)
    assert f"run {failed.run_id} was stopped by call" in said(replay)


def test_a_provider_that_went_away_for_a_while_is_replayed_as_it_was(sqlite_project: Project, tmp_path: Path) -> None:
    with FaultServer(record=True) as own:
        own.configure(rules=[{"act": "hang", "contains": "one of row 1."}], record=True)
        sqlite_project.env.update(OPENAI_BASE_URL=own.base_url, ELSPETH_MAX_CONCURRENCY="1")
        sqlite_project.declare(errors={"retry_seconds": 0})
        sqlite_project.write_rows(rows_of_texts(2))
        going_away = threading.Thread(target=sqlite_project.wait_for, args=("SELECT count(*) FROM calls", 5))
        results: list[Any] = []
        run = threading.Thread(target=lambda: results.append(sqlite_project.run()))
        going_away.start()
        run.start()
        going_away.join()
    run.join()
    assert results[0].success
    reasons = set(sqlite_project.table("answers")["reason"].dropna())
    assert "unreachable" in reasons
    before = tables(sqlite_project)
    assert sqlite_project.run(mode="replay").success
    assert tables(sqlite_project) == before


def test_a_run_with_other_types_over_the_whole_record_is_replayed_with_their_repairs(
    sqlite_project: Project, server: FaultServer
) -> None:
    server.configure(rules=[{"act": "wrong_types", "contains": "one of row 1."}], record=True)
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(3))
    assert sqlite_project.run().success
    server.configure(record=True)
    sqlite_project.declare(errors={"repair": 1})
    assert sqlite_project.run(reuse="landscape").success
    before = tables(sqlite_project)
    forbid_network(sqlite_project)
    assert sqlite_project.run(mode="replay").success
    assert tables(sqlite_project) == before


@pytest.mark.parametrize("assessments", [["trial", "other"]])
def test_assessments_of_one_run_are_launched_alike(
    sqlite_project: Project, server: FaultServer, assessments: list[str], tmp_path: Path
) -> None:
    import dagster as dg

    for name in assessments:
        sqlite_project.declare(name)
    sqlite_project.write_rows(rows_of_texts(1))
    both = (
        "alone = defs\n\n@dg.definitions\ndef defs():\n    job = dg.define_asset_job('both', "
        "selection=dg.AssetSelection.all())\n    return dg.Definitions.merge(alone(), dg.Definitions(jobs=[job]))\n"
    )
    with (sqlite_project.folder / "trial" / "definitions.py").open("a") as file:
        file.write(both)

    def launched(config: dict[str, Any]) -> Any:
        with sqlite_project.in_env(), dg.DagsterInstance.get() as instance:
            job = sqlite_project.definitions().resolve_job_def("both")
            return job.execute_in_process(instance=instance, run_config={"ops": config}, raise_on_error=False)

    result = launched({"trial": {"config": {"reuse": "none"}}})
    told = [event.step_failure_data.error_display_string for event in result.all_events
            if event.event_type_value == "STEP_FAILURE"]  # fmt: skip
    assert len(told) == 2 and all("launch these assessments apart" in one for one in told)
    alike = {"config": {"reuse": "none"}}
    assert launched(dict.fromkeys(assessments, alike)).success
