"""Which results a record has a part in: what is in doubt when it was changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from elspeth_dagster.landscape.findings import Touched

NAMED = 20
OF_TOKEN = sa.text(
    "SELECT r.row_key FROM tokens t JOIN rows r ON r.row_id = t.row_id WHERE t.token_id = :token "
    "UNION SELECT r.row_key FROM token_parents p JOIN tokens t ON t.token_id = p.parent_token_id "
    f"JOIN rows r ON r.row_id = t.row_id WHERE p.token_id = :token ORDER BY 1 LIMIT {NAMED + 1}"
)
TOKEN_OF_STATE = sa.text("SELECT token_id FROM node_states WHERE state_id = :id")
CALL = sa.text("SELECT token_id, query_key FROM calls WHERE call_id = :id")
OF_PAYLOAD = (
    "SELECT r.row_key, NULL AS query_key FROM rows r WHERE r.run_id = :run AND :ref IN (r.values_ref, r.raw_ref)",
    "SELECT r.row_key, c.query_key FROM node_states s JOIN calls c ON c.state_id = s.state_id "
    "LEFT JOIN replies p ON p.call_id = c.call_id JOIN tokens t ON t.token_id = c.token_id "
    "JOIN rows r ON r.row_id = t.row_id WHERE s.run_id = :run AND (c.request_ref = :ref OR p.body_ref = :ref)",
    "SELECT r.row_key, a.query_key FROM node_states s JOIN answers a ON a.state_id = s.state_id "
    "JOIN tokens t ON t.token_id = a.token_id JOIN rows r ON r.row_id = t.row_id "
    "WHERE s.run_id = :run AND a.values_ref = :ref",
)
OF_A_QUESTION = {"calls", "answers"}
OF_A_TOKEN = {"tokens", "token_parents", "batches", "batch_members", "node_states", "token_outcomes"}
Touches = tuple[tuple[Touched, ...], bool]
"""The results that are named, and whether it is all of the run."""


def touched_by(  # noqa: PLR0911  (a table each)
    connection: sa.Connection, table: sa.Table, columns: Mapping[str, Any]
) -> Touches:
    """The results that a record has a part in."""
    if table.name == "rows":
        return (Touched(columns["row_key"]),), False
    if table.name == "row_rejections":
        return (Touched(f"#{columns['row_index']}"),), False
    if table.name in OF_A_QUESTION:
        return _of_token(connection, columns["token_id"], columns["query_key"])
    if table.name in OF_A_TOKEN:
        return _of_token(connection, columns["token_id"])
    if table.name == "replies":
        call = connection.execute(CALL, {"id": columns["call_id"]}).first()
        return ((), True) if call is None else _of_token(connection, *call)
    if table.name == "node_state_ends":
        return _of_token(connection, connection.scalar(TOKEN_OF_STATE, {"id": columns["state_id"]}))
    return (), True


def _of_token(connection: sa.Connection, token_id: Any, question: str | None = None) -> Touches:
    keys = list(connection.scalars(OF_TOKEN, {"token": token_id}))
    if not keys or len(keys) > NAMED:
        return (), True
    return tuple(Touched(key, question) for key in keys), False


def touched_by_payload(connection: sa.Connection, run_id: str, ref: bytes) -> Touches:
    """The results of a run that a payload has a part in."""
    found = {
        Touched(*row)
        for query in OF_PAYLOAD
        for row in connection.execute(sa.text(f"{query} LIMIT {NAMED}"), {"run": run_id, "ref": ref})
    }
    return tuple(sorted(found, key=str)), not found
