"""Operational tables, beside the record: what is left of the limits per minute."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "limit_buckets",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("level_millionths", NUMBER, nullable=False),
        sa.Column("filled_at_us", NUMBER, nullable=False),
        sa.CheckConstraint("unit IN ('requests', 'tokens')", name=op.f("ck_limit_buckets_unit_is_known")),
        sa.PrimaryKeyConstraint("provider", "account", "model", "unit", name=op.f("pk_limit_buckets")),
        comment="Operational, not evidence: what is left of a limit per minute, shared by all who ask this model.",
        sqlite_strict=True,
    )
