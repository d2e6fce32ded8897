"""What people say of answers: a fact of its own beside each, at any time."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ANSWER = ("state_id", "token_id", "query_key")
COMMENT = (
    "What a person said of an answer, at any time, also after its run has ended. `number` counts what one reviewer "
    "said of one answer: the last counts. It refers to the answer alone, and so belongs to no run's own facts."
)
CHECKS = {
    "verdict_is_known": "verdict IN ('agree', 'correct', 'reject')",
    "number_from_one": "number >= 1",
    "correction_has_values": "(verdict = 'correct') = (values_ref IS NOT NULL)",
    "rejection_has_reason": "verdict <> 'reject' OR reason IS NOT NULL",
    "file_hash_is_sha256": "length(file_hash) = 32",
}


def upgrade() -> None:
    op.create_table(
        "reviews",
        *(sa.Column(name, sa.Text(), nullable=False) for name in (*ANSWER, "reviewer")),
        sa.Column("number", NUMBER, autoincrement=False, nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("values_ref", sa.LargeBinary(), nullable=True),
        sa.Column("file_hash", sa.LargeBinary(), nullable=False),
        sa.Column("reviewed_at", NUMBER, nullable=False),
        *(sa.CheckConstraint(what, name=op.f(f"ck_reviews_{name}")) for name, what in CHECKS.items()),
        sa.ForeignKeyConstraint(
            ANSWER, [f"answers.{name}" for name in ANSWER], name=op.f("fk_reviews_state_id_token_id_query_key")
        ),
        sa.ForeignKeyConstraint(["values_ref"], ["payloads.ref"], name=op.f("fk_reviews_values_ref")),
        sa.PrimaryKeyConstraint(*ANSWER, "reviewer", "number", name=op.f("pk_reviews")),
        sa.UniqueConstraint(
            *ANSWER, "reviewer", "file_hash", name=op.f("uq_reviews_state_id_token_id_query_key_reviewer_file_hash")
        ),
        comment=COMMENT,
        sqlite_strict=True,
    )
