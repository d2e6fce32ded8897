"""The columns that the four assets have of their own, and the kinds of all: by name, without Arrow, slow to import.

Definitions are checked by these far more often than tables are written.
"""

from __future__ import annotations

SOURCE_KINDS = {
    "str": "string",
    "int": "int64",
    "float": "float64",
    "bool": "bool",
    "date": "date32",
    "datetime": "timestamp[us, tz=UTC]",
}
ANSWER_KINDS = {
    "integer": "int64",
    "number": "float64",
    "string": "string",
    "boolean": "bool",
    "enum": "string",
}
TAKEN = {
    "status": "string",
    "reason": "string",
    "detail": "string",
    "reused": "bool",
    "attempts": "int64",
    "prompt_tokens": "int64",
    "completion_tokens": "int64",
    "cost_usd": "float64",
    "latency_ms": "float64",
    "model": "string",
    "run_id": "string",
    "state_id": "string",
    "call_id": "string",
}
