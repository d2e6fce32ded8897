"""The operational table of inboxes: which partition each file was taken into."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "inbox_files",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("assessment", "file", "partition_key")),
        sa.Column("ordinal", NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("assessment", "file", name=op.f("pk_inbox_files")),
        sa.UniqueConstraint(
            "assessment", "partition_key", "ordinal", name=op.f("uq_inbox_files_assessment_partition_key_ordinal")
        ),
        comment="Operational, not evidence: which partition each file of an inbox was taken into. Emptied, every file "
        "that is still in the inbox is taken anew.",
        sqlite_strict=True,
    )
