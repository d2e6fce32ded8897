"""The operational table of budgets, which steps of a run share."""

from alembic import op

revision = "0004"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    number, strict = ("INTEGER", " STRICT") if is_sqlite else ("BIGINT", "")
    op.execute(
        "CREATE TABLE budget_shares (\n"
        "\trun_id TEXT NOT NULL, \n\tnode_id TEXT NOT NULL, \n\tstep_key TEXT NOT NULL, \n"
        "\tholder TEXT NOT NULL, \n"
        f"\tgranted_nanousd {number} NOT NULL, \n\tgranted_calls {number} NOT NULL, \n"
        f"\tis_holding {number} NOT NULL, \n\tbeats {number} NOT NULL, \n"
        "\tCONSTRAINT pk_budget_shares PRIMARY KEY (run_id, node_id, step_key)\n"
        f"){strict}"
    )
    if not is_sqlite:
        op.create_table_comment(
            "budget_shares",
            "Operational, no evidence: how much of a budget a step may spend, or has spent when it is over.",
        )
