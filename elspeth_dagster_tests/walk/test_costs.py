"""What a run will cost is told before it, what it cost after it: by question and model, and what reuse saved."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import dagster as dg
from click.testing import CliRunner, Result

from elspeth_dagster.cli import main
from elspeth_dagster.landscape import runs
from elspeth_dagster.landscape.database import Database
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project, rows_of_texts

OWN = {"model_name": "gpt-4o-eu", "max_tokens": 100}
PRICE = {"input_mtok": 2.5, "output_mtok": 10}
QUESTIONS = ["cs1_clarity", "cs1_depth", "cs2_clarity", "cs2_depth"]
NANO = 10**9


def ask(project: Project, *words: str, **env: str) -> Result:
    with project.in_env(env):
        return CliRunner().invoke(main, [*words, "--landscape", project.landscape_url])


def told(project: Project, *words: str, **env: str) -> Any:
    result = ask(project, *words, "--json", **env)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def metadata_of(run: dg.ExecuteInProcessResult, output: str) -> dict[str, Any]:
    """The metadata of an asset that a run made."""
    made = [event for event in run.all_events if event.is_step_materialization]
    [one] = [
        event.step_materialization_data.materialization
        for event in made
        if event.asset_key == dg.AssetKey(["trial", output])
    ]
    return {name: value.value for name, value in one.metadata.items()}


def total(project: Project, run_id: str) -> int:
    return int(
        project.fact(
            "SELECT coalesce(sum(cost_nanousd), 0) FROM calls JOIN replies USING (call_id) WHERE run_id = :run",
            run=run_id,
        )
    )


def test_what_was_spent_and_saved_is_in_the_metadata_by_question_and_model(
    project: Project, server: FaultServer
) -> None:
    server.configure(first_tries={"status": 500, "times": 1, "contains": "one of row 1."})
    project.declare()
    project.write_rows(rows_of_texts(3))
    first = project.run()
    cost = total(project, first.run_id)
    facts = metadata_of(first, "results")
    assert (facts["cost_usd"], facts["saved_usd"]) == (cost / NANO, 0)
    again = metadata_of(project.run(reuse="lineage"), "answers")
    assert (again["cost_usd"], again["saved_usd"], again["calls"]) == (0, cost / NANO, 0)
    lines = facts["costs"].splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == QUESTIONS
    assert all("| gpt-4o-mini |" in line for line in lines[2:])
    assert again["costs"].count("| 0 | 0.000000 | 3 | 0.00") == 4


def test_a_steps_metadata_has_its_own_costs(sqlite_project: Project, server: FaultServer) -> None:
    sqlite_project.declare(rows_per_step=1, aggregate={"rows": 1})
    sqlite_project.write_rows(rows_of_texts(2))
    run = sqlite_project.run()
    outputs = [
        event.step_output_data.metadata
        for event in run.all_events
        if event.event_type is dg.DagsterEventType.STEP_OUTPUT and event.step_key.startswith("trial.ask_batches")
    ]
    costs = [facts["cost_usd"].value for facts in outputs]
    assert len(costs) == 2 and round(sum(costs) * NANO) == total(sqlite_project, run.run_id)
    assert all(facts["costs"].value.count("gpt-4o-mini | 1 |") == 4 for facts in outputs)


def test_the_command_tells_costs_by_what_is_asked(project: Project, server: FaultServer) -> None:
    server.configure(first_tries={"status": 500, "times": 1, "contains": "one of row 1."})
    project.declare(llm={"model_name": "gpt-4o-mini"})
    project.write_rows(rows_of_texts(3))
    first, second = project.run(), project.run(reuse="lineage")
    cost = total(project, first.run_id)
    by_run = told(project, "cost", "--by", "run")["lines"]
    assert {line["run_id"]: (line["calls"], line["cost_nanousd"], line["saved_nanousd"]) for line in by_run} == {
        first.run_id: (14, cost, None),
        second.run_id: (0, None, cost),
    }
    [by_model] = told(project, "cost", first.run_id, "--by", "model")["lines"]
    assert (by_model["model"], by_model["calls"], by_model["errors"]) == ("gpt-4o-mini", 14, 2)
    by_question = told(project, "cost", "--by", "question")["lines"]
    assert [(line["question"], line["reused"]) for line in by_question] == [(name, 3) for name in QUESTIONS]
    assert sum(line["saved_nanousd"] for line in by_question) == cost
    whole = told(project, "cost")["total"]
    assert (whole["cost_nanousd"], whole["saved_nanousd"], whole["reused"]) == (cost, cost, 12)
    assert ask(project, "cost", "--by", "mood").exit_code == 2
    head, *_ = ask(project, "cost", "--by", "run").stdout.splitlines()
    assert head.split()[:2] == ["assessment", "run"] and head.endswith("saved")


def test_an_estimate_without_experience_says_what_it_assumes(sqlite_project: Project, server: FaultServer) -> None:
    project = sqlite_project
    project.declare(llm={"model_name": "gpt-4o-mini", "max_tokens": 100})
    project.write_rows([*rows_of_texts(9), {"id": "R9", "cs1_text": " ", "cs2_text": "x"}])
    defs = str(project.folder / "trial" / "defs" / "trial")
    found = told(project, "estimate", defs)
    assert (found["rows"], found["calls"], found["completion_tokens"]) == (10, 36, 36 * 50)
    assert (found["prompt_tokens_are"], found["seconds"]) == ("assumed", None)
    assert 0 < found["cost_nanousd"] < found["bound_nanousd"]
    assert server.stats()["received"] == 0
    text = ask(project, "estimate", f"{defs}/defs.yaml").stdout
    assert "assumed: half of max_tokens" in text and "time unknown" in text and "at most $" in text


def test_an_estimate_learns_from_what_is_on_record(project: Project, server: FaultServer) -> None:
    server.configure(latency_ms=40)
    project.declare()
    project.write_rows(rows_of_texts(10))
    run = project.run()
    defs = str(project.folder / "trial" / "defs" / "trial")
    found = told(project, "estimate", defs)
    [reported] = project.facts("SELECT sum(prompt_tokens) AS p, sum(completion_tokens) AS c FROM replies")
    sums = {name: int(number) for name, number in reported.items()}
    assert found["prompt_tokens_are"] == found["completion_tokens_are"] == "learnt"
    assert abs(found["prompt_tokens"] - sums["p"]) <= 0.05 * sums["p"]
    assert abs(found["completion_tokens"] - sums["c"]) <= 40
    assert abs(found["cost_nanousd"] - total(project, run.run_id)) <= 0.05 * total(project, run.run_id)
    assert 40 * 0.03 / 32 < found["seconds"] < 40 * 2 / 32
    by_name = told(project, "estimate", "trial", "--source", str(project.folder / "data" / "rows.csv"))
    assert by_name == found


def test_an_estimate_uses_the_deployments_price(sqlite_project: Project) -> None:
    project = sqlite_project
    (project.folder / "prices.yaml").write_text("gpt-4o-eu: {input_mtok: 0, output_mtok: 0, requests_kcount: 1}")
    project.declare(llm=OWN)
    project.write_rows(rows_of_texts(10))
    defs = str(project.folder / "trial" / "defs" / "trial")
    assert told(project, "estimate", defs)["cost_nanousd"] is None
    priced = told(project, "estimate", defs, ELSPETH_PRICES=str(project.folder / "prices.yaml"))
    assert priced["cost_nanousd"] == 40 * NANO / 1000


def test_what_cant_be_estimated_is_said(sqlite_project: Project) -> None:
    project = sqlite_project
    project.declare(
        source={"asset": "up", "key": ["id"], "columns": {"id": "str", "cs1_text": "str", "cs2_text": "str"}}
    )
    defs = str(project.folder / "trial" / "defs" / "trial")
    result = ask(project, "estimate", defs)
    assert result.exit_code == 2 and "--source" in result.stderr
    project.declare(llm={"model_name": "{{ env.MODEL }}"})
    result = ask(project, "estimate", defs)
    assert result.exit_code == 2 and "llm.model_name: Dagster fills this in" in result.stderr
    assert ask(project, "estimate", "nowhere").exit_code == 1
    project.declare(llm={"model_name": 7})
    assert "llm.model_name" in ask(project, "estimate", defs).stderr


def test_the_plan_is_what_a_backfill_then_does(sqlite_project: Project, server: FaultServer) -> None:
    project = sqlite_project
    source = {"path": "data/{partition}.csv", "key": ["id"]} | {
        "columns": {"id": "str", "cs1_text": "str", "cs2_text": "str"}
    }
    partitions = {"static": ["north", "east", "south", "west"]}
    project.declare(source=source, partitions=partitions, aggregate={"rows": 2}, rows_per_step=4)
    project.write_rows(rows_of_texts(9), "data/north.csv")
    project.write_rows([*rows_of_texts(3), rows_of_texts(1)[0]], "data/south.csv")
    defs = str(project.folder / "trial" / "defs" / "trial")
    found = told(project, "estimate", defs, "--all", ELSPETH_REQUESTS_PER_MINUTE="10")
    told_of = {
        run["partitions"][0]: (run["rows"], run["rejections"], run["batches"], run["steps"]) for run in found["plan"]
    }
    assert told_of == {"north": (9, 0, 5, 3), "east": (0, 0, 0, 0), "south": (3, 1, 2, 1), "west": (0, 0, 0, 0)}
    assert (found["runs"], found["steps"], found["calls"], found["seconds_at_limits"]) == (4, 4, 48, 288)
    run = project.run(partition="north")
    assert sum(step.startswith("trial.ask_batches[") for step in steps_of(run)) == 3
    assert project.fact("SELECT count(*) FROM batches") == 5
    text = ask(project, "estimate", defs, "--partition", "north...south").stdout
    assert "3 runs" in text and "east" in text and "west" not in text and "1 partitions have no file yet" in text
    assert ask(project, "estimate", defs, "--partition", "west").exit_code == 2
    assert ask(project, "estimate", defs, "--partition", "north...nowhere").exit_code == 2
    assert ask(project, "estimate", defs, "--partition", "north", "--all").exit_code == 2
    project.declare(source=source, partitions=partitions, aggregate={"rows": 2}, rows_per_step=6, backfill="single_run")
    [whole] = told(project, "estimate", defs, "--partition", "north", "--partition", "south")["plan"]
    assert (whole["partitions"], whole["batches"], whole["steps"]) == (["north", "south"], 7, 2)


def steps_of(run: dg.ExecuteInProcessResult) -> list[str]:
    return [event.step_key for event in run.all_events if event.event_type is dg.DagsterEventType.STEP_SUCCESS]


def test_an_estimate_needs_no_dagster_and_no_provider(sqlite_project: Project) -> None:
    sqlite_project.declare()
    sqlite_project.write_rows(rows_of_texts(1))
    script = (
        f"import sys; from elspeth_dagster.cli import main; "
        f"main(['estimate', {str(sqlite_project.folder / 'trial' / 'defs' / 'trial')!r}], standalone_mode=False); "
        "print(*sorted({'dagster', 'openai', 'aiohttp'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "" and "calls" in done.stdout


def test_a_launch_logs_the_estimate_before_it_asks(sqlite_project: Project, server: FaultServer, capfd: Any) -> None:
    sqlite_project.declare(llm={"model_name": "gpt-4o-mini", "max_tokens": 100})
    sqlite_project.write_rows(rows_of_texts(10))
    assert sqlite_project.run().success
    log = capfd.readouterr().err
    line = log.index("about 40 calls, ")
    assert "tokens, $0." in log[line : line + 200] and line < log.index("questions settled")


def test_the_deployments_price_is_used_and_goes_on_record(sqlite_project: Project) -> None:
    project = sqlite_project
    prices = project.folder / "prices.yaml"
    prices.write_text(json.dumps({"gpt-4o-eu": PRICE, "gpt-4o-mini": PRICE}))
    project.env["ELSPETH_PRICES"] = str(prices)
    project.declare(llm=OWN, budget={"max_cost_usd": 5})
    project.write_rows(rows_of_texts(1))
    run = project.run()
    assert run.success
    [sums] = project.facts(
        "SELECT sum(prompt_tokens) AS p, sum(completion_tokens) AS c, sum(cost_nanousd) AS n FROM replies"
    )
    assert sums["n"] == 2500 * sums["p"] + 10_000 * sums["c"] > 0
    database = Database.open(project.landscape_url, create=False)
    with database.read() as connection:
        config = runs.node_config(connection, run.run_id, "trial.ask_batches")
    database.close()
    assert config["spec"]["llm"]["price"]["output_mtok"] == 10


def test_the_assessments_own_price_goes_before_the_deployments(sqlite_project: Project) -> None:
    project = sqlite_project
    prices = project.folder / "prices.yaml"
    prices.write_text("gpt-4o-eu: {input_mtok: 1000, output_mtok: 1000}")
    project.env["ELSPETH_PRICES"] = str(prices)
    project.declare(llm={**OWN, "price": {"input_mtok": 0, "output_mtok": 0, "requests_kcount": 2}})
    project.write_rows(rows_of_texts(1))
    assert project.run().success
    assert project.fact("SELECT sum(cost_nanousd) FROM replies") == 4 * 2_000_000
