"""What an explanation is: the chain of one row as one value, from its source record to its outcome.

    run ─ row ─ batch ─ states ─ questions: calls, replies, answers ─ outcome ─ artifacts
       └─ or the rejections that kept a record from becoming a row

The parts hold the record's own rows (`records`), with the payloads that these refer to beside them. Of a payload that
was erased there is the erasure instead of its bytes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.landscape.origins import SourceFile
from elspeth_dagster.landscape.records import (
    Answer,
    Artifact,
    Batch,
    Call,
    Erasure,
    Node,
    NodeState,
    NodeStateEnd,
    Reply,
    Row,
    RowRejection,
    Run,
    RunEnd,
    TokenOutcome,
)
from elspeth_dagster.landscape.reviews import ReviewGiven

JSON_TEXTS: dict[type, set[str]] = {
    Run: {"assessments", "partition_keys"},
    NodeStateEnd: {"detail"},
    Reply: {"headers"},
    Erasure: {"what"},
}


@dataclass(frozen=True)
class Content:
    """The bytes of a payload, under the name of their hash; none where they were `erased`."""

    ref: str
    data: bytes
    erased: Erasure | None = None

    @property
    def text(self) -> str:
        """The bytes as text; what is not UTF-8 is written as \\xNN."""
        return self.data.decode("utf-8", "backslashreplace")

    @property
    def json(self) -> Json:
        """The JSON value that the bytes are; None when they are none."""
        try:
            value = json.loads(self.data.decode())
            json.dumps(value, allow_nan=False)
        except (ValueError, RecursionError):
            return None
        return value

    @property
    def completion(self) -> str | None:
        """The text that the model replied; None where the bytes are no chat completion with text."""
        body: Any = self.json
        try:
            content = body["choices"][0]["message"]["content"]
        except (LookupError, TypeError):
            return None
        return content if isinstance(content, str) else None

    def document(self) -> dict[str, Json]:
        """Hash and size, the exact text (of what is not UTF-8 the base64), and the JSON value where there is one.

        Of what was erased: the hash, and the erasure.
        """
        if self.erased is not None:
            return {"hash": self.ref, "erased": document(self.erased)}
        shown: dict[str, Json] = {"hash": self.ref, "size": len(self.data)}
        try:
            shown["text"] = self.data.decode()
        except UnicodeDecodeError:
            shown["base64"] = base64.b64encode(self.data).decode()
        return shown if self.json is None else {**shown, "json": self.json}


@dataclass(frozen=True)
class SourceRow:
    """A record that became a row: as it came (where the source has a text form) and as it was understood.

    `file` is the one that it was read from; None where it came from an upstream asset. There are no values where they
    were `erased`.
    """

    row: Row
    token_id: str
    raw: Content | None
    values: dict[str, Json]
    file: SourceFile | None = None
    erased: Erasure | None = None


@dataclass(frozen=True)
class RejectedRecord:
    """A record that could not become a row."""

    rejection: RowRejection
    raw: Content


@dataclass(frozen=True)
class BatchPlace:
    """A batch, and the row's place in it."""

    batch: Batch
    ordinal: int
    size: int


@dataclass(frozen=True)
class Attempt:
    """A node state; no end while it is open."""

    state: NodeState
    end: NodeStateEnd | None


@dataclass(frozen=True)
class CallMade:
    """A call with its head and request, and the reply with its body, if there is one.

    `attempt` is the attempt at the batch that made it; None for a call of another run. `is_reused`: an answer of
    another attempt, or of this run, was taken from its reply, without asking again.
    """

    call: Call
    attempt: int | None
    is_reused: bool
    head: Json
    request: Content
    reply: Reply | None
    body: Content | None


@dataclass(frozen=True)
class Origin:
    """Where a reply was taken from: whose call it was, about which row. No attempt: it is of another run."""

    call_id: str
    run_id: str
    state_id: str
    attempt: int | None
    row_key: str
    sent_at: datetime


@dataclass(frozen=True)
class AnswerGiven:
    """An answer; `values` is None when it is refused, or its values were `erased`.

    `taken_from` tells the call of an earlier attempt or of another run that it was taken from without asking again;
    None where its own attempt made the call, or there was none. `reviews` are what people said of it, and of the answer
    to the same that its call was made for, in the order in which it was said.
    """

    answer: Answer
    attempt: int
    values: dict[str, Json] | None
    taken_from: Origin | None
    reviews: tuple[ReviewGiven, ...] = ()
    erased: Erasure | None = None


@dataclass(frozen=True)
class QuestionAsked:
    """A question, its calls in the order of attempts and tries, and its answers: that of the last attempt counts."""

    key: str
    calls: tuple[CallMade, ...]
    answer: AnswerGiven | None
    earlier_answers: tuple[AnswerGiven, ...]


@dataclass(frozen=True)
class Fate:
    """The row's outcome and the state that decided it; None when the run was ended from outside."""

    outcome: TokenOutcome
    decided_by: NodeState | None


@dataclass(frozen=True)
class Explanation:
    """The chain of one row; or, without `row`, the rejected records that were asked for.

    `node` is the op that admitted the record: it tells the assessment and its version. `artifacts` are the tables
    that carry the row, of every attempt at writing them.
    """

    run: Run
    end: RunEnd | None
    node: Node
    row: SourceRow | None
    rejections: tuple[RejectedRecord, ...] = ()
    batches: tuple[BatchPlace, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    questions: tuple[QuestionAsked, ...] = ()
    outcome: Fate | None = None
    artifacts: tuple[Artifact, ...] = ()

    def document(self) -> dict[str, Json]:
        """All of it as one JSON value."""
        shown: dict[str, Json] = document(self)
        return shown


def document(value: Any) -> Json:
    """A part of an explanation, or a record, as a JSON value: columns by name, instants in ISO 8601."""
    if isinstance(value, Content):
        return value.document()
    if is_dataclass(value):
        return {each.name: document(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple):
        return _record_document(value) if hasattr(value, "_fields") else [document(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return value.value if isinstance(value, StrEnum) else value


def _record_document(record: Any) -> dict[str, Json]:
    texts = JSON_TEXTS.get(type(record), set())
    columns = record._asdict().items()
    return {name: json.loads(value) if name in texts and value else document(value) for name, value in columns}


def content(bodies: Mapping[str, bytes | Erasure], ref: str | None) -> Content | None:
    return None if ref is None else present(bodies, ref)


def present(bodies: Mapping[str, bytes | Erasure], ref: str) -> Content:
    found = bodies[ref]
    return Content(ref, found) if isinstance(found, bytes) else Content(ref, b"", found)


def values_of(bodies: Mapping[str, bytes | Erasure], ref: str | None) -> tuple[dict[str, Json], Erasure | None]:
    found = bodies[ref] if ref else b"{}"
    return (json.loads(found), None) if isinstance(found, bytes) else ({}, found)
