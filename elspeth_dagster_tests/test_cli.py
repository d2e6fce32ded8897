"""The command line over real records: runs of a real project against a provider that misbehaves, on both databases."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from elspeth_dagster.cli import main
from elspeth_dagster.cli.printing import escaped, quoted, table
from elspeth_dagster.core.money import money, spent
from elspeth_dagster.landscape.database import Database
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import KEY, Project
from elspeth_dagster_tests.trial import run_trial

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp.exe\u2066\u200b\x00\r"
HOSTILE_REPLY = f'{{"score": 1}}{ESCAPES}\nOUTCOME assessed'
QUESTIONS = ["cs1_clarity", "cs1_depth", "cs2_clarity", "cs2_depth"]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project with two runs on record.

    `trial`: R0 went well, R1 was retried, R2 repaired, R3 failed, R4 had nothing to be asked about; record 5 was
    rejected. Then `hostile`, whose provider replies what drives a terminal.
    """
    folder = tmp_path_factory.mktemp("cli") / "project"
    url = f"sqlite:///{folder}/landscape.sqlite"
    if request.param == "postgresql":
        postgres = request.getfixturevalue("postgres")
        url = postgres.url(postgres.create())
    with FaultServer() as server:
        made = Project(folder, url, server.base_url)
        run_trial(made, server)
        run_hostile(made, server)
        yield made


def run_hostile(project: Project, server: FaultServer) -> None:
    server.configure(content=HOSTILE_REPLY)
    project.declare("hostile", structured_output="none", source={
        "path": "data/hostile.csv", "key": ["id"],
        "columns": {"id": "str", "cs1_text": "str", "cs2_text": "str"},
    })  # fmt: skip
    project.write_rows([{"id": "H", "cs1_text": "x\x1b[31m\u202e", "cs2_text": "y"}], "data/hostile.csv")
    assert project.run("hostile_job").success


def ask(project: Project, *words: str) -> Result:
    """What a command comes to."""
    return CliRunner().invoke(main, [*words, "--landscape", project.landscape_url])


def printed(project: Project, *words: str) -> str:
    result = ask(project, *words)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def told(project: Project, *words: str) -> Any:
    return json.loads(printed(project, *words, "--json"))


def trial_run(project: Project) -> str:
    return str(told(project, "runs", "--assessment", "trial")[0]["run_id"])


# explain -------------------------------------------------------------------------------------------------------------


def test_explain_tells_each_row_its_own_calls_and_no_other(project: Project) -> None:
    run = trial_run(project)
    made = project.facts(
        "SELECT c.call_id, r.row_key FROM calls c JOIN tokens t ON t.token_id = c.token_id "
        "JOIN rows r ON r.row_id = t.row_id WHERE c.run_id = :run",
        run=run,
    )
    for key in ("R0", "R1", "R2", "R3", "R4"):
        document = told(project, "explain", run, "--row", key)
        calls = [made["call"]["call_id"] for question in document["questions"] for made in question["calls"]]
        assert sorted(calls) == sorted(call["call_id"] for call in made if call["row_key"] == key)
        text = printed(project, "explain", run, "--row", key)
        assert {call["call_id"] for call in made if re.search(rf"\b{call['call_id']}\b", text)} == set(calls)


def test_explain_as_text_tells_the_whole_chain(project: Project) -> None:
    run = trial_run(project)
    text = printed(project, "explain", run, "--row", "R0")
    [place] = project.facts(
        "SELECT a.uri, a.content_hash FROM artifacts a WHERE a.asset_key = 'trial/results' AND a.run_id = :run", run=run
    )
    for part in (
        f"RUN {run}",
        "status      completed",
        "ROW R0",
        "record 0, line 2",
        "| R0,text one of row 0.,text two of row 0.",
        "BATCH 0 of trial.aggregate_rows, in shard_00001",
        "flushed by rows; holds 2 rows, this one at 0",
        "attempt 1 at trial.ask_batches: completed",
        "QUESTION cs2_depth: accepted",
        "/v1/chat/completions",
        "Bearer hmac-sha256:",
        "| Judge the depth of cs2: text two of row 0.",
        "| You judge texts. Reply with JSON.",
        "finish_reason  stop",
        "OUTCOME assessed",
        "decided by  trial.collect_results, attempt 1",
        place["uri"],
        f"sha256:{bytes(place['content_hash']).hex()}",
    ):
        assert part in text
    assert KEY not in text


def test_a_retried_question_shows_every_try(project: Project) -> None:
    document = told(project, "explain", trial_run(project), "--row", "R1", "--question", "cs1_depth")
    [question] = document["questions"]
    first, second = question["calls"]
    assert (first["call"]["cause"], first["reply"]["http_status"]) == ("first", 429)
    assert (second["call"]["cause"], second["reply"]["outcome"]) == ("retry", "success")
    assert question["answer"]["answer"]["call_id"] == second["call"]["call_id"]
    text = printed(project, "explain", trial_run(project), "--row", "R1", "--question", "cs1_depth")
    assert "call 1: first, attempt 1 at the batch, try 1" in text
    assert re.search(r"error +rate_limited: HTTP 429", text)
    assert "call 2: retry, attempt 1 at the batch, try 2" in text
    assert "cs1_clarity" not in text


def test_a_repaired_question_shows_what_was_refused_and_what_was_said_about_it(project: Project) -> None:
    text = printed(project, "explain", trial_run(project), "--row", "R2", "--question", "cs1_clarity")
    assert "call 2: repair" in text and "answer: accepted" in text
    assert "assistant:" in text and "| That reply was refused: The field `score` must be integer" in text


def test_a_failed_row_tells_each_questions_own_reason_and_where_it_is_listed(project: Project) -> None:
    text = printed(project, "explain", trial_run(project), "--row", "R3")
    assert "QUESTION cs1_depth: accepted" in text and "QUESTION cs2_depth: refused" in text
    assert "not_json: It is not one JSON object." in text
    assert "OUTCOME failed" in text and "IN trial/failures" in text and "IN trial/results" not in text
    never = printed(project, "explain", trial_run(project), "--row", "R4", "--question", "cs2_depth")
    assert "blank_input" in never and "without a call" in never and "call 1" not in never


def test_a_rejected_record_is_told_with_its_reason_and_its_text(project: Project) -> None:
    for name in ("R99", "#5"):
        text = printed(project, "explain", trial_run(project), "--row", name)
        assert "REJECTED: it never became a row" in text and "blank_key" in text
        assert "| ,lost,R99 is lost" in text
    document = told(project, "explain", trial_run(project), "--row", "#5")
    assert document["row"] is None and document["rejections"][0]["raw"]["text"] == ",lost,R99 is lost"


def test_explain_as_json_is_one_whole_document(project: Project) -> None:
    document = told(project, "explain", trial_run(project)[:8], "--row", "R0")
    assert [question["key"] for question in document["questions"]] == QUESTIONS
    for question in document["questions"]:
        [made] = question["calls"]
        assert made["request"]["json"]["messages"][0]["role"] == "system"
        content = json.loads(made["body"]["text"])["choices"][0]["message"]["content"]
        assert question["answer"]["values"] == json.loads(content)
        assert made["reply"]["prompt_tokens"] > 0 and made["reply"]["latency_us"] > 0
    assert document["outcome"]["decided_by"]["step_key"] == "trial.collect_results"
    assert {artifact["asset_key"] for artifact in document["artifacts"]} == {"trial/results", "trial/answers"}


def test_an_unknown_row_is_one_sentence_with_near_keys_and_exit_code_1(project: Project) -> None:
    result = ask(project, "explain", trial_run(project), "--row", "R9")
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(r"Error: run .* has no row 'R9' on record; near it: .*'R0'.*\n", result.stderr)
    assert ask(project, "explain", "nope", "--row", "R0").exit_code == 1
    assert ask(project, "explain", "latest", "--row", "H", "--question", "nope").exit_code == 1


def test_a_changed_record_is_said_loudly(project: Project, tmp_path: Path) -> None:
    if not project.landscape_url.startswith("sqlite"):
        pytest.skip("test_explaining does it on both; here it is the exit code")
    copy = tmp_path / "copy.sqlite"
    connection = sqlite3.connect(f"{project.folder}/landscape.sqlite")
    with connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    forger = sqlite3.connect(copy)
    with forger:
        forger.execute("DROP TRIGGER payloads_no_update")
        forger.execute("UPDATE payloads SET body = x'00', encoding = 'identity'")
    forger.close()
    result = CliRunner().invoke(main, ["explain", "latest", "--row", "H", "--landscape", f"sqlite:///{copy}"])
    assert result.exit_code == 1 and "the record was changed" in result.stderr


# Hostile text --------------------------------------------------------------------------------------------------------


def test_a_hostile_reply_and_row_never_drive_the_terminal(project: Project) -> None:
    text = printed(project, "explain", "latest", "--row", "H")
    assert all(char.isprintable() for char in text.replace("\n", ""))
    assert r"\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp.exe\u2066\u200b\x00\r" in text
    assert r"x\x1b[31m\u202e" in text


def test_a_hostile_reply_cannot_pass_for_our_own_words(project: Project) -> None:
    lines = printed(project, "explain", "latest", "--row", "H").splitlines()
    forged = [line for line in lines if "OUTCOME assessed" in line]
    assert forged and all(line.lstrip().startswith("| ") for line in forged)
    assert "OUTCOME failed" in lines


def test_json_is_ascii_and_gives_a_hostile_reply_exactly(project: Project) -> None:
    output = printed(project, "explain", "latest", "--row", "H", "--json")
    assert output.isascii() and "\x1b" not in output
    made = json.loads(output)["questions"][0]["calls"][0]
    assert json.loads(made["body"]["text"])["choices"][0]["message"]["content"] == HOSTILE_REPLY


def test_an_error_message_never_drives_the_terminal(project: Project) -> None:
    result = ask(project, "explain", "latest", "--row", "\x1b[31mH\u202e")
    assert result.exit_code == 1
    assert result.stderr.rstrip("\n").isprintable()


@given(st.text())
def test_escaped_text_is_printable_and_keeps_what_was(text: str) -> None:
    shown = escaped(text)
    assert shown.isprintable()
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in shown)
    assert [char for char in text if char.isprintable()] == [
        char for char in text if char in shown and char.isprintable()
    ]


@given(st.text())
def test_quoted_text_stays_behind_its_bar(text: str) -> None:
    assert all(line.startswith("| ") for line in quoted(text))


def test_a_very_long_text_is_cut_and_says_so() -> None:
    *_, last = quoted("x" * 20_001)
    assert last == "(1 more characters, which --json prints)"


# runs, calls, cost ---------------------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_with_what_became_of_their_rows(project: Project) -> None:
    hostile, trial = told(project, "runs")
    assert (hostile["assessments"], trial["assessments"]) == (["hostile"], ["trial"])
    counts = {"rows": 5, "rejected": 1, "assessed": 3, "partial": 0, "failed": 2, "interrupted": 0}
    assert {name: trial[name] for name in counts} == counts
    assert trial["status"] == "completed"
    assert trial["calls"] == project.fact("SELECT count(*) FROM calls WHERE run_id = :run", run=trial["run_id"])
    cost = project.fact(
        "SELECT sum(p.cost_nanousd) FROM replies p JOIN calls c ON c.call_id = p.call_id WHERE c.run_id = :run",
        run=trial["run_id"],
    )
    assert trial["cost_nanousd"] == int(cost) > 0
    text = printed(project, "runs")
    assert hostile["run_id"] in text and trial["run_id"] in text and money(int(cost)) in text


def test_runs_can_be_of_one_assessment_and_few(project: Project) -> None:
    [trial] = told(project, "runs", "--assessment", "trial")
    assert trial["assessments"] == ["trial"]
    [newest] = told(project, "runs", "--limit", "1")
    assert newest["assessments"] == ["hostile"]
    assert told(project, "runs", "--assessment", "TRIAL") == []
    assert ask(project, "runs", "--limit", "0").exit_code == 2


def test_calls_are_listed_one_a_line(project: Project) -> None:
    run = trial_run(project)
    count = project.fact("SELECT count(*) FROM calls WHERE run_id = :run", run=run)
    assert len(told(project, "calls", run)) == count
    head, *lines = printed(project, "calls", run).splitlines()
    assert len(lines) == count and head.startswith("call ")
    call = told(project, "calls", run, "--row", "R0", "--question", "cs1_clarity")
    assert [(each["row_key"], each["question"], each["outcome"]) for each in call] == [("R0", "cs1_clarity", "success")]


def test_calls_can_be_those_that_went_wrong(project: Project) -> None:
    run = trial_run(project)
    errors = told(project, "calls", run, "--errors")
    assert [(call["row_key"], call["http_status"]) for call in errors] == [("R1", 429)] * 4
    assert told(project, "calls", run, "--unknown") == []
    assert told(project, "calls", run, "--unknown", "--errors") == errors
    assert told(project, "calls", run, "--row", "R0", "--errors") == []
    assert ask(project, "calls", run, "--row", "R9").exit_code == 1


def test_costs_add_up_to_those_of_the_run(project: Project) -> None:
    run = trial_run(project)
    [listed] = told(project, "runs", "--assessment", "trial")
    cost = told(project, "cost", run)
    assert [line["question"] for line in cost["lines"]] == QUESTIONS
    assert (
        cost["total"]["cost_nanousd"] == listed["cost_nanousd"] == sum(line["cost_nanousd"] for line in cost["lines"])
    )
    assert cost["total"]["calls"] == listed["calls"]
    assert cost["total"]["errors"] == 4 and cost["total"]["unpriced_calls"] == 0
    assert f"total {'':>9}" in printed(project, "cost", run)
    whole = told(project, "cost")
    assert {line["assessment"] for line in whole["lines"]} == {"hostile", "trial"}
    assert whole["total"]["calls"] == sum(run["calls"] for run in told(project, "runs"))


@given(st.integers(min_value=-(2**63), max_value=2**63))
def test_money_is_printed_exactly(nanousd: int) -> None:
    text = money(nanousd)
    assert Decimal(text.replace("$", "")) * 10**9 == nanousd
    assert re.fullmatch(r"-?\$\d+\.\d\d(\d*[1-9])?", text)


def test_calls_without_a_known_price_are_never_free() -> None:
    assert spent(0, 0) == "$0.00"
    assert spent(None, 0) == "-"
    assert spent(None, 3) == "3 without a known price"
    assert spent(1_500_000_001, 3) == "$1.500000001 + 3 without a known price"


def test_a_table_is_aligned_and_its_cells_are_escaped() -> None:
    lines = list(table(("name", "n"), [("a\x1b", 1), (None, 100)], numbers=("n",)))
    assert lines == ["name     n", "a\\x1b    1", "-      100"]


# Used wrongly, and the landscape -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["explain", "--help"], 0),
        (["nope"], 2),
        (["explain"], 2),
        (["explain", "latest"], 2),
        (["runs", "--nope"], 2),
        (["runs", "--landscape", "no url"], 2),
        (["runs", "--landscape", "mysql://user:pass@host/name"], 2),
        (["runs", "--landscape", "postgresql://user:hunter2@127.0.0.1:1/name"], 1),
        (["explain", "latest", "--row", "A"], 1),
        (["runs"], 1),
        (["calls", "latest"], 1),
        (["cost"], 1),
    ],
)
def test_exit_codes_tell_what_happened(
    words: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ELSPETH_LANDSCAPE_URL", raising=False)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(Database.open.__func__.__kwdefaults__, "patience", 0.5)  # a database that is away: else 10 s
    result = CliRunner().invoke(main, words)
    assert result.exit_code == code
    assert bool(result.stderr) == (code != 0)
    assert "hunter2" not in result.output and "Traceback" not in result.output


def test_reading_makes_no_landscape_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "landscape.sqlite"
    result = CliRunner().invoke(main, ["runs"], env={"ELSPETH_LANDSCAPE_URL": f"sqlite:///{path}"})
    assert result.exit_code == 1 and "there is no landscape at" in result.stderr
    assert not path.parent.exists()


def test_a_database_without_landscape_is_not_made_one_by_reading(empty_url: str) -> None:
    if empty_url.startswith("sqlite"):
        sqlite3.connect(empty_url.removeprefix("sqlite:///")).execute("VACUUM").connection.close()
    for _ in range(2):
        result = CliRunner().invoke(main, ["runs", "--landscape", empty_url])
        assert result.exit_code == 1 and "has no tables yet" in result.stderr


def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("These are notes, and long enough to be no database header. " * 100)
    result = CliRunner().invoke(main, ["runs", "--landscape", f"sqlite:///{tmp_path}/notes.txt"])
    assert result.exit_code == 1 and "file is not a database" in result.stderr


def test_upgrade_makes_the_tables_once_and_says_so(empty_url: str) -> None:
    first = CliRunner().invoke(main, ["upgrade", "--landscape", empty_url])
    assert first.exit_code == 0 and re.search(r"had no tables, now it has schema \w+\.", first.stdout)
    again = CliRunner().invoke(main, ["upgrade", "--landscape", empty_url])
    assert again.exit_code == 0 and re.search(r"is up to date: its schema is \w+\.", again.stdout)
    listed = CliRunner().invoke(main, ["runs", "--landscape", empty_url])
    assert listed.exit_code == 0 and listed.stdout.startswith("run ")


def test_a_landscape_newer_than_the_package_is_left_alone(sqlite_url: str) -> None:
    connection = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    with connection:
        connection.execute("UPDATE landscape_version SET version_num = '9999'")
    connection.close()
    for command in ("runs", "upgrade"):
        result = CliRunner().invoke(main, [command, "--landscape", sqlite_url])
        assert result.exit_code == 1 and "newer than this package" in result.stderr


def test_an_empty_landscape_has_no_runs_and_cost_nothing(database_url: str) -> None:
    def read(*words: str) -> Any:
        return json.loads(CliRunner().invoke(main, [*words, "--json", "--landscape", database_url]).stdout)

    assert read("runs") == []
    empty = dict.fromkeys(("calls", "errors", "unknown", "unpriced_calls", "unbounded_calls", "reused"), 0)
    reported = ("prompt_tokens", "completion_tokens", "cost_nanousd", "bound_nanousd", "saved_nanousd")
    unreported = dict.fromkeys(reported)
    assert read("cost") == {"run_id": None, "lines": [], "total": {**empty, **unreported}}


def test_help_comes_without_dagster_database_or_provider() -> None:
    script = (
        "import sys; from elspeth_dagster.cli import main; main(['--help'], standalone_mode=False); "
        "print(*sorted({'dagster', 'sqlalchemy', 'openai', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
    assert "Exit codes: 0 fine" in done.stdout


def test_a_command_reads_the_landscape_without_dagster(sqlite_url: str) -> None:
    script = (
        f"import sys; from elspeth_dagster.cli import main; "
        f"main(['runs', '--landscape', {sqlite_url!r}], standalone_mode=False); "
        "print(*sorted({'dagster', 'openai', 'aiohttp'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
