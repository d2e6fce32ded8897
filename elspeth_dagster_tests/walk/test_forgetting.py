"""What is erased is nowhere in the landscape: no message, detail or error that outlives a row quotes it."""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import psycopg
import sqlalchemy as sa
from click.testing import CliRunner

from elspeth_dagster.cli import main
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.roles import statements
from elspeth_dagster.landscape.schema import metadata
from elspeth_dagster_tests.conftest import PostgresServer
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.landscape.told import files_of, unpacked
from elspeth_dagster_tests.project import ATTRIBUTES, TEMPLATES, Project
from elspeth_dagster_tests.walk.test_reuse import said

CANARY = "Zilpzalp"
ROWS = [
    {"id": f"R{n}", "age": "7", "cs1_text": f"{CANARY} one of row {n}.", "cs2_text": f"{CANARY} two of row {n}."}
    for n in range(8)
]
REJECTED = [
    {"id": "R8", "age": f"{CANARY}", "cs1_text": "x", "cs2_text": "y"},
    {"id": "", "age": "7", "cs1_text": CANARY, "cs2_text": "y"},
    {"id": "R0", "age": "7", "cs1_text": CANARY, "cs2_text": "y"},
]
ACTS = [
    {"status": 400, "message": f"I can't judge {CANARY}", "contains": "one of row 1."},
    {"status": 503, "message": f"I am tired of {CANARY}", "contains": "one of row 2.", "times": 1},
    {"act": "wrong_types", "contains": "one of row 3."},
    {"act": "not_json", "contains": "one of row 4."},
    {"act": "tool_calls", "contains": "one of row 5."},
    {"act": "cut", "contains": "one of row 6."},
]
LOOKS_UP = "{% if '7.' in row.text %}{{ lookup[row.text] }}{% endif %}"


def prepare(project: Project, server: FaultServer) -> None:
    """A project in which whatever can quote a row's text does: provider, template, reader."""
    server.configure(record=True, rules=ACTS, content={"score": 1, "rationale": f"because of {CANARY}"},
                     reports={"system_fingerprint": f"about {CANARY} and more"})  # fmt: skip
    columns = {**ATTRIBUTES["source"]["columns"], "age": "int"}
    templates = {**TEMPLATES, "ask.j2": TEMPLATES["ask.j2"] + LOOKS_UP, "lookup.yaml": "nothing: here\n"}
    project.declare(
        templates=templates,
        source={**ATTRIBUTES["source"], "columns": columns},
        prompt={**ATTRIBUTES["prompt"], "lookup": "lookup.yaml"},
        errors={"retry_seconds": 1, "repair": 1, "row": "keep_partial"},
    )
    project.write_rows([*ROWS, *REJECTED])


def found_in_records(project: Project) -> dict[str, int]:
    """How many records of each table have the canary in a column; of payloads, which may, it is counted apart."""
    with closing(Landscape.open(project.landscape_url)) as landscape, landscape.read() as connection:
        rows: dict[str, Sequence[sa.Row[object]]] = {
            table.name: connection.execute(table.select()).all()
            for table in metadata.sorted_tables
            if table.name != "payloads"
        }
    counted = {name: sum(CANARY in str(row) for row in found) for name, found in rows.items()}
    return {name: number for name, number in counted.items() if number}


def found_in_payloads(project: Project) -> int:
    with closing(Landscape.open(project.landscape_url)) as landscape, landscape.read() as connection:
        return sum(CANARY.encode() in data for data in unpacked(connection).values())


def command(project: Project, *words: str) -> str:
    printed = CliRunner().invoke(main, [*words, "--landscape", project.landscape_url])
    assert printed.exit_code == 0, printed.output
    return printed.output


def test_what_is_erased_is_quoted_nowhere(project: Project, server: FaultServer) -> None:
    prepare(project, server)
    run = project.run()
    assert run.success
    reasons = {row["reason"] for row in project.facts("SELECT reason FROM answers WHERE reason IS NOT NULL")}
    assert reasons >= {"bad_request", "wrong_type", "not_json", "not_stopped", "connection", "template"}
    assert project.fact("SELECT count(*) FROM row_rejections") == len(REJECTED)
    assert found_in_records(project) == {}
    assert found_in_payloads(project) > 50
    why = ("--reason", "request 42", "--by", "A. Clerk")
    planned = command(project, "erase", "--run", run.run_id, *why)
    assert "8 rows and 3 rejected records, in 1 runs" in planned and "trial/results" in planned
    assert found_in_payloads(project) > 50
    assert "payloads are empty" in command(project, "erase", "--run", run.run_id, *why, "--yes")
    assert (found_in_records(project), found_in_payloads(project)) == ({}, 0)
    assert is_gone_from_files(project)
    told = command(project, "explain", "latest", "--row", "R3")
    assert told.count("under request 42 by A. Clerk") > 10 and CANARY not in told
    replayed = project.run(mode="replay")
    assert "can't be replayed" in said(replayed) and "under request 42 by A. Clerk" in said(replayed)
    assert project.facts("SELECT reason FROM answers WHERE run_id = :run AND reason = 'erased'", run=replayed.run_id)


def is_gone_from_files(project: Project, patience: float = 20) -> bool:
    """Whether the text is in no file of the database, once its server has removed those that were replaced."""
    until = time.monotonic() + patience
    while any(CANARY.encode() in read_if_there(path) for path in files_of(project.landscape_url)):
        if time.monotonic() > until:
            return False
        time.sleep(0.5)
    return True


def read_if_there(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def test_a_whole_run_needs_no_more_than_the_writers_role(
    tmp_path: Path, postgres: PostgresServer, postgres_template: str, server: FaultServer
) -> None:
    name = postgres.create(postgres_template)
    with psycopg.connect(postgres.url(name), autocommit=True) as admin:
        for statement in statements("public", "walk"):
            admin.execute(statement.encode())
        admin.execute("CREATE ROLE walker LOGIN IN ROLE walk_writer")
    url = sa.make_url(postgres.url(name)).set(username="walker", password=None)
    project = Project(tmp_path / "project", url.render_as_string(hide_password=False), server.base_url)
    project.declare(budget={"max_calls": 100})
    project.write_rows([{"id": "R1", "cs1_text": "one", "cs2_text": "two"}])
    assert project.run().success
    assert project.fact("SELECT status FROM run_ends") == "completed"
    postgres.drop(name)
    for role in ("walker", "walk_owner", "walk_writer", "walk_reader"):
        postgres.run(f"DROP ROLE {role}")
