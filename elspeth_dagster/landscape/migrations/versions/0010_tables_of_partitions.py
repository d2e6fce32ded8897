"""A state may write a table of an asset for each of several partitions; each file once."""

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

COMMENT = "A file or table that was written: where, which bytes, how many rows. A state writes a file once."
BEFORE = ("uq_artifacts_state_id_asset_key", "(state_id, asset_key)")
AFTER = ("uq_artifacts_state_id_uri", "(state_id, uri)")


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for statement in _made_anew(op.get_bind()):
            op.execute(statement)
    else:
        op.drop_constraint(BEFORE[0], "artifacts", type_="unique")
        op.create_unique_constraint(AFTER[0], "artifacts", ["state_id", "uri"])
        op.create_table_comment("artifacts", COMMENT)


def _made_anew(connection: sa.Connection) -> Iterator[str]:
    """The table as it is but for its key. SQLite can't change one; nothing refers to this table."""
    made = str(connection.scalar(sa.text("SELECT sql FROM sqlite_master WHERE name = 'artifacts'")))
    before, after = (f"CONSTRAINT {name} UNIQUE {columns}" for name, columns in (BEFORE, AFTER))
    assert made.count(before) == 1, f"artifacts is not as the version before made it: {before}"
    yield "ALTER TABLE artifacts RENAME TO artifacts_before"
    yield made.replace(before, after)
    yield "INSERT INTO artifacts SELECT * FROM artifacts_before"
    yield "DROP TABLE artifacts_before"
