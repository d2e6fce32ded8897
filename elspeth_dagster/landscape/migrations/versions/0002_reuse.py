"""What replies are found again by: the hash of the question, the idempotency key, the run's mode; and cost bounds."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

RUNS = (
    "A Dagster run that assesses: what was launched, by which code. root_run_id names the lineage: the runs that go on "
    "with what earlier ones were answered."
)
CALLS = (
    "One HTTP request, written before it is sent: by which state, for which row and question, which try. "
    "`question_hash` names what is asked, whatever form the answer must have; `bound_nanousd` is the most it can cost."
)


def upgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    binary, number = ("BLOB", "INTEGER") if is_sqlite else ("BYTEA", "BIGINT")
    _add("runs", "mode TEXT DEFAULT 'ask' NOT NULL", "mode_is_known", "mode IN ('ask', 'replay', 'verify')")
    _add("calls", f"question_hash {binary}", "question_hash_is_sha256", "length(question_hash) = 32")
    op.execute("ALTER TABLE calls ADD COLUMN idempotency_key TEXT")
    op.execute(f"ALTER TABLE calls ADD COLUMN bound_nanousd {number}")
    op.drop_index(op.f("ix_calls_request_ref"), table_name="calls")
    op.create_index(op.f("ix_calls_question_hash"), "calls", ["question_hash"], unique=False)
    if not is_sqlite:
        op.create_table_comment("runs", RUNS)
        op.create_table_comment("calls", CALLS)


def _add(table: str, column: str, name: str, condition: str) -> None:
    """A column with its CHECK; SQLite takes one for a table that is there only together with the column."""
    op.execute(f"ALTER TABLE {table} ADD COLUMN {column} CONSTRAINT ck_{table}_{name} CHECK ({condition})")
