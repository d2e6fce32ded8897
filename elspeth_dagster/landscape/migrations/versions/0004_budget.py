"""The operational table of budgets, which the steps of a run share."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "budget_shares",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("run_id", "node_id", "step_key", "holder")),
        *(
            sa.Column(name, NUMBER, nullable=False)
            for name in ("granted_nanousd", "granted_calls", "is_holding", "beats")
        ),
        sa.PrimaryKeyConstraint("run_id", "node_id", "step_key", name=op.f("pk_budget_shares")),
        comment="Operational, not evidence: how much of a budget a step may spend, or has spent when it is over.",
        sqlite_strict=True,
    )
