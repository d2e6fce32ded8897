"""The landscape's tables, in the order of the walk.

    runs ── nodes ── rows ── tokens ── batches ── node_states ── calls ── replies ── answers ── token_outcomes
                                                                                        └ reviews

Facts only: a row is written once and never changed. What becomes known later is a row in a second table
(`run_ends`, `node_state_ends`, `replies`, `token_outcomes`, `reviews`). Whatever belongs to a run carries its `run_id`,
and refers to its parent together with it, so that nothing of one run can hang on something of another.
`guards` adds the triggers that refuse UPDATE, DELETE and INSERT OR REPLACE.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from elspeth_dagster.landscape.columns import Hash, Instant, Name, Number, Ref, Text, word
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

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def _table(
    name: str,
    comment: str,
    *parts: sa.schema.SchemaItem | tuple[sa.schema.SchemaItem, ...],
    by_key: bool = False,
) -> sa.Table:
    """A table; `by_key`: SQLite keeps its rows in the order of their key, which saves an index over it.

    That is for small rows that few other indexes lead to (https://www.sqlite.org/withoutrowid.html).
    """
    flat = [item for part in parts for item in (part if isinstance(part, tuple) else (part,))]
    return sa.Table(name, metadata, *flat, comment=comment, sqlite_strict=True, sqlite_with_rowid=not by_key)


def _name(name: str, *, nullable: bool = False, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, Name, nullable=nullable, primary_key=key)


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, Text, nullable=nullable)


def _number(name: str, *, nullable: bool = False, key: bool = False) -> sa.Column[int]:
    return sa.Column(name, Number, nullable=nullable, primary_key=key, autoincrement=False)


def _instant(name: str) -> sa.Column[datetime]:
    return sa.Column(name, Instant, nullable=False)


def _payload(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, Ref, sa.ForeignKey("payloads.ref"), nullable=nullable)


def _belongs_to(parent: str, *columns: str) -> sa.ForeignKeyConstraint:
    """A reference to a parent of the same run: (run_id, columns…) there and here."""
    names = ["run_id", *columns]
    targets = {"nodes": ["node_id"], "rows": ["row_id"], "tokens": ["token_id"], "batches": ["batch_id"],
               "node_states": ["state_id"]}  # fmt: skip
    return sa.ForeignKeyConstraint(names, [f"{parent}.run_id", *(f"{parent}.{name}" for name in targets[parent])])


payloads = _table(
    "payloads",
    "Bytes under a name that follows from them: their SHA-256, or the HMAC of it by their scope's key. "
    "`dictionary_ref` names the bytes that a compressed body leans on, before the common dictionary.",
    sa.Column("ref", Ref, primary_key=True),
    _number("size"),
    word("encoding", Encoding),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("scope_id", Number, sa.ForeignKey("scopes.scope_id")),
    _payload("dictionary_ref", nullable=True),
    sa.CheckConstraint("length(ref) = CASE WHEN scope_id IS NULL THEN 32 ELSE 37 END", name="ref_is_named"),
)

scopes = _table(
    "scopes",
    "What is erased together, with the key that names its payloads: whatever is about the row with this key, in any "
    "run; or the records of a run that became no row. A subject that was erased and comes again has a next ordinal.",
    _number("scope_id", key=True),
    _name("assessment"),
    word("kind", ScopeKind),
    _name("subject"),
    _number("ordinal"),
    sa.Column("naming_key", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("assessment", "kind", "subject", "ordinal"),
    sa.CheckConstraint("length(naming_key) IN (0, 32)", name="key_is_whole_or_gone"),
    sa.CheckConstraint("scope_id BETWEEN 1 AND 1099511627775", name="fits_a_name"),
    by_key=True,
)

runs = _table(
    "runs",
    "A Dagster run that assesses: what was launched, by which code. root_run_id names the lineage: the runs that go on "
    "with what earlier ones were answered.",
    _name("run_id", key=True),
    sa.Column("parent_run_id", Name, sa.ForeignKey("runs.run_id")),
    _name("root_run_id"),
    _name("job_name"),
    _text("assessments"),
    _text("partition_keys"),
    _payload("config_ref"),
    _text("package_version"),
    _text("code_version"),
    _text("dagster_version"),
    _text("python_version"),
    _text("host"),
    _instant("started_at"),
    word("mode", Mode, default=Mode.ASK),
    sa.Index(None, "root_run_id"),
)

run_ends = _table(
    "run_ends",
    "How and when a run ended.",
    sa.Column("run_id", Name, sa.ForeignKey("runs.run_id"), primary_key=True),
    word("status", RunStatus),
    _text("detail", nullable=True),
    _instant("ended_at"),
)

nodes = _table(
    "nodes",
    "An op of an assessment's graph in this run, with the configuration it works by.",
    sa.Column("run_id", Name, sa.ForeignKey("runs.run_id"), primary_key=True),
    _name("node_id", key=True),
    _name("assessment"),
    _name("op_name"),
    _name("version"),
    word("determinism", Determinism),
    _payload("config_ref"),
)

edges = _table(
    "edges",
    "What flows from one op to the next.",
    _name("run_id", key=True),
    _name("from_node", key=True),
    _name("to_node", key=True),
    _text("label"),
    _belongs_to("nodes", "from_node"),
    _belongs_to("nodes", "to_node"),
)

rows = _table(
    "rows",
    "A source record as it came (raw, where the source has a text form) and as it was understood (values).",
    _name("row_id", key=True),
    _name("run_id"),
    _name("node_id"),
    _number("row_index"),
    _name("row_key"),
    _name("partition_key", nullable=True),
    _number("line", nullable=True),
    _payload("values_ref"),
    _payload("raw_ref", nullable=True),
    sa.Column("scope_id", Number, sa.ForeignKey("scopes.scope_id")),
    sa.UniqueConstraint("run_id", "row_id"),
    sa.UniqueConstraint("run_id", "node_id", "row_index"),
    sa.Index(None, "run_id", "row_key"),
    sa.Index(None, "scope_id"),
    _belongs_to("nodes", "node_id"),
)

row_rejections = _table(
    "row_rejections",
    "Why a record could not become a row, with the record as it came.",
    _name("run_id", key=True),
    _name("node_id", key=True),
    _number("row_index", key=True),
    _name("partition_key", nullable=True),
    _number("line", nullable=True),
    _text("column_name", nullable=True),
    _text("reason"),
    _text("message"),
    _payload("raw_ref"),
    _belongs_to("nodes", "node_id"),
)

tokens = _table(
    "tokens",
    "What travels through the graph: the slice, a row, a batch.",
    _name("token_id", key=True),
    _name("run_id"),
    word("kind", TokenKind),
    _name("row_id", nullable=True),
    sa.UniqueConstraint("run_id", "token_id"),
    sa.UniqueConstraint("row_id"),
    sa.CheckConstraint("(kind = 'row') = (row_id IS NOT NULL)", name="row_token_has_row"),
    sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"]),
    _belongs_to("rows", "row_id"),
)

token_parents = _table(
    "token_parents",
    "From which tokens a token was made, in order.",
    _name("token_id", key=True),
    _number("ordinal", key=True),
    _name("run_id"),
    _name("parent_token_id"),
    sa.UniqueConstraint("token_id", "parent_token_id"),
    _belongs_to("tokens", "token_id"),
    _belongs_to("tokens", "parent_token_id"),
)

batches = _table(
    "batches",
    "What one flush holds, and which trigger fired; `shard` is the step that asks it.",
    _name("batch_id", key=True),
    _name("run_id"),
    _name("node_id"),
    _number("ordinal"),
    _name("token_id"),
    word("trigger_fired", Trigger),
    _name("shard"),
    sa.UniqueConstraint("run_id", "batch_id"),
    sa.UniqueConstraint("run_id", "node_id", "ordinal"),
    sa.UniqueConstraint("token_id"),
    _belongs_to("nodes", "node_id"),
    _belongs_to("tokens", "token_id"),
)

batch_members = _table(
    "batch_members",
    "The rows of a batch, in order.",
    _name("batch_id", key=True),
    _number("ordinal", key=True),
    _name("run_id"),
    _name("token_id"),
    sa.UniqueConstraint("batch_id", "token_id"),
    sa.Index(None, "token_id"),
    _belongs_to("batches", "batch_id"),
    _belongs_to("tokens", "token_id"),
)

node_states = _table(
    "node_states",
    "One token at one node, one attempt, executed by one op.",
    _name("state_id", key=True),
    _name("run_id"),
    _name("node_id"),
    _name("token_id"),
    _number("attempt"),
    _name("step_key"),
    _number("retry_number"),
    _text("host"),
    _number("pid"),
    _instant("started_at"),
    sa.UniqueConstraint("run_id", "state_id"),
    sa.UniqueConstraint("token_id", "node_id", "attempt"),
    sa.CheckConstraint("attempt >= 1", name="attempt_from_one"),
    _belongs_to("nodes", "node_id"),
    _belongs_to("tokens", "token_id"),
)

node_state_ends = _table(
    "node_state_ends",
    "How an attempt ended; `detail` is a JSON object of its counts.",
    sa.Column("state_id", Name, sa.ForeignKey("node_states.state_id"), primary_key=True),
    word("status", StateStatus),
    _text("detail", nullable=True),
    _text("error", nullable=True),
    _instant("ended_at"),
)

calls = _table(
    "calls",
    "One HTTP request, written before it is sent: by which state, for which row and question, which try. "
    "`question_hash` names what is asked, whatever form the answer must have; `bound_nanousd` is the most it can cost.",
    _name("call_id", key=True),
    _name("run_id"),
    _name("state_id"),
    _name("token_id"),
    _name("query_key"),
    _number("query_attempt"),
    _number("call_index"),
    word("cause", Cause),
    _name("provider"),
    _text("model"),
    _payload("head_ref"),
    _payload("request_ref"),
    _instant("sent_at"),
    sa.Column("question_hash", Ref),
    _name("idempotency_key", nullable=True),
    _number("bound_nanousd", nullable=True),
    sa.UniqueConstraint("state_id", "call_index"),
    sa.UniqueConstraint("state_id", "token_id", "query_key", "query_attempt"),
    sa.CheckConstraint("query_attempt >= 1 AND call_index >= 0", name="counted_from_one"),
    sa.CheckConstraint("length(question_hash) IN (32, 37)", name="question_hash_is_named"),
    _belongs_to("node_states", "state_id"),
    _belongs_to("tokens", "token_id"),
)

replies = _table(
    "replies",
    "What came back. Usage that was not reported is NULL; costs are nano-US-dollars; an unknown price is NULL.",
    sa.Column("call_id", Name, sa.ForeignKey("calls.call_id"), primary_key=True),
    word("outcome", ReplyOutcome),
    _text("error_class", nullable=True),
    _text("detail", nullable=True),
    _number("http_status", nullable=True),
    _text("headers", nullable=True),
    _payload("body_ref", nullable=True),
    _text("model", nullable=True),
    _text("system_fingerprint", nullable=True),
    _text("finish_reason", nullable=True),
    _number("prompt_tokens", nullable=True),
    _number("completion_tokens", nullable=True),
    _number("cached_tokens", nullable=True),
    _number("cost_nanousd", nullable=True),
    _number("latency_us", nullable=True),
    _number("redacted"),
    _instant("received_at"),
    sa.CheckConstraint("(outcome = 'success') = (error_class IS NULL)", name="error_has_class"),
    sa.CheckConstraint("outcome <> 'success' OR (http_status IS NOT NULL AND body_ref IS NOT NULL)", name="whole"),
    by_key=True,
)

answers = _table(
    "answers",
    "A question answered for a row: accepted with values, or refused with the reason. "
    "`call_id` is the call it comes from, also when an earlier attempt or run made it.",
    _name("state_id", key=True),
    _name("token_id", key=True),
    _name("query_key", key=True),
    _name("run_id"),
    word("status", AnswerStatus),
    _text("reason", nullable=True),
    _text("detail", nullable=True),
    _payload("values_ref", nullable=True),
    sa.Column("call_id", Name, sa.ForeignKey("calls.call_id")),
    _instant("decided_at"),
    sa.Index(None, "token_id"),
    sa.CheckConstraint("(status = 'refused') = (reason IS NOT NULL)", name="refused_has_reason"),
    sa.CheckConstraint("status = 'refused' OR (values_ref IS NOT NULL AND call_id IS NOT NULL)", name="accepted_whole"),
    _belongs_to("node_states", "state_id"),
    _belongs_to("tokens", "token_id"),
    by_key=True,
)

token_outcomes = _table(
    "token_outcomes",
    "The single terminal fate of a token, and the state that decided it (none when the run was ended from outside).",
    _name("token_id", key=True),
    _name("run_id"),
    word("outcome", Outcome),
    _name("state_id", nullable=True),
    _instant("decided_at"),
    _belongs_to("tokens", "token_id"),
    _belongs_to("node_states", "state_id"),
)

artifacts = _table(
    "artifacts",
    "A file or table that was written: where, which bytes, how many rows. A state writes a file once.",
    _name("artifact_id", key=True),
    _name("run_id"),
    _name("state_id"),
    _name("asset_key"),
    _name("partition_key", nullable=True),
    _name("uri"),
    sa.Column("content_hash", Hash, nullable=False),
    _number("size"),
    _number("row_count"),
    _instant("written_at"),
    sa.UniqueConstraint("state_id", "uri"),
    sa.CheckConstraint("length(content_hash) = 32", name="content_hash_is_sha256"),
    _belongs_to("node_states", "state_id"),
)

reviews = _table(
    "reviews",
    "What a person said of an answer, at any time, also after its run has ended. `number` counts what one reviewer "
    "said of one answer: the last counts. It refers to the answer alone, and so belongs to no run's own facts.",
    _name("state_id", key=True),
    _name("token_id", key=True),
    _name("query_key", key=True),
    _name("reviewer", key=True),
    _number("number", key=True),
    word("verdict", Verdict),
    _text("reason", nullable=True),
    _payload("values_ref", nullable=True),
    sa.Column("file_hash", Hash, nullable=False),
    _instant("reviewed_at"),
    sa.UniqueConstraint("state_id", "token_id", "query_key", "reviewer", "file_hash"),
    sa.CheckConstraint("number >= 1", name="number_from_one"),
    sa.CheckConstraint("(verdict = 'correct') = (values_ref IS NOT NULL)", name="correction_has_values"),
    sa.CheckConstraint("verdict <> 'reject' OR reason IS NOT NULL", name="rejection_has_reason"),
    sa.CheckConstraint("length(file_hash) = 32", name="file_hash_is_sha256"),
    sa.ForeignKeyConstraint(
        ["state_id", "token_id", "query_key"], ["answers.state_id", "answers.token_id", "answers.query_key"]
    ),
)

seals = _table(
    "seals",
    "What an ended run left on record: how many records, and the Merkle root over them, as a signed note.",
    sa.Column("run_id", Name, sa.ForeignKey("runs.run_id"), primary_key=True),
    _number("tree_size"),
    sa.Column("root", Hash, nullable=False),
    _text("counts"),
    _text("note"),
    _instant("sealed_at"),
    sa.CheckConstraint("length(root) = 32", name="root_is_sha256"),
)

seal_tiles = _table(
    "seal_tiles",
    "The leaf hashes of a sealed run's records, up to 256 of a table together, so that the one that differs is found.",
    sa.Column("run_id", Name, sa.ForeignKey("runs.run_id"), primary_key=True),
    _name("table_name", key=True),
    _number("tile", key=True),
    sa.Column("hashes", sa.LargeBinary, nullable=False),
    sa.CheckConstraint("length(hashes) BETWEEN 32 AND 8192 AND length(hashes) % 32 = 0", name="hashes_are_whole"),
)

log_entries = _table(
    "log_entries",
    "The installation's log: which runs began and were sealed, which keys sign, what was erased.",
    _number("log_index", key=True),
    _name("kind"),
    _text("entry"),
    sa.CheckConstraint("log_index >= 0", name="index_from_zero"),
    by_key=True,
)

checkpoints = _table(
    "checkpoints",
    "The log as it was at a size: its Merkle root as a signed note.",
    _number("log_size", key=True),
    _text("note"),
    _instant("made_at"),
    sa.CheckConstraint("log_size >= 1", name="of_something"),
    by_key=True,
)

anchor_receipts = _table(
    "anchor_receipts",
    "Where outside of this database a checkpoint was put, and what came back from there.",
    sa.Column("log_size", Number, sa.ForeignKey("checkpoints.log_size"), primary_key=True, autoincrement=False),
    _name("anchor", key=True),
    _text("receipt"),
    _instant("anchored_at"),
)

erasures = _table(
    "erasures",
    "That bytes were erased: why, by whom, and what was asked to be erased, a JSON object.",
    _name("erasure_id", key=True),
    _text("reason"),
    _text("erased_by"),
    _text("what"),
    _instant("at"),
)

erased_payloads = _table(
    "erased_payloads",
    "A payload whose body an erasure has emptied: its name and size are left.",
    sa.Column("ref", Ref, sa.ForeignKey("payloads.ref"), primary_key=True),
    sa.Column("erasure_id", Name, sa.ForeignKey("erasures.erasure_id"), nullable=False),
    sa.Column("scope_id", Number, sa.ForeignKey("scopes.scope_id")),
    sa.Index(None, "scope_id"),
    by_key=True,
)

erased_scopes = _table(
    "erased_scopes",
    "A scope whose key an erasure has destroyed: nothing of it was left that the key names.",
    sa.Column("scope_id", Number, sa.ForeignKey("scopes.scope_id"), primary_key=True, autoincrement=False),
    sa.Column("erasure_id", Name, sa.ForeignKey("erasures.erasure_id"), nullable=False),
    by_key=True,
)

legal_holds = _table(
    "legal_holds",
    "That nothing of a run, or nothing about a row (of one assessment, or of any), may be erased until it is released.",
    _name("hold_id", key=True),
    word("kind", ScopeKind),
    _name("assessment", nullable=True),
    _name("subject"),
    _text("reason"),
    _text("held_by"),
    _instant("held_at"),
)

legal_hold_releases = _table(
    "legal_hold_releases",
    "That a legal hold is over.",
    sa.Column("hold_id", Name, sa.ForeignKey("legal_holds.hold_id"), primary_key=True),
    _text("reason"),
    _text("released_by"),
    _instant("released_at"),
)
