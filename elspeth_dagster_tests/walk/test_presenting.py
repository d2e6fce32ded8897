"""What a person sees of an assessment in Dagster: lineage, numbers that plot, tables, the log, and checks.

One project is run over four days, and looked at from all sides.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from elspeth_dagster.auditing import Audit
from elspeth_dagster.components.asset_checks import earlier
from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.checks_spec import CheckSpec, DriftSpec, FailureRateSpec, VerifiedSpec
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.stages import tabling
from elspeth_dagster.stages.querying import questions
from elspeth_dagster_tests.components.loaded import assessment_of
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import ATTRIBUTES, Project, rows_of_texts

HOSTILE = "<b onclick=x>|`x` ![i](http://evil.example/x.png)\n# head \u202e"
CHANGES: dict[str, Any] = {
    "source": {**ATTRIBUTES["source"], "path": "data/{partition}.csv"},
    "partitions": {"daily": "2026-01-01", "until": "2026-01-04"},
    "aggregate": {"rows": 5},
    "rows_per_step": 10,
    "checks": {"drift": {"window": 2}},
    "errors": {"retry_seconds": 10, "repair": 0},
}
DAYS = [f"2026-01-0{day}" for day in range(1, 5)]
COLUMNS = [f"{study}_{criterion}_score" for study in ("cs1", "cs2") for criterion in ("clarity", "depth")]
SAME = {"structured_output": "none", "answer": {"score": {"type": "integer"}, "rationale": {"type": "string"}}}
Runs = dict[str, dg.ExecuteInProcessResult]


class Watched:
    """A project, and what its runs told Dagster."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.runs: Runs = {}

    def metadata(self, day: str, output: str = "results") -> dict[str, Any]:
        [made] = [
            event.materialization
            for event in self.runs[day].get_asset_materialization_events()
            if event.asset_key == dg.AssetKey(["trial", output])
        ]
        return {name: value.value for name, value in made.metadata.items()}

    def checks(self, day: str) -> dict[str, dg.AssetCheckEvaluation]:
        return {one.check_name: one for one in self.runs[day].get_asset_check_evaluations()}

    def log(self, day: str) -> list[str]:
        with self.project.in_env(), dg.DagsterInstance.get() as instance:
            entries = instance.all_logs(self.runs[day].run_id)
        return [entry.user_message for entry in entries if entry.dagster_event is None]

    def assessment(self) -> Assessment:
        return Assessment.load(assessment_of(self.project))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, one_server: FaultServer) -> Watched:
    """Four days: one with a rejected record and failing rows, two as ever, one whose answers are all the same."""
    folder = tmp_path_factory.mktemp("watched") / "project"
    watched = Watched(Project(folder, f"sqlite:///{folder}/landscape.sqlite", one_server.base_url))
    project = watched.project
    project.declare(**CHANGES)
    for place, day in enumerate(DAYS):
        project.write_rows(rows_of_texts(20, start=100 * place), f"data/{day}.csv")
    rows = rows_of_texts(12)
    project.write_rows([*rows, rows[0]], f"data/{DAYS[0]}.csv")
    one_server.reset()
    one_server.configure(
        rules=[{"act": "wrong_types", "contains": f"two of row {row}."} for row in (3, 5, 7, 8)],
        first_tries={"status": 500, "times": 1, "contains": "one of row 1."},
        latency_ms=20,
    )
    watched.runs[DAYS[0]] = project.run(partition=DAYS[0])
    one_server.configure()
    for day in DAYS[1:3]:
        watched.runs[day] = project.run(partition=day)
    one_server.configure(content={"score": 41, "rationale": HOSTILE})
    project.declare(**{**CHANGES, **SAME})
    watched.runs[DAYS[3]] = project.run(partition=DAYS[3])
    project.declare(**CHANGES)
    assert [run.success for run in watched.runs.values()] == [True] * 4
    return watched


# Numbers that plot ---------------------------------------------------------------------------------------------------


def test_a_runs_numbers_are_those_of_its_table_and_its_record(watched: Watched) -> None:
    facts = watched.metadata(DAYS[0])
    counted = {name: facts[name] for name in ("rows", "rejected", "assessed", "failed", "retries", "reused", "batches")}
    assert counted == {
        **{"rows": 12, "rejected": 1, "assessed": 8, "failed": 4, "retries": 2, "reused": 0, "batches": 3}
    }
    assert facts["calls"] == 12 * 4 + 2 and facts["dagster/row_count"] == 8
    assert 20 <= facts["latency_p50_ms"] <= facts["latency_p95_ms"] < 5000
    assert all(isinstance(facts[name], float) for name in ("cost_usd", "latency_p50_ms", "score_mean"))


def test_mean_and_spread_are_told_of_each_numeric_answer(watched: Watched) -> None:
    facts, table = watched.metadata(DAYS[1]), watched.project.table("results", partition=DAYS[1])
    for column in COLUMNS:
        assert facts[f"{column}_mean"] == pytest.approx(mean(table[column]))
        assert facts[f"{column}_spread"] == pytest.approx(pstdev(table[column]))
    every = [value for column in COLUMNS for value in table[column]]
    assert (facts["score_mean"], facts["score_spread"]) == pytest.approx((mean(every), pstdev(every)))
    assert not [name for name in facts if name.startswith("cs1_clarity_rationale")]


def test_the_preview_shows_keys_and_answers_as_text_whatever_they_hold(watched: Watched) -> None:
    lines = watched.metadata(DAYS[3])["preview"].splitlines()
    assert len(lines) == 2 + 20 and all(
        line.count(" | ") == lines[0].count(" | ") for line in lines if "---" not in line
    )
    cells = lines[2].strip("| ").split(" | ")
    assert cells[:3] == ["`R300`", "41", "`<b onclick=x>¦ˋxˋ ![i](http://evil.example/x.png)⏎# head �`"]
    assert "text one of row" not in watched.metadata(DAYS[1])["preview"]


def test_the_batch_table_names_trigger_rows_and_state(watched: Watched) -> None:
    lines = watched.metadata(DAYS[0])["batch_table"].splitlines()[2:]
    told = [[cell.strip("` ") for cell in line.strip("|").split("|")] for line in lines]
    assert [line[:4] for line in told] == [
        ["0", "shard_00001", "rows", "5"],
        ["1", "shard_00001", "rows", "5"],
        ["2", "shard_00002", "end_of_slice", "2"],
    ]
    states = watched.project.facts(
        "SELECT s.state_id FROM node_states s JOIN batches b ON b.token_id = s.token_id WHERE b.run_id = :run "
        "AND s.node_id = 'trial.ask_batches' ORDER BY b.ordinal",
        run=watched.runs[DAYS[0]].run_id,
    )
    assert [line[4] for line in told] == [state["state_id"] for state in states]


# Failing rows and the log --------------------------------------------------------------------------------------------


def test_failing_rows_are_told_by_reason_with_three_keys(watched: Watched) -> None:
    told = "4 rows have an answer refused as wrong_type, for example R3, R5, R7"
    assert [line for line in watched.log(DAYS[0]) if "refused as" in line] == [told]
    [line] = watched.metadata(DAYS[0], "failures")["reasons"].splitlines()[2:]
    assert line == "| `wrong_type` | 4 | `R3, R5, R7` |"
    assert not [line for line in watched.log(DAYS[1]) if "refused as" in line]


def test_more_rows_make_no_more_events(watched: Watched) -> None:
    """Of two steps each: what is told at all, and what is told of few rows, that failed, and of more."""
    assert len(watched.runs[DAYS[1]].all_events) <= len(watched.runs[DAYS[0]].all_events)
    assert len(watched.log(DAYS[1])) < len(watched.log(DAYS[0])) < 30


def test_no_text_of_a_row_is_in_the_log(watched: Watched) -> None:
    assert not [line for day in DAYS for line in watched.log(day) if "text one" in line or "onclick" in line]


# Lineage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["results", "answers", "failures", "rejections"])
def test_the_schema_is_that_of_the_table_before_and_after_a_run(watched: Watched, output: str) -> None:
    of_table = watched.project.table(output, partition=DAYS[1]).columns.tolist()
    asset = watched.project.definitions().resolve_asset_graph().get(dg.AssetKey(["trial", output]))
    declared = asset.metadata["dagster/column_schema"]
    for schema in (watched.metadata(DAYS[1], output)["dagster/column_schema"], declared):
        assert [column.name for column in schema.columns] == of_table
    spec, asked = watched.assessment().spec, questions(watched.assessment())
    arrow = {
        "results": tabling.results_schema(spec, asked),
        "answers": tabling.answers_schema(spec, asked),
        "failures": tabling.failures_schema(spec, asked),
        "rejections": tabling.REJECTIONS,
    }[output]
    assert {column.name: column.type for column in declared.columns} == {
        field.name: {"double": "float64", "date32[day]": "date32"}.get(str(field.type), str(field.type))
        for field in arrow
    }


def test_a_column_stems_from_what_its_question_is_asked_about(watched: Watched) -> None:
    def stems(output: str, column: str) -> list[tuple[str, str]]:
        lineage = watched.metadata(DAYS[1], output)["dagster/column_lineage"]
        return [(dep.asset_key.to_user_string(), dep.column_name) for dep in lineage.deps_by_column[column]]

    assert stems("results", "cs1_clarity_score") == [("trial/source", "cs1_text")]
    assert stems("results", "cs2_depth_rationale") == [("trial/source", "cs2_text")]
    assert stems("results", "id") == [("trial/source", "id")]
    assert stems("answers", "score") == [("trial/source", "cs1_text"), ("trial/source", "cs2_text")]
    assert stems("failures", "cs2_depth_reason") == [("trial/source", "cs2_text")]


# Checks --------------------------------------------------------------------------------------------------------------


def test_each_run_is_checked_and_each_check_says_what_it_found(watched: Watched) -> None:
    good, bad = watched.checks(DAYS[2]), watched.checks(DAYS[0])
    assert sorted(good) == ["accounted", "drift", "failure_rate", "linked", "verified", "within_bounds"]
    assert [name for name, check in good.items() if not check.passed] == []
    assert {name: check.passed for name, check in bad.items() if not check.passed} == {"failure_rate": False}
    assert bad["failure_rate"].description == "4 of 12 rows are without all their answers; 5.0% may be."
    assert bad["failure_rate"].severity is dg.AssetCheckSeverity.WARN
    assert bad["drift"].description == "Not enough earlier partitions: 0 of 2 are there."
    assert good["drift"].metadata["earlier_partitions"].value == 2


def test_answers_that_drift_are_named_with_their_means(watched: Watched) -> None:
    drift = watched.checks(DAYS[3])["drift"]
    assert not drift.passed and drift.severity is dg.AssetCheckSeverity.WARN
    assert drift.description and drift.description.startswith("4 of 4 numeric columns have drifted: cs")
    assert "41 now" in drift.description and drift.metadata["drifted"].value == 4
    assert drift.metadata["compared"].value.count("\n") == 5


def test_a_check_can_be_taken_alone_and_again(watched: Watched) -> None:
    definitions = watched.project.definitions()
    key = dg.AssetCheckKey(dg.AssetKey(["trial", "results"]), "linked")
    whole = definitions.get_implicit_global_asset_job_def()
    alone = whole.get_subset(asset_selection=set(), asset_check_selection={key})
    with watched.project.in_env(), dg.DagsterInstance.get() as instance:
        run = alone.execute_in_process(instance=instance, tags={"dagster/partition": DAYS[0]})
    [only] = run.get_asset_check_evaluations()
    assert (only.check_name, only.passed, only.partition) == ("linked", True, DAYS[0])


class Forger:
    """The second day on a copy of the landscape, whose guards and keys are off."""

    def __init__(self, audit: Audit, path: Path) -> None:
        self.audit = audit
        self._path = path
        for [name] in self.does("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            self.does(f'DROP TRIGGER "{name}"')

    def does(self, statement: str) -> list[Any]:
        with sqlite3.connect(self._path) as database:
            given = {"run": self.audit.run_id} if ":run" in statement else {}
            return database.execute(statement, given).fetchall()


@pytest.fixture
def forger(watched: Watched, tmp_path: Path) -> Iterator[Forger]:
    copy = tmp_path / "landscape.sqlite"
    shutil.copy(watched.project.folder / "landscape.sqlite", copy)
    run_id, assessment = watched.runs[DAYS[1]].run_id, watched.assessment()
    with Landscape.open(f"sqlite:///{copy}") as landscape:
        yield Forger(Audit(landscape, assessment, run_id, DAYS[1], sorted), copy)


ASKING = "(SELECT state_id FROM node_states WHERE run_id = :run AND node_id = 'trial.ask_batches')"
SOME = f"(SELECT call_id FROM calls WHERE state_id IN {ASKING} LIMIT 3)"
FORGERIES = {
    "records_missing": "DELETE FROM rows WHERE run_id = :run AND row_index = 3",
    "rows_without_outcome": "DELETE FROM token_outcomes WHERE run_id = :run AND outcome = 'assessed'",
    "batches_without_outcome": "DELETE FROM token_outcomes WHERE run_id = :run AND outcome = 'completed'",
    "states_open": f"DELETE FROM node_state_ends WHERE state_id IN {ASKING}",
    "calls_without_reply": f"DELETE FROM replies WHERE call_id IN {SOME}",
    "results_missing": "UPDATE artifacts SET row_count = 1 WHERE run_id = :run AND asset_key = 'trial/results'",
    "failures_missing": "UPDATE artifacts SET row_count = 1 WHERE run_id = :run AND asset_key = 'trial/failures'",
    "calls_about_no_row_of_their_batch": f"UPDATE calls SET token_id = 'x' WHERE call_id IN {SOME}",
    "answers_about_no_row_of_their_batch": f"UPDATE answers SET token_id = 'x' WHERE call_id IN {SOME}",
    "calls_for_no_question": f"UPDATE calls SET query_key = query_key || 'x' WHERE call_id IN {SOME}",
    "answers_from_another_question": f"UPDATE answers SET query_key = query_key || 'x' WHERE call_id IN {SOME}",
}


@pytest.mark.parametrize("missing", FORGERIES)
def test_what_is_missing_or_hangs_on_the_wrong_thing_is_found_and_named(forger: Forger, missing: str) -> None:
    forger.does(FORGERIES[missing])
    findings = forger.audit.accounted(), forger.audit.linked()
    [found] = [finding for finding in findings if missing in finding.facts]
    assert not found.passed and found.facts[missing] > 0
    assert f"{found.facts[missing]} {missing.replace('_', ' ')}" in found.told


@pytest.mark.parametrize(
    ("field", "columns"),
    [
        ({"type": "integer", "maximum": 50}, ["score"]),
        ({"type": "integer", "minimum": 50}, ["score"]),
        ({"type": "number"}, ["score"]),
        ({"type": "string", "max_length": 5}, ["rationale"]),
        ({"type": "enum", "values": ["other"]}, ["rationale"]),
    ],
)
def test_an_answer_that_is_not_as_declared_is_found(
    watched: Watched, forger: Forger, field: dict[str, Any], columns: list[str]
) -> None:
    document = watched.assessment().document()
    document["spec"]["answer"][columns[0]] = field  # type: ignore[index, call-overload]
    finding = replace(forger.audit, assessment=Assessment.load(document)).within_bounds()
    assert not finding.passed and " rows have answers that their fields don't allow (R10" in finding.told
    assert finding.facts and all(columns[0] in name for name in finding.facts)
    assert forger.audit.within_bounds().passed


def test_bounds_are_held_to_every_row_group_of_a_table(watched: Watched, forger: Forger, tmp_path: Path) -> None:
    [(uri,)] = forger.does("SELECT uri FROM artifacts WHERE run_id = :run AND asset_key = 'trial/results'")
    table = pq.read_table(uri)
    changed = table.set_column(
        table.column_names.index("cs1_clarity_score"), "cs1_clarity_score", [[101, *[50] * (len(table) - 2), 101]]
    )
    pq.write_table(changed, tmp_path / "results.parquet", row_group_size=1)
    forger.does(
        f"UPDATE artifacts SET uri = '{tmp_path}/results.parquet' WHERE run_id = :run AND asset_key = 'trial/results'"
    )
    assert forger.audit.within_bounds().facts == {"cs1_clarity_score_outside": 2}
    (tmp_path / "results.parquet").write_bytes((tmp_path / "results.parquet").read_bytes()[:-100])
    assert forger.audit.within_bounds().told.endswith("is not there any more, or can't be read.")


def test_a_table_that_is_gone_is_told(watched: Watched, forger: Forger) -> None:
    forger.does("UPDATE artifacts SET uri = '/nowhere' || uri WHERE run_id = :run")
    assert forger.audit.within_bounds().told == (
        "The table results that this run wrote is not there any more, or can't be read."
    )


def test_drift_is_judged_by_window_threshold_and_distance(watched: Watched) -> None:
    run, partition = watched.runs[DAYS[3]].run_id, DAYS[3]
    with Landscape.open(watched.project.landscape_url) as landscape:
        audit = Audit(
            landscape, watched.assessment(), run, partition, lambda known: [d for d in DAYS[:3] if d in known]
        )
        passes = {
            "window": audit.drift(DriftSpec(window=3)).passed,
            "longer": audit.drift(DriftSpec(window=4)).told,
            "threshold": audit.drift(DriftSpec(window=3, threshold=1e-300)).passed,
            "distance": audit.drift(DriftSpec(window=3, distance=0.99)).passed,
        }
        rate = audit.failure_rate(FailureRateSpec(max=0))
    assert passes == {
        "window": False,
        "longer": "Not enough earlier partitions: 3 of 4 are there.",
        "threshold": True,
        "distance": True,
    }
    assert rate.passed and rate.facts["failure_rate"] == 0


DOWNSTREAM = """
import dagster as dg

@dg.asset(deps=[["trial", "results"]])
def report() -> None: ...

job = dg.define_asset_job("whole_job", selection=dg.AssetSelection.groups("trial", "default").materializable())
"""


def test_severity_is_as_declared_and_a_blocking_check_stops_what_follows(
    sqlite_project: Project, server: FaultServer
) -> None:
    project, warns = sqlite_project, {"severity": "warn", "blocking": False}
    blocks = {"severity": "error", "blocking": True}
    checks = dict.fromkeys(("accounted", "linked", "within_bounds", "verified"), warns)
    declared = {**checks, "drift": {"severity": "error"}, "failure_rate": {**blocks, "max": 0.4}}
    server.configure(rules=[{"act": "wrong_types", "contains": "two of row 1."}])
    project.declare(checks=declared, preview_rows=0)
    (project.folder / "trial" / "defs" / "report.py").write_text(DOWNSTREAM)
    project.write_rows(rows_of_texts(2))
    run = project.run("whole_job")
    assert not run.success
    made = {event.asset_key.path[-1] for event in run.get_asset_materialization_events() if event.asset_key}
    assert "results" in made and "report" not in made
    told = {one.check_name: (one.severity.value, one.passed) for one in run.get_asset_check_evaluations()}
    assert told.pop("failure_rate") == ("ERROR", False) and told.pop("drift") == ("ERROR", True)
    assert set(told.values()) == {("WARN", True)}
    [results] = [event for event in run.get_asset_materialization_events() if event.asset_key.path[-1] == "results"]  # type: ignore[union-attr]
    assert "preview" not in results.materialization.metadata


@pytest.mark.parametrize(
    ("partitions", "here", "before"),
    [
        (dg.DailyPartitionsDefinition("2026-01-01"), "2026-01-03", ["2026-01-01", "2026-01-02"]),
        (dg.StaticPartitionsDefinition(["c", "a", "b"]), "b", ["c"]),
        (
            dg.MultiPartitionsDefinition(
                {"day": dg.DailyPartitionsDefinition("2026-01-01"), "region": dg.StaticPartitionsDefinition(["n", "s"])}
            ),
            "2026-01-03|s",
            ["2026-01-01|s", "2026-01-02|s"],
        ),
    ],
)
def test_which_partitions_came_before(partitions: Any, here: str, before: list[str]) -> None:
    """Days by day whenever they were made, of the same region; regions by when they were made."""
    made = {
        "2026-01-03": ["2026-01-02", "2026-01-04", "2026-01-03", "2026-01-01"],
        "b": ["c", "b", "a"],
        "2026-01-03|s": ["2026-01-02|s", "2026-01-02|n", "2026-01-01|s", "2026-01-03|s"],
    }
    assert earlier(made[here], here, partitions) == before


def test_a_warning_can_not_block() -> None:
    for blocks_nothing in (CheckSpec, FailureRateSpec, DriftSpec, VerifiedSpec):
        with pytest.raises(ValueError, match="a warning blocks nothing"):
            blocks_nothing(severity="warn", blocking=True)


def test_all_of_it_is_told_with_either_database(project: Project, server: FaultServer) -> None:
    """The queries of the checks, the batches and the latencies, on SQLite and on PostgreSQL."""
    server.configure(rules=[{"act": "wrong_types", "contains": "two of row 1."}])
    project.declare(
        aggregate={"rows": 2}, errors={"row": "keep_partial", "retry_seconds": 10}, checks={}, preview_rows=1
    )
    project.write_rows(rows_of_texts(3))
    run = project.run(reuse="none")
    assert {one.check_name: one.passed for one in run.get_asset_check_evaluations()} == {
        **{"accounted": True, "linked": True, "within_bounds": True, "drift": True, "failure_rate": False},
        "verified": True,
    }
    made = {event.asset_key.path[-1]: event.materialization for event in run.get_asset_materialization_events()}  # type: ignore[union-attr]
    facts = {name: value.value for name, value in made["results"].metadata.items()}
    assert (facts["batches"], facts["partial"]) == (2, 1) and facts["latency_p95_ms"] > 0
    assert len(str(facts["preview"]).splitlines()) == 3
    assert "| `wrong_type` | 1 | `R1` |" in str(made["failures"].metadata["reasons"].value)
    again = project.run(reuse="landscape")
    assert {one.check_name for one in again.get_asset_check_evaluations() if not one.passed} == {"failure_rate"}
