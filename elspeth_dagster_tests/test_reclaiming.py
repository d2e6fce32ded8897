"""A run that dies with calls in flight, as the command line tells of it: open, uncertain, reclaimed, gone on from.

The runs are real, and so are the processes that are killed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from click.testing import CliRunner, Result

from elspeth_dagster.cli import main
from elspeth_dagster.cli.printing import instant
from elspeth_dagster.core.errors import LandscapeError
from elspeth_dagster.core.money import at_most
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.schema import answers, calls
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.landscape.test_only_growing import drop_triggers
from elspeth_dagster_tests.project import FORKED, Project, load_definitions, rows_of_texts

BOTH = """
def with_a_job_for_both(alone):
    @dg.definitions
    def defs():
        walks = dg.AssetSelection.all() - dg.AssetSelection.assets("trial/verification", "other/verification")
        job = dg.define_asset_job("both_job", selection=walks)
        return dg.Definitions.merge(alone(), dg.Definitions(jobs=[job]))
    return defs

defs = with_a_job_for_both(defs)
"""
RETRYING = """
def with_retries(alone):
    @dg.definitions
    def defs():
        job = dg.define_asset_job(
            "retrying_job",
            selection=dg.AssetSelection.all() - dg.AssetSelection.assets("trial/verification"),
            op_retry_policy=dg.RetryPolicy(max_retries=1),
        )
        return dg.Definitions.merge(alone(), dg.Definitions(jobs=[job]))
    return defs

defs = with_retries(defs)
"""
REPLAY = {"ops": {"trial": {"config": {"mode": "replay"}}}}


@dataclass
class Story:
    """A run of two assessments, with what commands said of it at each stage.

    Of `trial`, R0 was answered and R1 half; of `other`, which bounds no reply, the same. Then the run was killed,
    reclaimed, and `trial` launched again, and that run replayed.
    """

    project: Project
    died: str
    said: dict[str, Result]
    went_on: str = ""
    replayed: str = ""

    def told(self, name: str) -> Any:
        """The JSON that a command printed."""
        return json.loads(self.said[name].stdout)


def ask(project: Project, *words: str) -> Result:
    """What a command comes to."""
    return CliRunner().invoke(main, [*words, "--landscape", project.landscape_url])


def told(project: Project, *words: str) -> Any:
    result = ask(project, *words, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def wait(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.1)
        try:
            if condition():
                return
        except LandscapeError:  # it is not made yet
            continue
    raise TimeoutError


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as started:
        yield started


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def story(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, server: FaultServer
) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("reclaiming") / "project"
    url = f"sqlite:///{folder}/landscape.sqlite"
    if request.param == "postgresql":
        postgres = request.getfixturevalue("postgres")
        url = postgres.url(postgres.create())
    yield tell_the_story(Project(folder, url, server.base_url), server)


def tell_the_story(project: Project, server: FaultServer) -> Story:
    server.configure(rules=[{"act": "hang", "contains": "one of row 1."}])
    project.declare(llm={"model_name": "gpt-4o-mini", "temperature": 0, "max_tokens": 100})
    project.declare("other")
    project.write_rows(rows_of_texts(2))
    with (project.folder / "trial" / "definitions.py").open("a") as file:
        file.write(BOTH)
    run = launched(project)
    try:
        wait(lambda: project.fact("SELECT count(*) FROM calls c JOIN replies USING (call_id)") == 12)
        died = str(project.fact("SELECT run_id FROM runs"))
        story = Story(project, died, {
            "calls while it lives": ask(project, "calls", died, "--unknown", "--json"),
            "open while it lives": ask(project, "reclaim", "--json"),
            "refused": ask(project, "reclaim", died),
            "seen from another machine": elsewhere(project),
        })  # fmt: skip
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    time.sleep(1)
    story.said |= {
        "open": ask(project, "reclaim"),
        "none so quiet": ask(project, "reclaim", "--quiet-for", "1d"),
        "reclaimed": ask(project, "reclaim", died[:8]),
        "reclaimed again": ask(project, "reclaim", died, "--json"),
    }
    server.configure()
    story.went_on = project.run().run_id
    story.replayed = replay(project)
    return story


def launched(project: Project) -> subprocess.Popen[bytes]:
    config = project.folder / "two_at_a_time.yaml"
    config.write_text(
        yaml.safe_dump({"execution": {"config": {"multiprocess": {"max_concurrent": 2, "start_method": FORKED}}}})
    )
    command = [sys.executable, "-m", "dagster", "job", "execute"]
    words = ["-f", "trial/definitions.py", "-j", "both_job", "-c", str(config)]
    env = {**os.environ, **project.env, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [*command, *words], cwd=project.folder, env=env, start_new_session=True, stderr=subprocess.DEVNULL
    )


def elsewhere(project: Project) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "another-machine")
        return ask(project, "reclaim")


def replay(project: Project) -> str:
    with project.in_env(), dg.DagsterInstance.get() as instance:
        job = load_definitions(project.folder).resolve_job_def("trial_job")
        result = job.execute_in_process(instance=instance, run_config=REPLAY)
    assert result.success
    return result.run_id


# What is uncertain ---------------------------------------------------------------------------------------------------


def test_uncertain_calls_are_listed_with_row_question_and_bound_while_the_run_goes_on(story: Story) -> None:
    lines = story.told("calls while it lives")
    assert [(line["row_key"], line["outcome"]) for line in lines] == [("R1", None)] * 4
    assert {line["question"] for line in lines} == {"cs1_clarity", "cs1_depth"}
    assert [line["bound_nanousd"] is None for line in lines].count(True) == 2
    assert all(line["idempotency_key"] == line["call_id"] for line in lines)


def test_the_sum_of_bounds_is_told_beside_the_table(story: Story) -> None:
    bounds = [line["bound_nanousd"] for line in story.told("calls while it lives") if line["bound_nanousd"]]
    result = ask(story.project, "calls", story.died, "--unknown")
    assert result.stderr == f"4 calls without a known reply, at most {at_most(sum(bounds), 2)}.\n"
    head, *lines = result.stdout.splitlines()
    assert head.endswith("at most") and len(lines) == 4
    assert sum(line.split()[-1].startswith("$") for line in lines) == 2


def test_the_sum_follows_the_row_and_question_that_were_asked_for(story: Story) -> None:
    one = ask(story.project, "calls", story.died, "--row", "R1", "--question", "cs1_depth")
    assert one.stderr.startswith("2 calls without a known reply, at most $") and "+ 1 without" in one.stderr
    assert ask(story.project, "calls", story.died, "--row", "R0").stderr == ""
    assert ask(story.project, "calls", story.died, "--errors").stderr == ""


def test_a_call_with_a_reply_shows_no_bound(story: Story) -> None:
    lines = told(story.project, "calls", story.died, "--row", "R0")
    assert all(line["outcome"] == "success" for line in lines)
    table = ask(story.project, "calls", story.died, "--row", "R0").stdout.splitlines()[1:]
    assert all(line.split()[-1] == "-" for line in table)


def test_costs_tell_the_bound_of_what_is_unknown(story: Story) -> None:
    cost = told(story.project, "cost", story.died)
    of_trial = [line for line in cost["lines"] if line["assessment"] == "trial"]
    assert {line["question"]: line["unknown"] for line in of_trial} == {
        "cs1_clarity": 1, "cs1_depth": 1, "cs2_clarity": 0, "cs2_depth": 0,
    }  # fmt: skip
    bounds = [line["bound_nanousd"] for line in story.told("calls while it lives")]
    total = cost["total"]
    assert (total["unknown"], total["unbounded_calls"]) == (4, 2)
    assert total["bound_nanousd"] == sum(bound for bound in bounds if bound)
    last = ask(story.project, "cost", story.died).stdout.splitlines()[-1]
    assert f" {at_most(total['bound_nanousd'], 2)}  " in last


def test_a_bound_is_never_told_of_what_has_none() -> None:
    assert at_most(None, 0) == "-"
    assert at_most(None, 2) == "2 without a known bound"
    assert at_most(1_230_000_000, 0) == "$1.23"
    assert at_most(1_230_000_000, 1) == "$1.23 + 1 without a known bound"


# Which runs are open -------------------------------------------------------------------------------------------------


def test_an_open_run_is_listed_with_its_last_sign_of_life_and_its_live_processes(story: Story) -> None:
    [run] = story.told("open while it lives")
    assert (run["run_id"], run["assessments"], run["calls_without_reply"]) == (story.died, ["other", "trial"], 4)
    newest = story.project.fact("SELECT max(received_at) FROM replies WHERE outcome = 'success'")
    assert datetime.fromisoformat(run["last_sign_at"]).timestamp() <= newest / 1_000_000
    assert run["last_sign_at"] > run["started_at"]
    assert run["open_states"] == 2
    assert [(process["open_states"], process["is_alive"]) for process in run["processes"]] == [(1, True), (1, True)]


def test_of_another_machines_processes_nothing_is_claimed(story: Story) -> None:
    text = story.said["seen from another machine"].stdout
    assert text.count(f"on {socket.gethostname()} not to be known from here") == 2


def test_a_live_run_is_refused_and_told_what_would_happen(story: Story) -> None:
    refused = story.said["refused"]
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"Error: run {story.died} lives: process ")
    assert "--force" in refused.stderr and "Nothing would be lost" in refused.stderr


def test_a_killed_run_is_listed_with_its_processes_gone(story: Story) -> None:
    head, line = story.said["open"].stdout.splitlines()
    assert head.startswith("run ") and line.startswith(story.died)
    assert line.count(f"on {socket.gethostname()} gone") == 2


def test_a_run_that_was_not_quiet_for_so_long_is_left(story: Story) -> None:
    said = story.said["none so quiet"]
    assert (said.exit_code, said.stdout) == (0, "No run without an end was quiet for so long.\n")


# What becomes of a run -----------------------------------------------------------------------------------------------


def test_a_reclaimed_run_leaves_nothing_open_and_is_told_what_became_of_it(story: Story) -> None:
    said = story.said["reclaimed"]
    assert said.exit_code == 0, said.stderr
    assert re.fullmatch(
        rf"{story.died} ended as interrupted; tokens interrupted: 8, calls without a known reply: 4 "
        r"\(at most \$0\.\d+ \+ 2 without a known bound\)\n",
        said.stdout,
    )
    [end] = story.project.facts("SELECT status, detail FROM run_ends WHERE run_id = :run", run=story.died)
    assert end == {"status": "interrupted", "detail": "reclaimed by hand"}
    states = "SELECT count(*) FROM node_states WHERE state_id NOT IN (SELECT state_id FROM node_state_ends)"
    assert story.project.fact(states) == 0
    calls = "SELECT count(*) FROM calls WHERE call_id NOT IN (SELECT call_id FROM replies)"
    assert story.project.fact(calls) == 0


def test_a_run_that_has_ended_is_refused(story: Story) -> None:
    said = story.said["reclaimed again"]
    assert said.exit_code == 1
    [run] = story.told("reclaimed again")
    assert run["refused"] == f"run {story.died} has ended already: interrupted, reclaimed by hand"
    assert run["refused"] in said.stderr
    assert ask(story.project, "reclaim", "nope").exit_code == 1


def test_where_no_run_is_open_the_list_is_empty(story: Story) -> None:
    assert told(story.project, "reclaim") == []


def test_a_run_that_failed_is_reclaimed_once_it_was_quiet_for_so_long(
    tmp_path: Path, database_url: str, server: FaultServer
) -> None:
    server.configure()
    project = Project(tmp_path / "project", database_url, server.base_url)
    project.declare()
    project.write_rows(rows_of_texts(1))
    (project.home / "storage" / "trial" / "answers.parquet").mkdir(parents=True)
    run_id = project.run().run_id
    [run] = told(project, "reclaim")
    assert (run["open_states"], len(run["processes"]), run["processes"][0]["pid"]) == (0, 1, os.getpid())
    time.sleep(1)
    [reclaimed] = told(project, "reclaim", "--quiet-for", "1s")
    assert (reclaimed["run_id"], reclaimed["refused"], reclaimed["calls_unknown"]) == (run_id, None, 0)
    detail = project.fact("SELECT detail FROM run_ends WHERE run_id = :run", run=run_id)
    assert detail == "reclaimed: no sign of life for 0:00:01"


def test_a_live_run_that_is_ended_by_force_stops_and_says_why(
    tmp_path: Path, database_url: str, server: FaultServer
) -> None:
    server.configure(latency_ms=1500)
    project = Project(tmp_path / "project", database_url, server.base_url)
    project.env["ELSPETH_MAX_CONCURRENCY"] = "1"
    project.declare()
    project.write_rows(rows_of_texts(2))
    results: list[dg.ExecuteInProcessResult] = []
    with project.in_env():
        worker = threading.Thread(target=lambda: results.append(project.run()))
        worker.start()
        wait(lambda: project.fact("SELECT count(*) FROM calls") > 0)
        run_id = str(project.fact("SELECT run_id FROM runs"))
        assert ask(project, "reclaim", run_id).exit_code == 1
        assert ask(project, "reclaim", "--quiet-for", "0s").exit_code == 1
        assert ask(project, "reclaim", run_id, "--force").exit_code == 0
        recorded = project.fact("SELECT count(*) FROM calls")
        worker.join()
    [failure] = [event for event in results[0].all_events if event.event_type_value == "STEP_FAILURE"]
    assert "This run has ended: reclaimed by hand." in failure.step_failure_data.error_display_string
    assert project.fact("SELECT count(*) FROM calls") == recorded
    assert project.fact("SELECT count(*) FROM replies WHERE outcome <> 'unknown'") < recorded + 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        ([], 0),
        (["--quiet-for", "2h"], 0),
        (["nope"], 1),
        (["--quiet-for", "soon"], 2),
        (["--quiet-for", "2"], 2),
        (["3f2a", "--quiet-for", "2h"], 2),
        (["--force"], 2),
    ],
)
def test_exit_codes_tell_what_happened(words: list[str], code: int, sqlite_url: str) -> None:
    result = CliRunner().invoke(main, ["reclaim", *words, "--landscape", sqlite_url])
    assert result.exit_code == code
    assert bool(result.stderr) == (code != 0)


def test_nothing_is_made_where_there_is_no_landscape(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["reclaim", "--landscape", f"sqlite:///{tmp_path}/folder/landscape.sqlite"])
    assert result.exit_code == 1 and "there is no landscape at" in result.stderr
    assert list(tmp_path.iterdir()) == []


# The run that goes on from there -------------------------------------------------------------------------------------


def test_an_answer_from_an_earlier_run_is_told_with_its_call_its_run_and_when(story: Story) -> None:
    document = told(story.project, "explain", story.went_on, "--row", "R0", "--question", "cs1_depth")
    [question] = document["questions"]
    [made] = question["calls"]
    origin = question["answer"]["taken_from"]
    assert made["is_reused"] and made["attempt"] is None
    assert made["call"]["run_id"] == origin["run_id"] == story.died
    assert made["call"]["call_id"] == origin["call_id"] == question["answer"]["answer"]["call_id"]
    assert (origin["row_key"], origin["sent_at"]) == ("R0", made["call"]["sent_at"])
    content = json.loads(made["body"]["text"])["choices"][0]["message"]["content"]
    assert question["answer"]["values"] == json.loads(content)


def test_as_text_it_is_marked_as_reused_with_request_and_reply(story: Story) -> None:
    words = ("explain", story.went_on, "--row", "R0", "--question", "cs1_depth")
    [question] = told(story.project, *words)["questions"]
    origin = question["answer"]["taken_from"]
    sent = instant(datetime.fromisoformat(origin["sent_at"]))
    text = ask(story.project, *words).stdout
    for part in (
        f"call 1, reused: first, made by run {story.died}, state {origin['state_id']}, try 1",
        f"sent  {sent} to openai",
        "| Judge the depth of cs1: text one of row 0.",
        "reply: success, HTTP 200",
        f"answer: accepted, taken without asking again from call {origin['call_id']} made by run {story.died} "
        f"about its row R0, sent {sent}, at ",
    ):
        assert part in text


def test_what_was_asked_again_is_not_marked_as_reused(story: Story) -> None:
    document = told(story.project, "explain", story.went_on, "--row", "R1", "--question", "cs1_depth")
    [question] = document["questions"]
    assert [made["is_reused"] for made in question["calls"]] == [False]
    assert question["calls"][0]["call"]["run_id"] == story.went_on
    assert question["answer"]["taken_from"] is None
    text = ask(story.project, "explain", story.went_on, "--row", "R1", "--question", "cs1_depth").stdout
    assert "reused" not in text and "answer: accepted, from call " in text


def test_the_mode_of_a_run_is_listed_and_explained(story: Story) -> None:
    listed = {run["run_id"]: run["mode"] for run in told(story.project, "runs")}
    assert listed == {story.died: "ask", story.went_on: "ask", story.replayed: "replay"}
    head, first, *_ = ask(story.project, "runs").stdout.splitlines()
    assert "mode" in head.split() and "replay" in first.split()
    assert "mode      " in ask(story.project, "explain", story.replayed, "--row", "R0").stdout
    assert "mode      " not in ask(story.project, "explain", story.went_on, "--row", "R0").stdout


def test_a_replayed_answer_tells_the_call_that_it_comes_from(story: Story) -> None:
    document = told(story.project, "explain", story.replayed, "--row", "R1")
    origins = [question["answer"]["taken_from"]["run_id"] for question in document["questions"]]
    assert origins == [story.went_on, story.went_on, story.died, story.died]


def test_an_answer_from_an_earlier_attempt_is_told_with_that_attempt(
    tmp_path: Path, database_url: str, server: FaultServer
) -> None:
    server.reset()  # what it was asked before is a first try again
    server.configure(first_tries={"act": "hang", "times": 1, "contains": "depth of cs2"})
    project = Project(tmp_path / "project", database_url, server.base_url)
    project.declare()
    project.write_rows(rows_of_texts(1))
    with (project.folder / "trial" / "definitions.py").open("a") as file:
        file.write(RETRYING)
    killer = threading.Thread(target=kill_the_asking_step, args=(project,))
    killer.start()
    assert project.run_in_processes("retrying_job").success
    killer.join()
    *reused, asked_again = told(project, "explain", "latest", "--row", "R0")["questions"]
    for question in reused:
        assert [(made["is_reused"], made["attempt"]) for made in question["calls"]] == [(True, 1)]
        assert (question["answer"]["attempt"], question["answer"]["taken_from"]["attempt"]) == (2, 1)
    assert [(made["is_reused"], made["attempt"]) for made in asked_again["calls"]] == [(False, 1), (False, 2)]
    assert asked_again["answer"]["taken_from"] is None
    text = ask(project, "explain", "latest", "--row", "R0").stdout
    assert text.count(", reused: first, attempt 1 at the batch, try 1") == text.count("made by attempt 1, sent") == 3


def kill_the_asking_step(project: Project) -> None:
    """Kill -9 the process that asks, once three of its four replies are on record."""
    wait(lambda: project.fact("SELECT count(*) FROM replies WHERE outcome = 'success'") == 3)
    [state] = project.facts("SELECT pid FROM node_states WHERE node_id = 'trial.ask_batches'")
    os.kill(state["pid"], signal.SIGKILL)


def test_an_answer_to_another_rows_question_is_told_with_that_row(
    tmp_path: Path, database_url: str, server: FaultServer
) -> None:
    """As it was recorded when a reply was taken for any row with the same text."""
    server.configure()
    project = Project(tmp_path / "project", database_url, server.base_url)
    project.declare(criteria=[{"name": "clarity"}], case_studies=[{"name": "cs1", "inputs": {"text": "cs1_text"}}])
    runs = []
    for key in ("OLD", "NEW"):
        project.write_rows([{"id": key, "cs1_text": "the same text", "cs2_text": "whatever"}])
        runs.append(project.run(reuse="none").run_id)
    earlier, later = runs
    with closing(Database.open(database_url)) as database:
        drop_triggers(database, "answers")
        with database.write() as connection:
            theirs = sa.select(calls.c.call_id).where(calls.c.run_id == earlier).scalar_subquery()
            connection.execute(answers.update().where(answers.c.run_id == later).values(call_id=theirs))
    [question] = told(project, "explain", "latest", "--row", "NEW")["questions"]
    assert (question["answer"]["taken_from"]["run_id"], question["answer"]["taken_from"]["row_key"]) == (earlier, "OLD")
    assert [made["is_reused"] for made in question["calls"]] == [True, False]
    assert "about its row OLD" in ask(project, "explain", "latest", "--row", "NEW").stdout
