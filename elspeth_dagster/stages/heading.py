"""The columns that the four assets have of their own, what they mean, and the kinds of all: by name, without Arrow.

Definitions are checked by these far more often than tables are written, and Arrow is slow to import.
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
    "status": ("string", "accepted or refused."),
    "reason": ("string", "Why it was refused, in a word."),
    "detail": ("string", "The same as a sentence."),
    "reused": ("bool", "Whether the reply was on record already."),
    "attempts": ("int64", "How many calls were made for it."),
    "prompt_tokens": ("int64", "Of all these calls; null where none reported it."),
    "completion_tokens": ("int64", "Of all these calls; null where none reported it."),
    "cost_usd": ("float64", "Of all these calls, by list price."),
    "latency_ms": ("float64", "Of all these calls, in milliseconds."),
    "model": ("string", "The model that the replies name."),
    "run_id": ("string", "The run."),
    "state_id": ("string", "The node state that settled it."),
    "call_id": ("string", "The call that the answer comes from."),
}
REJECTIONS = {
    "row_index": ("int64", "The record's place in the source, from 0."),
    "line": ("int64", "Its first line in the file."),
    "column": ("string", "The column at fault; null where no single one is."),
    "reason": ("string", "Why it can't be a row, in a word."),
    "message": ("string", "The same as a sentence."),
    "raw": ("string", "The record as it came."),
}
