"""Operational tables: what processes at work tell each other. They are changed as they go, and are no evidence.

Nothing in the record is derived from them; seals, exports and guards leave them out. Whoever empties them while nothing
runs loses nothing.
"""

from __future__ import annotations

import sqlalchemy as sa

from elspeth_dagster.landscape import schema
from elspeth_dagster.landscape.columns import Name, Number

metadata = sa.MetaData(naming_convention=schema.metadata.naming_convention)

budget_shares = sa.Table(
    "budget_shares",
    metadata,
    sa.Column("run_id", Name, primary_key=True),
    sa.Column("node_id", Name, primary_key=True),
    sa.Column("step_key", Name, primary_key=True),
    sa.Column("holder", Name, nullable=False),
    sa.Column("granted_nanousd", Number, nullable=False),
    sa.Column("granted_calls", Number, nullable=False),
    sa.Column("is_holding", Number, nullable=False),
    sa.Column("beats", Number, nullable=False),
    comment="Operational, no evidence: how much of a budget a step may spend, or has spent when it is over.",
    sqlite_strict=True,
)
