"""Operational tables: what processes tell each other while they work. None of it is evidence.

They are changed and may be emptied at any time when nothing runs. The record's guards, seals and exports know nothing
of them, and nothing in the record is derived from them.
"""

from __future__ import annotations

import sqlalchemy as sa

from elspeth_dagster.landscape.columns import Name, Number
from elspeth_dagster.landscape.schema import metadata as record

metadata = sa.MetaData(naming_convention=record.naming_convention)

limit_buckets = sa.Table(
    "limit_buckets",
    metadata,
    sa.Column("provider", Name, primary_key=True),
    sa.Column("account", Name, primary_key=True),
    sa.Column("model", Name, primary_key=True),
    sa.Column("unit", Name, primary_key=True),
    sa.Column("level_millionths", Number, nullable=False),
    sa.Column("filled_at_us", Number, nullable=False),
    sa.CheckConstraint("unit IN ('requests', 'tokens')", name="unit_is_known"),
    comment="Operational, not evidence: what is left of a limit per minute, shared by all who ask this model.",
    sqlite_strict=True,
)

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
    comment="Operational, not evidence: how much of a budget a step may spend, or has spent when it is over.",
    sqlite_strict=True,
)

inbox_files = sa.Table(
    "inbox_files",
    metadata,
    sa.Column("assessment", Name, primary_key=True),
    sa.Column("file", Name, primary_key=True),
    sa.Column("partition_key", Name, nullable=False),
    sa.Column("ordinal", Number, nullable=False),
    sa.UniqueConstraint("assessment", "partition_key", "ordinal"),
    comment="Operational, not evidence: which partition each file of an inbox was taken into. Emptied, every file that "
    "is still in the inbox is taken anew.",
    sqlite_strict=True,
)
