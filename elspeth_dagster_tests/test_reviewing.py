"""A sheet goes to people and comes back: on record beside the answers, in `explain`, in the next tables, never over."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from elspeth_dagster.cli import main
from elspeth_dagster.cli.sheets import assessment_of
from elspeth_dagster.landscape import runs
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.reviews import about_run
from elspeth_dagster.stages.querying import questions
from elspeth_dagster.stages.reviewing import latest_by_question, review_cells
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project, rows_of_texts

Line = dict[str, str]
FORMULA = "=1+1"
REFUSED = ("R2", "cs2_depth")
NOT_ASKED = ("R4", "cs2_depth")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project with a run of five rows: R2 has a refused answer, one has a formula for a key, R4 a blank text."""
    folder = tmp_path_factory.mktemp("review") / "project"
    url = f"sqlite:///{folder}/landscape.sqlite"
    if request.param == "postgresql":
        postgres = request.getfixturevalue("postgres")
        url = postgres.url(postgres.create())
    with FaultServer(rules=[{"act": "not_json", "contains": "depth of cs2: text two of row 2."}]) as server:
        made = Project(folder, url, server.base_url)
        made.declare(errors={"row": "keep_partial", "retry_seconds": 10})
        rows = rows_of_texts(5)
        rows[3]["id"] = FORMULA
        rows[4]["cs2_text"] = " "
        made.write_rows(rows)
        assert made.run().success
        yield made


@pytest.fixture
def sheet(project: Project, tmp_path: Path) -> Path:
    """The answers of the run, as a person gets them."""
    path = tmp_path / "sheet.csv"
    assert ask(project, "export", first_run(project), "--to", str(path)).exit_code == 0
    return path


def first_run(project: Project) -> str:
    return str(project.facts("SELECT run_id FROM runs ORDER BY started_at LIMIT 1")[0]["run_id"])


def ask(project: Project, *words: str) -> Result:
    """What a command of `review` comes to."""
    return CliRunner().invoke(main, ["review", *words, "--landscape", project.landscape_url])


def lines_of(path: Path) -> list[Line]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill_in(sheet: Path, fill: Callable[[Line], object], delimiter: str = ",") -> Path:
    """The sheet as somebody saved it who filled in some lines."""
    lines = lines_of(sheet)
    for line in lines:
        fill(line)
    path = sheet.with_name(f"{sheet.stem}_filled.csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(lines)
    return path


def of(line: Line, row_key: str, question: str) -> bool:
    return (line["row_key"], line["question"]) == (row_key, question)


def agree_with(*keys: tuple[str, str], reviewer: str = "Ada") -> Callable[[Line], None]:
    def fill(line: Line) -> None:
        if any(of(line, *key) for key in keys):
            line |= {"verdict": "agree", "reviewer": reviewer}

    return fill


def reviews(project: Project) -> int:
    return int(project.fact("SELECT count(*) FROM reviews"))


# The sheet -----------------------------------------------------------------------------------------------------------


def test_a_sheet_has_a_line_for_each_answer_with_room_for_people(sheet: Path) -> None:
    lines = lines_of(sheet)
    assert [line["row_key"] for line in lines] == [key for key in ("R0", "R1", "R2", "'=1+1", "R4") for _ in range(4)]
    assert all(line[name] == "" for line in lines for name in ("reviewer", "verdict", "reason", "corrected_score"))
    refused, *not_asked = [line for line in lines if line["status"] == "refused"]
    assert [line["refusal"].split(":")[0] for line in not_asked] == ["blank_input"] * 2
    assert (refused["row_key"], refused["question"], refused["answer_score"]) == (*REFUSED, "")
    assert refused["refusal"].startswith("not_json: ")
    assert all(
        line["answer_score"].isdigit() and line["answer_rationale"] for line in lines if line["status"] == "accepted"
    )


@pytest.mark.parametrize(
    ("words", "count"),
    [(["--failed"], 3), (["--sample", "5"], 5), (["--sample", "100"], 20), (["--failed", "--sample", "2"], 2)],
)
def test_a_sheet_can_be_of_some_answers(project: Project, tmp_path: Path, words: list[str], count: int) -> None:
    drawn = []
    for name in ("one.csv", "other.csv"):
        result = ask(project, "export", first_run(project), *words, "--to", str(tmp_path / name))
        assert result.exit_code == 0, result.stderr
        drawn.append(lines_of(tmp_path / name))
    assert drawn[0] == drawn[1] and len(drawn[0]) == count


def test_a_share_of_the_answers_is_drawn_by_lot(project: Project, tmp_path: Path) -> None:
    ask(project, "export", first_run(project), "--sample", "0.5", "--to", str(tmp_path / "half.csv"))
    assert 0 < len(lines_of(tmp_path / "half.csv")) < 20


def test_what_was_asked_about_comes_with_it_on_request(project: Project, sheet: Path, tmp_path: Path) -> None:
    ask(project, "export", first_run(project), "--inputs", "--to", str(tmp_path / "inputs.csv"))
    assert lines_of(tmp_path / "inputs.csv")[0]["input_text"] == "text one of row 0."
    assert "input_text" not in lines_of(sheet)[0]


def test_a_sheet_that_is_there_stays(project: Project, sheet: Path) -> None:
    before = sheet.read_bytes()
    result = ask(project, "export", first_run(project), "--to", str(sheet))
    assert result.exit_code == 1 and "is there already" in result.stderr
    assert sheet.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--sample", "0"], 2, "neither a share like 0.05 nor a number"),
        (["--sample", "-3"], 2, "neither a share like 0.05 nor a number"),
        (["--sample", "1.5"], 2, "neither a share like 0.05 nor a number"),
        (["--assessment", "nope"], 1, "no run of nope"),
    ],
)
def test_a_sheet_that_can_not_be_made_is_refused(
    project: Project, tmp_path: Path, words: list[str], code: int, told: str
) -> None:
    result = ask(project, "export", "latest", *words, "--to", str(tmp_path / "none.csv"))
    assert (result.exit_code, told in result.stderr, (tmp_path / "none.csv").exists()) == (code, True, False)


# Mistakes ------------------------------------------------------------------------------------------------------------

MISTAKES: list[tuple[Line, str, str]] = [
    ({"verdict": "maybe", "reviewer": "Ada"}, "verdict", "'maybe' is none of agree, correct, reject"),
    ({"reason": "hm", "reviewer": "Ada"}, "verdict", "it is missing: agree, correct, reject"),
    ({"verdict": "agree"}, "reviewer", "nobody is named. Write who reviewed it, or give --by NAME"),
    ({"verdict": "agree", "reviewer": "A\x1b[31m"}, "reviewer", "none that can't be printed"),
    ({"verdict": "agree", "reviewer": "Ada", "corrected_score": "3"}, "corrected_score", "goes with verdict correct"),
    ({"verdict": "correct", "reviewer": "Ada"}, "verdict", "nothing is corrected"),
    ({"verdict": "correct", "reviewer": "Ada", "corrected_score": "101"}, "corrected_score", "must be at most 100"),
    ({"verdict": "correct", "reviewer": "Ada", "corrected_score": "good"}, "corrected_score", "'good' is no integer"),
    ({"verdict": "reject", "reviewer": "Ada"}, "reason", "a rejection needs a reason"),
    ({"verdict": "agree", "reviewer": "Ada", "row_key": "R1"}, "row_key", "this answer is about row 'R0', not 'R1'"),
    ({"verdict": "agree", "reviewer": "Ada", "answer_score": "101"}, "answer_score", "into corrected_score"),
    ({"verdict": "agree", "reviewer": "Ada", "answer_rationale": "mine"}, "answer_rationale", "corrected_rationale"),
    ({"verdict": "agree", "reviewer": "Ada", "token_id": "nobody"}, "state_id", "no answer with this state_id"),
    ({"verdict": "agree", "reviewer": "Ada", "question": "cs9"}, "state_id", "no answer with this state_id"),
]


def test_every_mistake_is_told_with_file_line_and_column_and_nothing_is_recorded(project: Project, sheet: Path) -> None:
    before = reviews(project)
    [*lines] = lines_of(sheet)
    good = {**lines[0], "verdict": "agree", "reviewer": "Ada"}
    path = sheet.with_name("mistakes.csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows([good, *({**lines[0], **changes} for changes, _, _ in MISTAKES)])
    result = ask(project, "import", str(path))
    assert result.exit_code == 1 and result.stdout == ""
    told = result.stderr.splitlines()
    assert told[0] == "Error: nothing was recorded:"
    for number, (_, column, what) in enumerate(MISTAKES, 3):
        assert any(line.startswith(f"{path}, line {number}, column {column}: ") and what in line for line in told), what
    assert not any(line.startswith((f"{path}, line 2,", f"{path}, line 2:")) for line in told)
    assert reviews(project) == before


@pytest.mark.parametrize(
    ("fill", "told"),
    [
        ({"verdict": "reject", "reason": "no"}, "column verdict: there is no answer to reject: it was refused"),
        ({"verdict": "correct", "corrected_score": "3"}, "column corrected_rationale: the model gave no answer"),
    ],
)
def test_a_refused_answer_is_corrected_whole_or_not(project: Project, sheet: Path, fill: Line, told: str) -> None:
    path = fill_in(sheet, lambda line: line.update(fill) if of(line, *REFUSED) else None)
    result = ask(project, "import", str(path), "--by", "Ada")
    assert result.exit_code == 1 and told in result.stderr


def test_a_correction_that_says_the_same_is_none(project: Project, sheet: Path) -> None:
    def fill(line: Line) -> None:
        if of(line, "R0", "cs1_clarity"):
            line |= {"verdict": "correct", "corrected_score": line["answer_score"]}

    result = ask(project, "import", str(fill_in(sheet, fill)), "--by", "Ada")
    assert result.exit_code == 1 and "column corrected_score: the model answered just that" in result.stderr


def test_one_reviewer_says_one_thing_of_an_answer_in_a_file(project: Project, sheet: Path) -> None:
    path = fill_in(sheet, agree_with(("R0", "cs1_clarity")))
    twice = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([*twice, twice[1]]), "utf-8")
    result = ask(project, "import", str(path))
    assert result.exit_code == 1 and "line 22: Ada reviewed this answer in line 2 already" in result.stderr


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"row_key,question\nR0,cs1_clarity\n", "line 1, column reviewer: it is missing"),
        (b"", "line 1, column row_key: it is missing"),
        (b"row_key,question,reviewer,verdict,reason,state_id,token_id\n\xff\n", "line 2: it is not UTF-8"),
        (b"row_key,question,reviewer,verdict,reason,state_id,token_id\n1,2,3,4,5,6,7,8\n", "line 2: it has 8 cells"),
        (b'row_key,question,reviewer,verdict,reason,state_id,token_id\n"a\n', "line 2: it is no CSV"),
    ],
)
def test_a_file_that_is_no_sheet_is_refused(project: Project, tmp_path: Path, data: bytes, told: str) -> None:
    (tmp_path / "other.csv").write_bytes(data)
    result = ask(project, "import", str(tmp_path / "other.csv"))
    assert result.exit_code == 1 and told in result.stderr


def test_a_file_that_is_not_there_is_said_not_to_be(project: Project, tmp_path: Path) -> None:
    result = ask(project, "import", str(tmp_path / "none.csv"))
    assert result.exit_code == 1 and "can't be read: No such file" in result.stderr


# From sheet to tables ------------------------------------------------------------------------------------------------


def test_reviews_are_recorded_once_shown_beside_the_answer_and_in_the_next_tables(
    project: Project, sheet: Path
) -> None:
    run_id = first_run(project)
    first = fill_in(sheet, fill_first)
    assert json.loads(ask(project, "import", str(first), "--by", "Ada", "--json").stdout) == {
        "recorded": 6, "known": 0, "without": 14,
    }  # fmt: skip
    again = ask(project, "import", str(first), "--by", "Ada").stdout
    assert again == "0 reviews recorded, 6 were on record already, 14 lines without a review.\n"

    later = fill_in(first, change_mind, delimiter=";")
    assert json.loads(ask(project, "import", str(later), "--by", "Ada", "--json").stdout)["recorded"] == 1
    assert json.loads(ask(project, "import", str(first), "--by", "Ada", "--json").stdout)["recorded"] == 0
    assert reviews(project) == 7

    told = explained(project, run_id, "R0", "cs1_clarity")
    verdicts = [(one["review"]["number"], one["review"]["verdict"]) for one in told["reviews"]]
    assert verdicts == [(1, "correct"), (2, "reject")]
    assert told["reviews"][0]["values"] == {"score": 7} and told["values"]["score"] != 7
    words = CliRunner().invoke(main, ["explain", run_id, "--row", "R0", "--landscape", project.landscape_url]).stdout
    assert "review 1 by Ada: correct, at " in words and "review 2 by Ada: reject, at " in words

    before = project.table("results")
    project.declare(errors={"row": "keep_partial", "retry_seconds": 10}, review=True)
    replayed = project.run(mode="replay", of_run=run_id)
    assert replayed.success
    after = project.table("results").set_index("id")
    assert after.reset_index()[list(before.columns)].equals(before)
    assert cells(after, "R0", "cs1_clarity") == {"score": None, "reviewer": "Ada", "verdict": "reject"}
    assert cells(after, "R0", "cs1_depth") == {"score": 7, "reviewer": "Ada", "verdict": "correct"}
    assert cells(after, "R1", "cs1_depth") == {"score": 9, "reviewer": "Ada", "verdict": "correct"}
    assert cells(after, FORMULA, "cs2_depth") == {
        "score": before.set_index("id").loc[FORMULA, "cs2_depth_score"], "reviewer": "Ada", "verdict": "agree",
    }  # fmt: skip
    assert cells(after, "R2", "cs2_depth") == {"score": 50, "reviewer": "Ada", "verdict": "correct"}
    assert cells(after, *NOT_ASKED) == {"score": 50, "reviewer": "Ada", "verdict": "correct"}
    assert cells(after, "R1", "cs2_depth") == {"score": None, "reviewer": None, "verdict": None}

    metadata = {name: value.value for name, value in metadata_of(replayed).items()}
    lines = json.loads(ask(project, "agreement", run_id, "--json").stdout)
    [whole] = [line for line in lines if line["question"] is None]
    assert metadata["reviewed"] == 6
    assert metadata["review_alpha_score"] == pytest.approx(whole["alpha"]) and -1 <= whole["alpha"] <= 1
    assert (whole["answers"], whole["reviewers"]) == (3, 1)
    assert json.loads(ask(project, "agreement", replayed.run_id, "--json").stdout) == lines
    [depth] = [line for line in lines if line["question"] == "cs2_clarity"]
    assert depth["alpha"] is None and depth["why"].startswith("too few")
    table = ask(project, "agreement", run_id).stdout
    assert "too few" in table and "nan" not in table.lower()
    told = explained(project, replayed.run_id, "R0", "cs1_depth")
    assert [one["review"]["verdict"] for one in told["reviews"]] == ["correct"]

    anew = project.run()
    assert anew.success
    asked_anew = project.table("results").set_index("id")
    assert cells(asked_anew, "R0", "cs1_depth") == {"score": None, "reviewer": None, "verdict": None}
    assert cells(asked_anew, *NOT_ASKED)["reviewer"] == "Ada", "of a row that says the same, where nothing was sent"
    assert metadata_of(anew)["reviewed"].value == 1


def test_what_was_erased_is_shown_as_erased_and_no_word_about_it_counts(
    project: Project, sheet: Path, tmp_path: Path
) -> None:
    first, second = (fact["run_id"] for fact in project.facts("SELECT run_id FROM runs ORDER BY started_at LIMIT 2"))
    assert erase(project, "--run", first).exit_code == 0
    [said, _] = explained(project, first, "R0", "cs1_clarity")["reviews"]
    assert (said["values"], said["erased"]["reason"], said["review"]["verdict"]) == ({}, "a request", "correct")
    words = CliRunner().invoke(main, ["explain", first, "--row", "R0", "--landscape", project.landscape_url]).stdout
    assert "correction erased on " in words
    counted = json.loads(ask(project, "agreement", first, "--json").stdout)
    assert [line["answers"] for line in counted if line["question"] is None] == [1], "of three, one corrects nothing"
    with Landscape.open(project.landscape_url) as landscape, landscape.read() as connection:
        last = latest_by_question(about_run(connection, runs.get(connection, second), "trial.ask_batches"))
        asked = questions(assessment_of(connection, second, "trial.ask_batches"))
    [depth] = [one for one in asked if one.key == "cs1_depth"]
    [of_r0] = [one for one in last.values() if (one.row_key, one.question) == ("R0", "cs1_depth")]
    assert review_cells(depth, of_r0) == {
        "cs1_depth_score_reviewed": None, "cs1_depth_rationale_reviewed": None,
        "cs1_depth_reviewer": "Ada", "cs1_depth_verdict": "correct",
    }  # fmt: skip

    assert erase(project, "--row", "R1").exit_code == 0
    after = tmp_path / "after.csv"
    assert ask(project, "export", second, "--to", str(after), "--inputs").exit_code == 0
    [line] = [line for line in lines_of(after) if of(line, "R1", "cs1_depth")]
    told = f"erased on {datetime.now(UTC):%Y-%m-%d} under a request by a clerk"
    assert (line["refusal"], line["input_text"], line["answer_score"]) == (told, told, "")
    taken = ask(project, "import", str(fill_in(sheet, agree_with(("R1", "cs1_depth")))))
    assert taken.exit_code == 1 and f"what the model answered was {told}. Empty" in taken.output


def erase(project: Project, *words: str) -> Result:
    """Erase something, as somebody asks for it."""
    asked = ["--reason", "a request", "--by", "a clerk", "--yes", "--landscape", project.landscape_url]
    return CliRunner().invoke(main, ["erase", *words, *asked])


def fill_first(line: Line) -> None:
    if of(line, "R0", "cs1_clarity") or of(line, "R0", "cs1_depth"):
        line |= {"verdict": "Correct ", "corrected_score": "7.0", "reason": "too kind"}
    elif of(line, "R1", "cs1_depth"):
        line |= {"verdict": "correct", "corrected_score": "9", "answer_rationale": ""}
    elif of(line, "'=1+1", "cs2_depth"):
        line |= {"verdict": "agree"}
    elif of(line, *REFUSED) or of(line, *NOT_ASKED):
        line |= {"verdict": "correct", "corrected_score": "50", "corrected_rationale": "'=so"}


def change_mind(line: Line) -> None:
    if of(line, "R0", "cs1_clarity"):
        line |= {"verdict": "reject", "corrected_score": "", "reason": "off the point"}


def explained(project: Project, run_id: str, row: str, question: str) -> Any:
    words = ["explain", run_id, "--row", row, "--question", question, "--json", "--landscape", project.landscape_url]
    return json.loads(CliRunner().invoke(main, words).stdout)["questions"][0]["answer"]


def cells(table: Any, row: str, question: str) -> dict[str, Any]:
    names = {"score": "score_reviewed", "reviewer": "reviewer", "verdict": "verdict"}
    found = {name: table.loc[row, f"{question}_{column}"] for name, column in names.items()}
    return {name: None if pd.isna(value) else value for name, value in found.items()}


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    [made] = [event for event in result.get_asset_materialization_events() if event.asset_key.path[-1] == "results"]
    return dict(made.materialization.metadata)
