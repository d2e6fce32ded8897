"""Fewer indexes to write for every call. The key of an answer begins with its row's token, which it is looked up by;
SQLite keeps answers and replies in the order of their keys."""

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

OLD, NEW = "PRIMARY KEY (state_id, token_id, query_key)", "PRIMARY KEY (token_id, state_id, query_key)"


def upgrade() -> None:
    op.drop_index(op.f("ix_answers_token_id"), table_name="answers")
    if op.get_bind().dialect.name == "sqlite":
        for table in ("answers", "replies"):
            for statement in _made_anew(op.get_bind(), table):
                op.execute(statement)
    else:
        op.execute(f"ALTER TABLE answers DROP CONSTRAINT pk_answers, ADD CONSTRAINT pk_answers {NEW}")


def _made_anew(connection: sa.Connection, table: str) -> Iterator[str]:
    """The table as it is but for its key. SQLite can't change one; nothing refers to these tables."""
    made = str(
        connection.scalar(sa.text("SELECT sql FROM sqlite_master WHERE name = :table"), {"table": table})
    ).rstrip()
    assert made.endswith("STRICT")
    yield f"ALTER TABLE {table} RENAME TO {table}_before"
    yield made.replace(OLD, NEW).removesuffix("STRICT") + "WITHOUT ROWID,\n STRICT"
    yield f"INSERT INTO {table} SELECT * FROM {table}_before"
    yield f"DROP TABLE {table}_before"
