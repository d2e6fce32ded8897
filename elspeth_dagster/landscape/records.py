"""One immutable record per table: its fields are the table's columns, in the same order.

`TABLES` maps a record's type to its table; a test holds both sides equal.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from elspeth_dagster.core.canonical import keyed_sha256, sha256
from elspeth_dagster.landscape import schema
from elspeth_dagster.landscape.compressing import compressed, decompressed
from elspeth_dagster.landscape.words import (
    AnswerStatus,
    Cause,
    Determinism,
    Encoding,
    Mode,
    Outcome,
    ReplyOutcome,
    RunStatus,
    ScopeKind,
    StateStatus,
    TokenKind,
    Trigger,
    Verdict,
)

WORTH_COMPRESSING = 256  # bytes; of less, a quarter is saved at as much work as of more


class Scope(NamedTuple):
    """What is erased together, under the key that names its payloads.

    `subject` is the key of a row, in whatever run of the assessment; or a run, for its records that became no row.
    """

    scope_id: int
    assessment: str
    kind: ScopeKind
    subject: str
    ordinal: int
    naming_key: bytes

    def name(self, data: bytes) -> str:
        """The name of some bytes in this scope."""
        return keyed_sha256(self.scope_id, self.naming_key, data)


class Dictionary(NamedTuple):
    """Bytes on record that others of their scope are compressed against."""

    ref: str
    data: bytes


class LeaningBytes(bytes):
    """Bytes with a dictionary that is on record, which they repeat much of."""

    dictionary: Dictionary

    @classmethod
    def on(cls, dictionary: Dictionary, data: bytes) -> LeaningBytes:
        """The bytes, leaning on a dictionary."""
        leaning = cls(data)
        leaning.dictionary = dictionary
        return leaning


NOTHING = Dictionary("", b"")


class Payload(NamedTuple):
    """Bytes under a name that follows from them; `size` counts them before compression.

    One that is made holds the bytes as they are, with the dictionary that they lean on; the writer packs it. One that
    was read is as it was stored.
    """

    ref: str
    size: int
    encoding: Encoding
    body: bytes
    scope_id: int | None = None
    dictionary_ref: str | None = None

    @classmethod
    def of(cls, data: bytes, scope: Scope | None = None) -> Payload:
        """The payload of some bytes: of a scope, where they may be about somebody."""
        if scope is None:
            return cls(sha256(data), len(data), Encoding.IDENTITY, data)
        return cls(scope.name(data), len(data), Encoding.IDENTITY, data, scope.scope_id)

    def leaning_on(self, dictionary: Dictionary | None) -> Payload:
        """The same, to be compressed against a dictionary where that makes it smaller."""
        if dictionary is None or dictionary.ref == self.ref:
            return self
        return Payload(self.ref, self.size, self.encoding, LeaningBytes.on(dictionary, self.body), self.scope_id)

    def packed(self) -> Payload:
        """The payload as it is stored: compressed where that makes it smaller."""
        if self.encoding is not Encoding.IDENTITY:
            return self
        leant_on = self.body.dictionary if isinstance(self.body, LeaningBytes) else NOTHING
        packed = compressed(self.body, leant_on.data) if self.size >= WORTH_COMPRESSING else self.body
        if len(packed) < self.size:
            return Payload(self.ref, self.size, Encoding.ZLIB, packed, self.scope_id, leant_on.ref or None)
        return self if leant_on is NOTHING else self._replace(body=bytes(self.body))

    @property
    def is_erased(self) -> bool:
        """Whether the bytes are gone and only their hash and size are left."""
        return self.size > 0 and not self.body

    def data(self, dictionary: bytes = b"") -> bytes:
        """The bytes themselves, given those that it leans on.

        Raises ValueError when the body doesn't hold them, whole and nothing else.
        """
        return self.body if self.encoding is Encoding.IDENTITY else decompressed(self.body, self.size, dictionary)


class Run(NamedTuple):
    run_id: str
    parent_run_id: str | None
    root_run_id: str
    job_name: str
    assessments: str
    partition_keys: str
    config_ref: str
    package_version: str
    code_version: str
    dagster_version: str
    python_version: str
    host: str
    started_at: datetime
    mode: Mode = Mode.ASK


class RunEnd(NamedTuple):
    run_id: str
    status: RunStatus
    detail: str | None
    ended_at: datetime


class Node(NamedTuple):
    run_id: str
    node_id: str
    assessment: str
    op_name: str
    version: str
    determinism: Determinism
    config_ref: str


class Edge(NamedTuple):
    run_id: str
    from_node: str
    to_node: str
    label: str


class Row(NamedTuple):
    row_id: str
    run_id: str
    node_id: str
    row_index: int
    row_key: str
    partition_key: str | None
    line: int | None
    values_ref: str
    raw_ref: str | None
    scope_id: int | None = None


class RowRejection(NamedTuple):
    run_id: str
    node_id: str
    row_index: int
    partition_key: str | None
    line: int | None
    column_name: str | None
    reason: str
    message: str
    raw_ref: str


class Token(NamedTuple):
    token_id: str
    run_id: str
    kind: TokenKind
    row_id: str | None


class TokenParent(NamedTuple):
    token_id: str
    ordinal: int
    run_id: str
    parent_token_id: str


class Batch(NamedTuple):
    batch_id: str
    run_id: str
    node_id: str
    ordinal: int
    token_id: str
    trigger_fired: Trigger
    shard: str


class BatchMember(NamedTuple):
    batch_id: str
    ordinal: int
    run_id: str
    token_id: str


class NodeState(NamedTuple):
    state_id: str
    run_id: str
    node_id: str
    token_id: str
    attempt: int
    step_key: str
    retry_number: int
    host: str
    pid: int
    started_at: datetime


class NodeStateEnd(NamedTuple):
    state_id: str
    status: StateStatus
    detail: str | None
    error: str | None
    ended_at: datetime


class Call(NamedTuple):
    call_id: str
    run_id: str
    state_id: str
    token_id: str
    query_key: str
    query_attempt: int
    call_index: int
    cause: Cause
    provider: str
    model: str
    head_ref: str
    request_ref: str
    sent_at: datetime
    question_hash: str | None = None
    idempotency_key: str | None = None
    bound_nanousd: int | None = None

    @property
    def key(self) -> str:
        """The idempotency key that it carries: its own id, where it isn't that of an earlier call."""
        return self.idempotency_key or self.call_id


class Reply(NamedTuple):
    call_id: str
    outcome: ReplyOutcome
    error_class: str | None
    detail: str | None
    http_status: int | None
    headers: str | None
    body_ref: str | None
    model: str | None
    system_fingerprint: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    cost_nanousd: int | None
    latency_us: int | None
    redacted: int
    received_at: datetime


class Answer(NamedTuple):
    state_id: str
    token_id: str
    query_key: str
    run_id: str
    status: AnswerStatus
    reason: str | None
    detail: str | None
    values_ref: str | None
    call_id: str | None
    decided_at: datetime


class TokenOutcome(NamedTuple):
    token_id: str
    run_id: str
    outcome: Outcome
    state_id: str | None
    decided_at: datetime


class Artifact(NamedTuple):
    artifact_id: str
    run_id: str
    state_id: str
    asset_key: str
    partition_key: str | None
    uri: str
    content_hash: str
    size: int
    row_count: int
    written_at: datetime


class Review(NamedTuple):
    state_id: str
    token_id: str
    query_key: str
    reviewer: str
    number: int
    verdict: Verdict
    reason: str | None
    values_ref: str | None
    file_hash: str
    reviewed_at: datetime


class Seal(NamedTuple):
    run_id: str
    tree_size: int
    root: str
    counts: str
    note: str
    sealed_at: datetime


class SealTile(NamedTuple):
    run_id: str
    table_name: str
    tile: int
    hashes: bytes


class LogEntry(NamedTuple):
    log_index: int
    kind: str
    entry: str


class Checkpoint(NamedTuple):
    log_size: int
    note: str
    made_at: datetime


class AnchorReceipt(NamedTuple):
    log_size: int
    anchor: str
    receipt: str
    anchored_at: datetime


class Erasure(NamedTuple):
    """`what` is a JSON object: what was asked to be erased."""

    erasure_id: str
    reason: str
    erased_by: str
    what: str
    at: datetime


class ErasedPayload(NamedTuple):
    ref: str
    erasure_id: str
    scope_id: int | None


class ErasedScope(NamedTuple):
    scope_id: int
    erasure_id: str


class LegalHold(NamedTuple):
    """`subject` is the key of a row, or a run's id. No assessment: a row's of any."""

    hold_id: str
    kind: ScopeKind
    assessment: str | None
    subject: str
    reason: str
    held_by: str
    held_at: datetime


class LegalHoldRelease(NamedTuple):
    hold_id: str
    reason: str
    released_by: str
    released_at: datetime


Fact = (
    Scope | Payload | Run | RunEnd | Node | Edge | Row | RowRejection | Token | TokenParent | Batch | BatchMember
    | NodeState | NodeStateEnd | Call | Reply | Answer | TokenOutcome | Artifact | Review
    | Seal | SealTile | LogEntry | Checkpoint | AnchorReceipt
    | Erasure | ErasedPayload | ErasedScope | LegalHold | LegalHoldRelease
)  # fmt: skip

TABLES: dict[type[Fact], sa.Table] = {
    Scope: schema.scopes,
    Payload: schema.payloads,
    Run: schema.runs,
    RunEnd: schema.run_ends,
    Node: schema.nodes,
    Edge: schema.edges,
    Row: schema.rows,
    RowRejection: schema.row_rejections,
    Token: schema.tokens,
    TokenParent: schema.token_parents,
    Batch: schema.batches,
    BatchMember: schema.batch_members,
    NodeState: schema.node_states,
    NodeStateEnd: schema.node_state_ends,
    Call: schema.calls,
    Reply: schema.replies,
    Answer: schema.answers,
    TokenOutcome: schema.token_outcomes,
    Artifact: schema.artifacts,
    Review: schema.reviews,
    Seal: schema.seals,
    SealTile: schema.seal_tiles,
    LogEntry: schema.log_entries,
    Checkpoint: schema.checkpoints,
    AnchorReceipt: schema.anchor_receipts,
    Erasure: schema.erasures,
    ErasedPayload: schema.erased_payloads,
    ErasedScope: schema.erased_scopes,
    LegalHold: schema.legal_holds,
    LegalHoldRelease: schema.legal_hold_releases,
}
