"""The record says the same of the same input: same request bytes in any run, and an exact dump of a small one."""

import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from elspeth_dagster.core.canonical import keyed_sha256, sha256
from elspeth_dagster.landscape.columns import written_ref
from elspeth_dagster.landscape.compressing import COMMON
from elspeth_dagster.landscape.schema import payloads
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project, bodies, rows_of_texts, sent

GOLDEN = Path(__file__).with_name("golden.json")
DUMP = {
    "runs": "SELECT job_name, assessments, partition_keys, status FROM runs JOIN run_ends USING (run_id)",
    "nodes": "SELECT node_id, assessment, op_name, determinism FROM nodes ORDER BY node_id",
    "edges": "SELECT from_node, to_node, label FROM edges ORDER BY from_node, to_node",
    "rows": "SELECT row_index, row_key, partition_key, line, v.ref AS values_body, "
    "w.ref AS raw_body FROM rows JOIN payloads v ON v.ref = values_ref "
    "JOIN payloads w ON w.ref = raw_ref ORDER BY row_index",
    "row_rejections": "SELECT row_index, line, column_name, reason, message, ref AS raw_body "
    "FROM row_rejections JOIN payloads ON ref = raw_ref ORDER BY row_index",
    "tokens": "SELECT kind, count(*) AS n FROM tokens GROUP BY kind ORDER BY kind",
    "batch_members": "SELECT b.ordinal AS batch, b.trigger_fired, b.shard, m.ordinal, r.row_key FROM batches b "
    "JOIN batch_members m ON m.batch_id = b.batch_id JOIN tokens t ON t.token_id = m.token_id "
    "JOIN rows r ON r.row_id = t.row_id ORDER BY b.ordinal, m.ordinal",
    "token_parents": "SELECT b.ordinal AS batch, p.ordinal, r.row_key FROM token_parents p "
    "JOIN batches b ON b.token_id = p.token_id JOIN tokens t ON t.token_id = p.parent_token_id "
    "JOIN rows r ON r.row_id = t.row_id ORDER BY b.ordinal, p.ordinal",
    "node_states": "SELECT s.node_id, s.attempt, s.step_key, s.retry_number, e.status, t.kind FROM node_states s "
    "JOIN node_state_ends e ON e.state_id = s.state_id JOIN tokens t ON t.token_id = s.token_id "
    "ORDER BY s.node_id, s.step_key, s.started_at",
    "calls": "SELECT b.ordinal AS batch, c.call_index, c.query_key, c.query_attempt, c.cause, r.row_key, c.provider, "
    "c.model, p.outcome, p.error_class, p.http_status, p.finish_reason, p.prompt_tokens, p.completion_tokens, "
    "p.cost_nanousd, q.ref AS request_body, y.ref AS reply_body "
    "FROM calls c JOIN replies p ON p.call_id = c.call_id "
    "JOIN payloads q ON q.ref = c.request_ref JOIN payloads y ON y.ref = p.body_ref "
    "JOIN node_states s ON s.state_id = c.state_id JOIN batches b ON b.token_id = s.token_id "
    "JOIN tokens t ON t.token_id = c.token_id JOIN rows r ON r.row_id = t.row_id ORDER BY b.ordinal, c.call_index",
    "answers": "SELECT r.row_key, a.query_key, a.status, a.reason, a.detail, c.call_index, v.ref AS values_body "
    "FROM answers a JOIN tokens t ON t.token_id = a.token_id "
    "JOIN rows r ON r.row_id = t.row_id LEFT JOIN calls c ON c.call_id = a.call_id "
    "LEFT JOIN payloads v ON v.ref = a.values_ref ORDER BY r.row_index, a.query_key",
    "token_outcomes": "SELECT t.kind, r.row_key, o.outcome FROM token_outcomes o JOIN tokens t ON t.token_id = "
    "o.token_id LEFT JOIN rows r ON r.row_id = t.row_id ORDER BY t.kind, r.row_index",
    "artifacts": "SELECT asset_key, partition_key, row_count FROM artifacts ORDER BY asset_key",
}  # fmt: skip
MASKED = {"id", "created", "system_fingerprint"}


def test_the_same_input_has_the_same_requests_in_any_run(project: Project, server: FaultServer) -> None:
    server.configure(latency_ms=[0, 20])
    project.declare()
    project.write_rows(rows_of_texts(5))
    hashes = "SELECT request_ref FROM calls WHERE run_id = :run_id ORDER BY request_ref"
    asked = []
    for _ in range(2):
        result = project.run()
        assert result.success
        asked.append([bytes(call["request_ref"]) for call in project.facts(hashes, run_id=result.run_id)])
    assert asked[0] == asked[1]
    assert len(set(asked[0])) == 20


def test_what_is_on_record_is_what_went_over_the_wire(project: Project, server: FaultServer) -> None:
    project.declare()
    project.write_rows(rows_of_texts(3))
    assert project.run().success
    received = {request["headers"]["x-client-request-id"]: request["sha256"] for request in server.stats()["requests"]}
    assert received == sent(project)


def test_names_of_what_is_about_a_row_need_its_key(project: Project, server: FaultServer) -> None:
    project.declare()
    project.write_rows(rows_of_texts(2))
    assert project.run().success
    keys = {scope["scope_id"]: bytes(scope["naming_key"]) for scope in project.facts("SELECT * FROM scopes")}
    kept = {bytes(row["ref"]): row["scope_id"] for row in project.facts("SELECT ref, scope_id FROM payloads")}
    for ref, body in read_all(project).items():
        scope = kept[ref]
        plain = sha256(body) if scope is None else keyed_sha256(scope, keys[scope], body)
        assert written_ref(ref) == plain
    named_plainly = {written_ref(ref) for ref, scope in kept.items() if scope is None}
    config = "SELECT config_ref AS ref FROM nodes UNION SELECT config_ref FROM runs UNION SELECT head_ref FROM calls"
    assert named_plainly == {sha256(COMMON), *(written_ref(bytes(row["ref"])) for row in project.facts(config))}


def read_all(project: Project) -> dict[bytes, bytes]:
    """The bytes of every payload, by its stored name."""
    return bodies(project, sa.select(sa.type_coerce(payloads.c.ref, sa.LargeBinary), payloads.c.ref))


def test_a_small_run_leaves_exactly_this_record(project: Project, server: FaultServer) -> None:
    server.configure(rules=[{"act": "500", "times": 1, "contains": "text two of row 1."}])
    project.env["ELSPETH_MAX_CONCURRENCY"] = "1"  # later tries are numbered in the order in which they come
    project.declare(aggregate={"rows": 2}, errors={"repair": 1, "retry_seconds": 60})
    rows = [*rows_of_texts(2), {"id": "R2", "cs1_text": "", "cs2_text": "Zoë"}]
    project.write_rows([*rows, {"id": "R3", "cs1_text": "[[nan]]", "cs2_text": "plain"}])
    with (project.folder / "data" / "rows.csv").open("a") as file:
        file.write("R4,ragged\n")
    assert project.run().success
    texts = read_all(project)
    record = {table: [readable(row, texts) for row in project.facts(query)] for table, query in DUMP.items()}
    assert record == json.loads(GOLDEN.read_text())


def readable(row: dict[str, Any], texts: dict[bytes, bytes]) -> dict[str, Any]:
    """A row with its payloads as text, and without what a provider makes up anew for every reply."""
    plain = {name: value for name, value in row.items() if not name.endswith("_body")}
    for name in [name for name in row if name.endswith("_body")]:
        ref = row[name]
        plain[name.removesuffix("_body")] = None if ref is None else masked(texts[bytes(ref)].decode())
    return plain


def masked(text: str) -> Any:
    try:
        document = json.loads(text)
    except ValueError:
        return text
    if isinstance(document, dict):
        return {name: "…" if name in MASKED else value for name, value in document.items()}
    return document
