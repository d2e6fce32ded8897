"""What was erased, by whom and why; and what may not be, since it is held."""
# ruff: noqa: E501

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _erasures()
    _holds()


def _erasures() -> None:
    op.create_table(
        "erasures",
        sa.Column("erasure_id", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("erased_by", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("at", NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("erasure_id", name=op.f("pk_erasures")),
        comment="That bytes were erased: why, by whom, and what was asked to be erased, a JSON object.",
        sqlite_strict=True,
    )
    op.create_table(
        "erased_payloads",
        sa.Column("ref", sa.LargeBinary(), nullable=False),
        sa.Column("erasure_id", sa.Text(), nullable=False),
        sa.Column("scope_id", NUMBER, nullable=True),
        sa.ForeignKeyConstraint(["ref"], ["payloads.ref"], name=op.f("fk_erased_payloads_ref")),
        sa.ForeignKeyConstraint(["erasure_id"], ["erasures.erasure_id"], name=op.f("fk_erased_payloads_erasure_id")),
        sa.ForeignKeyConstraint(["scope_id"], ["scopes.scope_id"], name=op.f("fk_erased_payloads_scope_id")),
        sa.PrimaryKeyConstraint("ref", name=op.f("pk_erased_payloads")),
        comment="A payload whose body an erasure has emptied: its name and size are left.",
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_erased_payloads_scope_id"), "erased_payloads", ["scope_id"], unique=False)
    op.create_table(
        "erased_scopes",
        sa.Column("scope_id", NUMBER, autoincrement=False, nullable=False),
        sa.Column("erasure_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["scope_id"], ["scopes.scope_id"], name=op.f("fk_erased_scopes_scope_id")),
        sa.ForeignKeyConstraint(["erasure_id"], ["erasures.erasure_id"], name=op.f("fk_erased_scopes_erasure_id")),
        sa.PrimaryKeyConstraint("scope_id", name=op.f("pk_erased_scopes")),
        comment="A scope whose key an erasure has destroyed: nothing of it was left that the key names.",
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )


def _holds() -> None:
    op.create_table(
        "legal_holds",
        sa.Column("hold_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("assessment", sa.Text(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("held_by", sa.Text(), nullable=False),
        sa.Column("held_at", NUMBER, nullable=False),
        sa.CheckConstraint("kind IN ('row', 'run')", name=op.f("ck_legal_holds_kind_is_known")),
        sa.PrimaryKeyConstraint("hold_id", name=op.f("pk_legal_holds")),
        comment="That nothing of a run, or nothing about a row (of one assessment, or of any), may be erased until it is released.",
        sqlite_strict=True,
    )
    op.create_table(
        "legal_hold_releases",
        sa.Column("hold_id", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("released_by", sa.Text(), nullable=False),
        sa.Column("released_at", NUMBER, nullable=False),
        sa.ForeignKeyConstraint(["hold_id"], ["legal_holds.hold_id"], name=op.f("fk_legal_hold_releases_hold_id")),
        sa.PrimaryKeyConstraint("hold_id", name=op.f("pk_legal_hold_releases")),
        comment="That a legal hold is over.",
        sqlite_strict=True,
    )
