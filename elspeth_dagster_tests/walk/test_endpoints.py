"""Several endpoints of one model through a whole run: each call's record names its endpoint, and nothing is lost."""

from __future__ import annotations

import json
import math
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from elspeth_dagster import elspeth_verify
from elspeth_dagster.cli import main
from elspeth_dagster_tests.explorer.conftest import served
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project, rows_of_texts, sent
from elspeth_dagster_tests.walk.test_budgets import failure_of

NOWHERE = "http://127.0.0.1:1/v1"
KEYS = {f"KEY_{name}": f"sk-canary-of-{name}-5d0c61f3" for name in ("A", "B", "C")}
PRICE = {"input_mtok": 1000, "output_mtok": 2000}


@pytest.fixture(scope="module")
def three_servers(one_server: FaultServer) -> Iterator[list[FaultServer]]:
    with FaultServer() as two, FaultServer() as three:
        yield [one_server, two, three]


@pytest.fixture
def servers(three_servers: list[FaultServer]) -> list[FaultServer]:
    for server, key in zip(three_servers, KEYS.values(), strict=True):
        server.configure(record=True, expected_key=key)
        server.reset()
    return three_servers


def endpoint(name: str, address: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "base_url": address, "api_key": {"env": f"KEY_{name.upper()}"}, **more}


def deploy(project: Project, *endpoints: dict[str, Any]) -> None:
    """Name the pool in a file, as a deployment does."""
    file = project.folder / "endpoints.yaml"
    file.write_text(yaml.safe_dump(list(endpoints)))
    project.env |= {**KEYS, "ELSPETH_ENDPOINTS": str(file)}


def told(project: Project, *words: str) -> Any:
    with project.in_env():
        result = CliRunner().invoke(main, [*words, "--json", "--landscape", project.landscape_url])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def printed(project: Project, *words: str) -> str:
    with project.in_env():
        result = CliRunner().invoke(main, [*words, "--landscape", project.landscape_url])
    assert result.exit_code == 0, result.output
    return result.output


def received(servers: Sequence[FaultServer]) -> list[int]:
    return [int(server.stats()["received"]) for server in servers]


def test_rows_go_by_weight_and_every_view_of_the_record_names_the_endpoint(
    project: Project, servers: list[FaultServer]
) -> None:
    addresses = [server.base_url for server in servers]
    key = str(project.folder / "key")
    verifier = CliRunner().invoke(main, ["keys", "generate", "--name", "ours", "--to", key]).output.strip()
    project.env["ELSPETH_SIGNING_KEY"] = key
    deploy(
        project,
        endpoint("a", addresses[0], price=PRICE),
        endpoint("b", addresses[1], weight=2),
        endpoint("c", addresses[2]),
    )
    project.declare(llm={"model_name": "gpt-4o-mini", "max_tokens": 100}, budget={"max_cost_usd": 500})
    project.write_rows(rows_of_texts(60))
    run = project.run()
    assert run.success
    listed = told(project, "calls", run.run_id)
    by_row: dict[str, set[str]] = {}
    for call in listed:
        by_row.setdefault(call["row_key"], set()).add(call["endpoint"])
    assert all(len(names) == 1 for names in by_row.values())
    rows = Counter(name for names in by_row.values() for name in names)
    for name, part in (("a", 0.25), ("b", 0.5), ("c", 0.25)):
        assert abs(rows[name] - 60 * part) < 4 * math.sqrt(60 * part * (1 - part))
    assert [4 * rows[name] for name in "abc"] == received(servers)

    lines = {line["endpoint"]: line for line in told(project, "cost", run.run_id, "--by", "endpoint")["lines"]}
    assert {name: line["calls"] for name, line in lines.items()} == {name: 4 * number for name, number in rows.items()}
    dear, cheap = lines["a"], lines["b"]
    assert dear["cost_nanousd"] == dear["prompt_tokens"] * 1_000_000 + dear["completion_tokens"] * 2_000_000
    assert cheap["cost_nanousd"] * 1000 < dear["cost_nanousd"] * 2

    shown = printed(project, "explain", run.run_id, "--row", "R0")
    [its] = by_row["R0"]
    assert f"endpoint {its}" in shown and ("price of its own" in shown) == (its == "a")
    with served(project.landscape_url) as explorer:
        cell = urllib.request.urlopen(f"{explorer}/runs/{run.run_id}/trial/rows/0/cs1_clarity").read().decode()
    assert f"<dt>Endpoint</dt><dd>{its}</dd>" in cell
    assert "Sound: 1 runs" in printed(project, "verify", run.run_id)
    export = str(project.folder / "export.zip")
    printed(project, "export", run.run_id, "--to", export)
    assert elspeth_verify.main([export, "--key", verifier]) == 0
    recorded = json.dumps(project.facts("SELECT detail FROM node_state_ends")) + repr(sent(project))
    assert not any(key in recorded for key in KEYS.values())

    # What it would take again: by the limits of all together, and by the prices as they weigh.
    limited = [endpoint(name, NOWHERE, requests_per_minute=10, max_concurrency=2) for name in "abc"]
    deploy(project, {**limited[0], "price": PRICE}, *limited[1:])
    estimated = told(project, "estimate", str(project.folder / "trial" / "defs" / "trial"))
    assert (estimated["in_flight"], estimated["seconds"]) == (6, 60 * 240 / 30)
    listed_price = cheap["cost_nanousd"] / cheap["calls"]
    third_of_dear = dear["cost_nanousd"] / dear["calls"] / 3
    assert abs(estimated["cost_nanousd"] / 240 / (third_of_dear + listed_price * 2 / 3) - 1) < 0.05

    # Another endpoint's replies are as good: what is asked names none.
    for server in servers:
        server.reset()
    project.declare(llm={"model_name": "gpt-4o-mini", "max_tokens": 100, "endpoints": [endpoint("b", addresses[1])]})
    assert project.run(reuse="landscape").success
    assert received(servers) == [0, 0, 0]
    saved = {line["endpoint"]: line["reused"] for line in told(project, "cost", "latest", "--by", "endpoint")["lines"]}
    assert saved == {name: 4 * number for name, number in rows.items()}


def test_all_dead_is_told_after_a_handful_of_requests_and_one_that_lives_is_enough(
    sqlite_project: Project, servers: list[FaultServer]
) -> None:
    project, (first, _, third) = sqlite_project, servers
    first.configure(record=True, expected_key="another")
    third.configure(record=True, shares={"500": 1})
    deploy(project, endpoint("a", first.base_url), endpoint("b", NOWHERE), endpoint("c", third.base_url))
    project.declare(errors={"retry_seconds": 2})
    project.write_rows(rows_of_texts(60))
    failed = project.run()
    assert not failed.success
    why = failure_of(failed)
    assert "None of the 3 endpoints of openai can be used: a (authentication: HTTP 401" in why and "; b (" in why
    assert "; c (server: HTTP 500" in why and not any(key in why for key in KEYS.values())
    assert received([first])[0] <= 4 and received([third])[0] <= 30
    assert project.fact("SELECT count(*) FROM calls") <= 50

    first.configure(record=True, shares={"429": 1}, retry_after="60")
    third.configure(record=True, latency_ms=20)
    for server in servers:
        server.reset()
    began = time.monotonic()
    again = project.run_again(failed.run_id)
    assert time.monotonic() - began < 50  # nobody waits the minute that one of them asks for
    assert again.success and len(project.table("results")) == 60
    assert received([first])[0] <= 20
    assert third.stats()["paid"] == 240 and third.stats()["paid_extra"] == 0
    assert {call["endpoint"] for call in told(project, "calls", again.run_id)} == {"a", "b", "c"}
