"""A verification asks some recorded requests once more, compares, and leaves the results as they are."""

from typing import Any

import dagster as dg
import pytest

from elspeth_dagster.landscape.erasing import Wanted, erase
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project, rows_of_texts
from elspeth_dagster_tests.walk.test_replaying import erase_reply
from elspeth_dagster_tests.walk.test_reuse import a_completed_run, said

VERIFY = "trial_verify_job"
LEFT_OPEN = (
    "SELECT (SELECT count(*) FROM tokens WHERE token_id NOT IN (SELECT token_id FROM token_outcomes)) "
    "+ (SELECT count(*) FROM calls WHERE call_id NOT IN (SELECT call_id FROM replies)) "
    "+ (SELECT count(*) FROM node_states WHERE state_id NOT IN (SELECT state_id FROM node_state_ends)) "
    "+ (SELECT count(*) FROM runs WHERE run_id NOT IN (SELECT run_id FROM run_ends))"
)


def check_of(result: Any) -> dg.AssetCheckEvaluation:
    """What the check of a verification says."""
    [check] = result.get_asset_check_evaluations()
    assert isinstance(check, dg.AssetCheckEvaluation)
    return check


def facts_of(check: dg.AssetCheckEvaluation) -> dict[str, Any]:
    return {name: value.value for name, value in check.metadata.items()}


def test_a_model_that_says_the_same_agrees(project: Project, server: FaultServer) -> None:
    first = a_completed_run(project, server)
    before = (project.home / "storage" / "trial" / "results.parquet").read_bytes()
    result = project.run(VERIFY, sample=1.0)
    assert result.success and check_of(result).passed
    told = facts_of(check_of(result))
    assert (told["agreement"], told["agreement_score"], told["agreement_rationale"]) == (1.0, 1.0, 1.0)
    assert (told["questions"], told["cells"], told["changed"], told["not_compared"]) == (20, 40, 0, 0)
    cells = project.table("verification")
    assert len(cells) == 40 and cells["agrees"].all() and (cells["recorded"] == cells["fresh"]).all()
    asked = "SELECT request_ref FROM calls WHERE run_id = :run ORDER BY request_ref"
    assert project.facts(asked, run=first.run_id) == project.facts(asked, run=result.run_id)
    assert (project.home / "storage" / "trial" / "results.parquet").read_bytes() == before
    assert project.fact(LEFT_OPEN) == 0
    assert project.fact("SELECT mode FROM runs WHERE run_id = :run", run=result.run_id) == "verify"


def test_a_sample_is_a_share_and_the_same_one_each_time(sqlite_project: Project, server: FaultServer) -> None:
    a_completed_run(sqlite_project, server)
    drawn = []
    for sample in (0.3, 0.3, 0.0001):
        server.reset()
        assert sqlite_project.run(VERIFY, sample=sample).success
        drawn.append(sorted(request["sha256"] for request in server.stats()["requests"]))
    assert drawn[0] == drawn[1] and 1 < len(drawn[0]) < 15
    assert len(drawn[2]) == 1


def test_a_model_that_changed_its_mind_fails_the_check_and_its_cells_are_named(
    project: Project, server: FaultServer
) -> None:
    a_completed_run(project, server)
    server.configure(seed=1, reports={"model": "gpt-4o-mini-next", "system_fingerprint": "fp_next"}, record=True)
    result = project.run(VERIFY, sample=1.0)
    assert result.success and not check_of(result).passed
    told = facts_of(check_of(result))
    assert told["agreement"] < 0.9
    assert (told["model_changed"], told["system_fingerprint_changed"]) == (20, 20)
    changed = project.table("verification").query("field == 'score' and not agrees")
    assert len(changed) == 20 - round(told["agreement"] * 20)
    assert (changed["recorded"] != changed["fresh"]).all()
    assert set(changed["fresh_model"]) == {"gpt-4o-mini-next"}
    assert set(changed["recorded_system_fingerprint"]) == {"fp_fault_server"}


def test_the_threshold_is_the_launches_choice(sqlite_project: Project, server: FaultServer) -> None:
    a_completed_run(sqlite_project, server)
    for least, passed in ((0.9, False), (0.8, True)):
        server.configure(rules=[{"act": "wrong_types", "contains": "row 3."}], record=True)
        server.reset()
        check = check_of(sqlite_project.run(VERIFY, sample=1.0, min_agreement=least))
        assert check.passed is passed
        assert facts_of(check)["agreement"] == 0.8  # a refused reply agrees with nothing


def test_what_could_not_be_asked_is_not_compared(sqlite_project: Project, server: FaultServer) -> None:
    a_completed_run(sqlite_project, server, errors={"retry_seconds": 0})
    server.configure(rules=[{"status": 429, "contains": "row 3."}], record=True)
    told = facts_of(check_of(sqlite_project.run(VERIFY, sample=1.0)))
    assert (told["agreement"], told["not_compared"]) == (1.0, 8)
    reasons = sqlite_project.table("verification").query("reason == 'rate_limited'")
    assert len(reasons) == 8 and reasons["agrees"].isna().all()


def test_refused_answers_and_other_runs_are_not_asked_again(sqlite_project: Project, server: FaultServer) -> None:
    server.configure(rules=[{"act": "wrong_types", "contains": "text one of row 3."}], record=True)
    first = a_completed_run(sqlite_project, server)
    server.configure(record=True)
    assert sqlite_project.run(reuse="none").success
    server.reset()
    assert sqlite_project.run(VERIFY, sample=1.0, of_run=first.run_id).success
    assert server.stats()["received"] == 18


def test_a_verification_that_died_goes_on_without_asking_twice(project: Project, server: FaultServer) -> None:
    a_completed_run(project, server)
    project.env["ELSPETH_MAX_CONCURRENCY"] = "1"
    server.configure(rules=[{"status": 401, "contains": "row 3."}], record=True)
    assert not project.run(VERIFY, sample=1.0).success
    server.configure(record=True)
    server.reset()
    result = project.run(VERIFY, sample=1.0)
    assert result.success and facts_of(check_of(result))["questions"] == 20
    assert server.stats()["received"] == 8
    assert project.fact(LEFT_OPEN) == 0


def test_a_verification_does_not_disturb_what_runs_go_on_from(sqlite_project: Project, server: FaultServer) -> None:
    first = a_completed_run(sqlite_project, server)
    assert sqlite_project.run(VERIFY, sample=1.0).success
    server.reset()
    assert sqlite_project.run(mode="replay").success
    assert sqlite_project.run_again(first.run_id).success
    assert server.stats()["received"] == 0


def test_an_erased_reply_is_still_compared_by_its_answer(sqlite_project: Project, server: FaultServer) -> None:
    a_completed_run(sqlite_project, server)
    erase_reply(sqlite_project, "R3", "cs1_depth")
    told = facts_of(check_of(sqlite_project.run(VERIFY, sample=1.0)))
    assert (told["cells"], told["not_compared"]) == (40, 0)


def test_a_row_that_was_erased_is_in_no_sample(sqlite_project: Project, server: FaultServer) -> None:
    a_completed_run(sqlite_project, server)
    with Landscape.open(sqlite_project.landscape_url) as landscape:
        erase(landscape, Wanted(row_key="R3"), "a request", "a clerk")
    result = sqlite_project.run(VERIFY, sample=1.0)
    assert result.success and facts_of(check_of(result))["questions"] == 16
    assert "R3" not in set(sqlite_project.table("verification")["row_key"])


@pytest.mark.parametrize(
    ("launch", "told"),
    [
        ({"sample": 1.5}, "sample is 1.5; it must be from 0 to 1"),
        ({"min_agreement": -1.0}, "min_agreement is -1.0; it must be from 0 to 1"),
        ({"of_run": "nobody"}, "no run 'nobody' is on record"),
        ({}, "no run of this slice has completed yet"),
    ],
)
def test_what_can_not_be_verified_is_said(
    sqlite_project: Project, server: FaultServer, launch: dict[str, Any], told: str
) -> None:
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(1))
    assert told in said(sqlite_project.run(VERIFY, **launch))
    assert server.stats()["received"] == 0


EVERYTHING = """
alone = defs

@dg.definitions
def defs():
    job = dg.define_asset_job("everything_job", selection=dg.AssetSelection.all())
    return dg.Definitions.merge(alone(), dg.Definitions(jobs=[job]))
"""


def test_a_run_that_makes_results_and_verification_keeps_them_apart(project: Project, server: FaultServer) -> None:
    with (project.folder / "trial" / "definitions.py").open("a") as file:
        file.write(EVERYTHING)
    project.declare()
    project.write_rows(rows_of_texts(5))
    assert project.run("everything_job").success
    asked = server.stats()["received"]
    assert asked > 20
    before = (project.home / "storage" / "trial" / "results.parquet").read_bytes()
    again = project.run("everything_job", reuse="lineage")
    assert again.success and asked < server.stats()["received"] < asked + 10  # its own sample, of its own answers
    assert project.run(mode="replay").success
    assert (project.home / "storage" / "trial" / "results.parquet").read_bytes() == before
    assert "launch them apart" in said(project.run("everything_job", mode="replay"))
    assert project.fact(LEFT_OPEN) == 1  # the run that was refused


def test_a_killed_verification_draws_all_of_its_batches_or_none(
    sqlite_project: Project, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_completed_run(sqlite_project, server)
    monkeypatch.setattr("elspeth_dagster.verifying.ROWS_A_BATCH", 2)
    result = sqlite_project.run(VERIFY, sample=1.0)
    assert facts_of(check_of(result))["questions"] == 20
    assert sqlite_project.fact("SELECT count(*) FROM batches WHERE run_id = :run", run=result.run_id) == 3
