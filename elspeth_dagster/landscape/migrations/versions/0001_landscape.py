"""The landscape's first schema."""
# ruff: noqa: E501

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "payloads",
        sa.Column("ref", sa.LargeBinary(), nullable=False),
        sa.Column("size", NUMBER, autoincrement=False, nullable=False),
        sa.Column("encoding", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("encoding IN ('identity', 'zlib')", name=op.f("ck_payloads_encoding_is_known")),
        sa.CheckConstraint("length(ref) = 32", name=op.f("ck_payloads_ref_is_sha256")),
        sa.PrimaryKeyConstraint("ref", name=op.f("pk_payloads")),
        comment="Bytes under the name of their SHA-256.",
        sqlite_strict=True,
    )
    op.create_table(
        "runs",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("parent_run_id", sa.Text(), nullable=True),
        sa.Column("root_run_id", sa.Text(), nullable=False),
        sa.Column("job_name", sa.Text(), nullable=False),
        sa.Column("assessments", sa.Text(), nullable=False),
        sa.Column("partition_keys", sa.Text(), nullable=False),
        sa.Column("config_ref", sa.LargeBinary(), nullable=False),
        sa.Column("package_version", sa.Text(), nullable=False),
        sa.Column("code_version", sa.Text(), nullable=False),
        sa.Column("dagster_version", sa.Text(), nullable=False),
        sa.Column("python_version", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("started_at", NUMBER, nullable=False),
        sa.ForeignKeyConstraint(["config_ref"], ["payloads.ref"], name=op.f("fk_runs_config_ref")),
        sa.ForeignKeyConstraint(["parent_run_id"], ["runs.run_id"], name=op.f("fk_runs_parent_run_id")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_runs")),
        comment="A Dagster run that assesses: what was launched, by which code. root_run_id names the lineage of re-executions; its run may have died before it recorded anything.",
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_runs_root_run_id"), "runs", ["root_run_id"], unique=False)
    op.create_table(
        "nodes",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("assessment", sa.Text(), nullable=False),
        sa.Column("op_name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("determinism", sa.Text(), nullable=False),
        sa.Column("config_ref", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint(
            "determinism IN ('deterministic', 'external_read', 'external_call')",
            name=op.f("ck_nodes_determinism_is_known"),
        ),
        sa.ForeignKeyConstraint(["config_ref"], ["payloads.ref"], name=op.f("fk_nodes_config_ref")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_nodes_run_id")),
        sa.PrimaryKeyConstraint("run_id", "node_id", name=op.f("pk_nodes")),
        comment="An op of an assessment's graph in this run, with the configuration it works by.",
        sqlite_strict=True,
    )
    op.create_table(
        "run_ends",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("ended_at", NUMBER, nullable=False),
        sa.CheckConstraint(
            "status IN ('completed', 'failed', 'interrupted')", name=op.f("ck_run_ends_status_is_known")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_run_ends_run_id")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_run_ends")),
        comment="How and when a run ended.",
        sqlite_strict=True,
    )
    op.create_table(
        "edges",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("from_node", sa.Text(), nullable=False),
        sa.Column("to_node", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id", "from_node"], ["nodes.run_id", "nodes.node_id"], name=op.f("fk_edges_run_id_from_node")
        ),
        sa.ForeignKeyConstraint(
            ["run_id", "to_node"], ["nodes.run_id", "nodes.node_id"], name=op.f("fk_edges_run_id_to_node")
        ),
        sa.PrimaryKeyConstraint("run_id", "from_node", "to_node", name=op.f("pk_edges")),
        comment="What flows from one op to the next.",
        sqlite_strict=True,
    )
    op.create_table(
        "row_rejections",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("row_index", NUMBER, autoincrement=False, nullable=False),
        sa.Column("partition_key", sa.Text(), nullable=True),
        sa.Column("line", NUMBER, autoincrement=False, nullable=True),
        sa.Column("column_name", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("raw_ref", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["raw_ref"], ["payloads.ref"], name=op.f("fk_row_rejections_raw_ref")),
        sa.ForeignKeyConstraint(
            ["run_id", "node_id"], ["nodes.run_id", "nodes.node_id"], name=op.f("fk_row_rejections_run_id_node_id")
        ),
        sa.PrimaryKeyConstraint("run_id", "node_id", "row_index", name=op.f("pk_row_rejections")),
        comment="Why a record could not become a row, with the record as it came.",
        sqlite_strict=True,
    )
    op.create_table(
        "rows",
        sa.Column("row_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("row_index", NUMBER, autoincrement=False, nullable=False),
        sa.Column("row_key", sa.Text(), nullable=False),
        sa.Column("partition_key", sa.Text(), nullable=True),
        sa.Column("line", NUMBER, autoincrement=False, nullable=True),
        sa.Column("values_ref", sa.LargeBinary(), nullable=False),
        sa.Column("raw_ref", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["raw_ref"], ["payloads.ref"], name=op.f("fk_rows_raw_ref")),
        sa.ForeignKeyConstraint(
            ["run_id", "node_id"], ["nodes.run_id", "nodes.node_id"], name=op.f("fk_rows_run_id_node_id")
        ),
        sa.ForeignKeyConstraint(["values_ref"], ["payloads.ref"], name=op.f("fk_rows_values_ref")),
        sa.PrimaryKeyConstraint("row_id", name=op.f("pk_rows")),
        sa.UniqueConstraint("run_id", "node_id", "row_index", name=op.f("uq_rows_run_id_node_id_row_index")),
        sa.UniqueConstraint("run_id", "row_id", name=op.f("uq_rows_run_id_row_id")),
        comment="A source record as it came (raw, where the source has a text form) and as it was understood (values).",
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_rows_run_id_row_key"), "rows", ["run_id", "row_key"], unique=False)
    op.create_table(
        "tokens",
        sa.Column("token_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("row_id", sa.Text(), nullable=True),
        sa.CheckConstraint("(kind = 'row') = (row_id IS NOT NULL)", name=op.f("ck_tokens_row_token_has_row")),
        sa.CheckConstraint("kind IN ('slice', 'row', 'batch')", name=op.f("ck_tokens_kind_is_known")),
        sa.ForeignKeyConstraint(
            ["run_id", "row_id"], ["rows.run_id", "rows.row_id"], name=op.f("fk_tokens_run_id_row_id")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_tokens_run_id")),
        sa.PrimaryKeyConstraint("token_id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("row_id", name=op.f("uq_tokens_row_id")),
        sa.UniqueConstraint("run_id", "token_id", name=op.f("uq_tokens_run_id_token_id")),
        comment="What travels through the graph: the slice, a row, a batch.",
        sqlite_strict=True,
    )
    op.create_table(
        "batches",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("ordinal", NUMBER, autoincrement=False, nullable=False),
        sa.Column("token_id", sa.Text(), nullable=False),
        sa.Column("trigger_fired", sa.Text(), nullable=False),
        sa.Column("shard", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "trigger_fired IN ('rows', 'group_by', 'when', 'end_of_slice')",
            name=op.f("ck_batches_trigger_fired_is_known"),
        ),
        sa.ForeignKeyConstraint(
            ["run_id", "node_id"], ["nodes.run_id", "nodes.node_id"], name=op.f("fk_batches_run_id_node_id")
        ),
        sa.ForeignKeyConstraint(
            ["run_id", "token_id"], ["tokens.run_id", "tokens.token_id"], name=op.f("fk_batches_run_id_token_id")
        ),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_batches")),
        sa.UniqueConstraint("run_id", "batch_id", name=op.f("uq_batches_run_id_batch_id")),
        sa.UniqueConstraint("run_id", "node_id", "ordinal", name=op.f("uq_batches_run_id_node_id_ordinal")),
        sa.UniqueConstraint("token_id", name=op.f("uq_batches_token_id")),
        comment="What one flush holds, and which trigger fired; `shard` is the step that asks it.",
        sqlite_strict=True,
    )
    op.create_table(
        "node_states",
        sa.Column("state_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("token_id", sa.Text(), nullable=False),
        sa.Column("attempt", NUMBER, autoincrement=False, nullable=False),
        sa.Column("step_key", sa.Text(), nullable=False),
        sa.Column("retry_number", NUMBER, autoincrement=False, nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", NUMBER, autoincrement=False, nullable=False),
        sa.Column("started_at", NUMBER, nullable=False),
        sa.CheckConstraint("attempt >= 1", name=op.f("ck_node_states_attempt_from_one")),
        sa.ForeignKeyConstraint(
            ["run_id", "node_id"], ["nodes.run_id", "nodes.node_id"], name=op.f("fk_node_states_run_id_node_id")
        ),
        sa.ForeignKeyConstraint(
            ["run_id", "token_id"], ["tokens.run_id", "tokens.token_id"], name=op.f("fk_node_states_run_id_token_id")
        ),
        sa.PrimaryKeyConstraint("state_id", name=op.f("pk_node_states")),
        sa.UniqueConstraint("run_id", "state_id", name=op.f("uq_node_states_run_id_state_id")),
        sa.UniqueConstraint("token_id", "node_id", "attempt", name=op.f("uq_node_states_token_id_node_id_attempt")),
        comment="One token at one node, one attempt, executed by one op.",
        sqlite_strict=True,
    )
    op.create_table(
        "token_parents",
        sa.Column("token_id", sa.Text(), nullable=False),
        sa.Column("ordinal", NUMBER, autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("parent_token_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id", "parent_token_id"],
            ["tokens.run_id", "tokens.token_id"],
            name=op.f("fk_token_parents_run_id_parent_token_id"),
        ),
        sa.ForeignKeyConstraint(
            ["run_id", "token_id"], ["tokens.run_id", "tokens.token_id"], name=op.f("fk_token_parents_run_id_token_id")
        ),
        sa.PrimaryKeyConstraint("token_id", "ordinal", name=op.f("pk_token_parents")),
        sa.UniqueConstraint("token_id", "parent_token_id", name=op.f("uq_token_parents_token_id_parent_token_id")),
        comment="From which tokens a token was made, in order.",
        sqlite_strict=True,
    )
    op.create_table(
        "artifacts",
        sa.Column("artifact_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("state_id", sa.Text(), nullable=False),
        sa.Column("asset_key", sa.Text(), nullable=False),
        sa.Column("partition_key", sa.Text(), nullable=True),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        sa.Column("size", NUMBER, autoincrement=False, nullable=False),
        sa.Column("row_count", NUMBER, autoincrement=False, nullable=False),
        sa.Column("written_at", NUMBER, nullable=False),
        sa.CheckConstraint("length(content_hash) = 32", name=op.f("ck_artifacts_content_hash_is_sha256")),
        sa.ForeignKeyConstraint(
            ["run_id", "state_id"],
            ["node_states.run_id", "node_states.state_id"],
            name=op.f("fk_artifacts_run_id_state_id"),
        ),
        sa.PrimaryKeyConstraint("artifact_id", name=op.f("pk_artifacts")),
        sa.UniqueConstraint("state_id", "asset_key", name=op.f("uq_artifacts_state_id_asset_key")),
        comment="A file or table that was written: where, which bytes, how many rows.",
        sqlite_strict=True,
    )
    op.create_table(
        "batch_members",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("ordinal", NUMBER, autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("token_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id", "batch_id"],
            ["batches.run_id", "batches.batch_id"],
            name=op.f("fk_batch_members_run_id_batch_id"),
        ),
        sa.ForeignKeyConstraint(
            ["run_id", "token_id"], ["tokens.run_id", "tokens.token_id"], name=op.f("fk_batch_members_run_id_token_id")
        ),
        sa.PrimaryKeyConstraint("batch_id", "ordinal", name=op.f("pk_batch_members")),
        sa.UniqueConstraint("batch_id", "token_id", name=op.f("uq_batch_members_batch_id_token_id")),
        comment="The rows of a batch, in order.",
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_batch_members_token_id"), "batch_members", ["token_id"], unique=False)
    op.create_table(
        "calls",
        sa.Column("call_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("state_id", sa.Text(), nullable=False),
        sa.Column("token_id", sa.Text(), nullable=False),
        sa.Column("query_key", sa.Text(), nullable=False),
        sa.Column("query_attempt", NUMBER, autoincrement=False, nullable=False),
        sa.Column("call_index", NUMBER, autoincrement=False, nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("head_ref", sa.LargeBinary(), nullable=False),
        sa.Column("request_ref", sa.LargeBinary(), nullable=False),
        sa.Column("sent_at", NUMBER, nullable=False),
        sa.CheckConstraint("cause IN ('first', 'retry', 'repair')", name=op.f("ck_calls_cause_is_known")),
        sa.CheckConstraint("query_attempt >= 1 AND call_index >= 0", name=op.f("ck_calls_counted_from_one")),
        sa.ForeignKeyConstraint(["head_ref"], ["payloads.ref"], name=op.f("fk_calls_head_ref")),
        sa.ForeignKeyConstraint(["request_ref"], ["payloads.ref"], name=op.f("fk_calls_request_ref")),
        sa.ForeignKeyConstraint(
            ["run_id", "state_id"],
            ["node_states.run_id", "node_states.state_id"],
            name=op.f("fk_calls_run_id_state_id"),
        ),
        sa.ForeignKeyConstraint(
            ["run_id", "token_id"], ["tokens.run_id", "tokens.token_id"], name=op.f("fk_calls_run_id_token_id")
        ),
        sa.PrimaryKeyConstraint("call_id", name=op.f("pk_calls")),
        sa.UniqueConstraint("state_id", "call_index", name=op.f("uq_calls_state_id_call_index")),
        sa.UniqueConstraint(
            "state_id",
            "token_id",
            "query_key",
            "query_attempt",
            name=op.f("uq_calls_state_id_token_id_query_key_query_attempt"),
        ),
        comment="One HTTP request, written before it is sent: by which state, for which row and question, which try.",
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_calls_request_ref"), "calls", ["request_ref"], unique=False)
    op.create_table(
        "node_state_ends",
        sa.Column("state_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("ended_at", NUMBER, nullable=False),
        sa.CheckConstraint(
            "status IN ('completed', 'failed', 'interrupted')", name=op.f("ck_node_state_ends_status_is_known")
        ),
        sa.ForeignKeyConstraint(["state_id"], ["node_states.state_id"], name=op.f("fk_node_state_ends_state_id")),
        sa.PrimaryKeyConstraint("state_id", name=op.f("pk_node_state_ends")),
        comment="How an attempt ended; `detail` is a JSON object of its counts.",
        sqlite_strict=True,
    )
    op.create_table(
        "token_outcomes",
        sa.Column("token_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("state_id", sa.Text(), nullable=True),
        sa.Column("decided_at", NUMBER, nullable=False),
        sa.CheckConstraint(
            "outcome IN ('assessed', 'partial', 'failed', 'completed', 'interrupted')",
            name=op.f("ck_token_outcomes_outcome_is_known"),
        ),
        sa.ForeignKeyConstraint(
            ["run_id", "state_id"],
            ["node_states.run_id", "node_states.state_id"],
            name=op.f("fk_token_outcomes_run_id_state_id"),
        ),
        sa.ForeignKeyConstraint(
            ["run_id", "token_id"], ["tokens.run_id", "tokens.token_id"], name=op.f("fk_token_outcomes_run_id_token_id")
        ),
        sa.PrimaryKeyConstraint("token_id", name=op.f("pk_token_outcomes")),
        comment="The single terminal fate of a token, and the state that decided it (none when the run was ended from outside).",
        sqlite_strict=True,
    )
    op.create_table(
        "answers",
        sa.Column("state_id", sa.Text(), nullable=False),
        sa.Column("token_id", sa.Text(), nullable=False),
        sa.Column("query_key", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("values_ref", sa.LargeBinary(), nullable=True),
        sa.Column("call_id", sa.Text(), nullable=True),
        sa.Column("decided_at", NUMBER, nullable=False),
        sa.CheckConstraint("(status = 'refused') = (reason IS NOT NULL)", name=op.f("ck_answers_refused_has_reason")),
        sa.CheckConstraint(
            "status = 'refused' OR (values_ref IS NOT NULL AND call_id IS NOT NULL)",
            name=op.f("ck_answers_accepted_whole"),
        ),
        sa.CheckConstraint("status IN ('accepted', 'refused')", name=op.f("ck_answers_status_is_known")),
        sa.ForeignKeyConstraint(["call_id"], ["calls.call_id"], name=op.f("fk_answers_call_id")),
        sa.ForeignKeyConstraint(
            ["run_id", "state_id"],
            ["node_states.run_id", "node_states.state_id"],
            name=op.f("fk_answers_run_id_state_id"),
        ),
        sa.ForeignKeyConstraint(
            ["run_id", "token_id"], ["tokens.run_id", "tokens.token_id"], name=op.f("fk_answers_run_id_token_id")
        ),
        sa.ForeignKeyConstraint(["values_ref"], ["payloads.ref"], name=op.f("fk_answers_values_ref")),
        sa.PrimaryKeyConstraint("state_id", "token_id", "query_key", name=op.f("pk_answers")),
        comment="A question answered for a row: accepted with values, or refused with the reason. `call_id` is the call it comes from, also when an earlier attempt or run made it.",
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_answers_token_id"), "answers", ["token_id"], unique=False)
    op.create_table(
        "replies",
        sa.Column("call_id", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("error_class", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("http_status", NUMBER, autoincrement=False, nullable=True),
        sa.Column("headers", sa.Text(), nullable=True),
        sa.Column("body_ref", sa.LargeBinary(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("system_fingerprint", sa.Text(), nullable=True),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        sa.Column("prompt_tokens", NUMBER, autoincrement=False, nullable=True),
        sa.Column("completion_tokens", NUMBER, autoincrement=False, nullable=True),
        sa.Column("cached_tokens", NUMBER, autoincrement=False, nullable=True),
        sa.Column("cost_nanousd", NUMBER, autoincrement=False, nullable=True),
        sa.Column("latency_us", NUMBER, autoincrement=False, nullable=True),
        sa.Column("redacted", NUMBER, autoincrement=False, nullable=False),
        sa.Column("received_at", NUMBER, nullable=False),
        sa.CheckConstraint("(outcome = 'success') = (error_class IS NULL)", name=op.f("ck_replies_error_has_class")),
        sa.CheckConstraint(
            "outcome <> 'success' OR (http_status IS NOT NULL AND body_ref IS NOT NULL)", name=op.f("ck_replies_whole")
        ),
        sa.CheckConstraint("outcome IN ('success', 'error', 'unknown')", name=op.f("ck_replies_outcome_is_known")),
        sa.ForeignKeyConstraint(["body_ref"], ["payloads.ref"], name=op.f("fk_replies_body_ref")),
        sa.ForeignKeyConstraint(["call_id"], ["calls.call_id"], name=op.f("fk_replies_call_id")),
        sa.PrimaryKeyConstraint("call_id", name=op.f("pk_replies")),
        comment="What came back. Usage that was not reported is NULL; costs are nano-US-dollars; an unknown price is NULL.",
        sqlite_strict=True,
    )
