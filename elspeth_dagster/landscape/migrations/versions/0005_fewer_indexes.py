"""Fewer indexes to write for every call: SQLite keeps answers and replies in the order of their keys."""

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.drop_index(op.f("ix_answers_token_id"), table_name="answers")
        for table in ("answers", "replies"):
            for statement in _made_anew(op.get_bind(), table):
                op.execute(statement)
        op.create_index(op.f("ix_answers_token_id"), "answers", ["token_id"], unique=False)


def _made_anew(connection: sa.Connection, table: str) -> Iterator[str]:
    """The table as it is but for its order. SQLite can't change one; nothing refers to these tables."""
    found = connection.scalar(sa.text("SELECT sql FROM sqlite_master WHERE name = :table"), {"table": table})
    made = str(found).rstrip()
    assert made.endswith("STRICT")
    yield f"ALTER TABLE {table} RENAME TO {table}_before"
    yield made.removesuffix("STRICT") + "WITHOUT ROWID,\n STRICT"
    yield f"INSERT INTO {table} SELECT * FROM {table}_before"
    yield f"DROP TABLE {table}_before"
