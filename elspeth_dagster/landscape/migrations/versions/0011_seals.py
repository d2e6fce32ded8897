"""What ended runs left on record is sealed, and the installation keeps a log of them."""
# ruff: noqa: E501

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "seals",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("tree_size", NUMBER, nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("counts", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("sealed_at", NUMBER, nullable=False),
        sa.CheckConstraint("length(root) = 32", name=op.f("ck_seals_root_is_sha256")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_seals_run_id")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_seals")),
        comment="What an ended run left on record: how many records, and the Merkle root over them, as a signed note.",
        sqlite_strict=True,
    )
    op.create_table(
        "seal_tiles",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("tile", NUMBER, autoincrement=False, nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint(
            "length(hashes) BETWEEN 32 AND 8192 AND length(hashes) % 32 = 0",
            name=op.f("ck_seal_tiles_hashes_are_whole"),
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_seal_tiles_run_id")),
        sa.PrimaryKeyConstraint("run_id", "table_name", "tile", name=op.f("pk_seal_tiles")),
        comment="The leaf hashes of a sealed run's records, up to 256 of a table together, so that the one that differs is found.",
        sqlite_strict=True,
    )
    op.create_table(
        "log_entries",
        sa.Column("log_index", NUMBER, autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.CheckConstraint("log_index >= 0", name=op.f("ck_log_entries_index_from_zero")),
        sa.PrimaryKeyConstraint("log_index", name=op.f("pk_log_entries")),
        comment="The installation's log: which runs began and were sealed, which keys sign, what was erased.",
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "checkpoints",
        sa.Column("log_size", NUMBER, autoincrement=False, nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("made_at", NUMBER, nullable=False),
        sa.CheckConstraint("log_size >= 1", name=op.f("ck_checkpoints_of_something")),
        sa.PrimaryKeyConstraint("log_size", name=op.f("pk_checkpoints")),
        comment="The log as it was at a size: its Merkle root as a signed note.",
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "anchor_receipts",
        sa.Column("log_size", NUMBER, autoincrement=False, nullable=False),
        sa.Column("anchor", sa.Text(), nullable=False),
        sa.Column("receipt", sa.Text(), nullable=False),
        sa.Column("anchored_at", NUMBER, nullable=False),
        sa.ForeignKeyConstraint(["log_size"], ["checkpoints.log_size"], name=op.f("fk_anchor_receipts_log_size")),
        sa.PrimaryKeyConstraint("log_size", "anchor", name=op.f("pk_anchor_receipts")),
        comment="Where outside of this database a checkpoint was put, and what came back from there.",
        sqlite_strict=True,
    )
