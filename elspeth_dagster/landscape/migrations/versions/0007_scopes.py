"""What is about a row is named under a key of the row's scope, and can lean on the row's text; what was recorded before
keeps its names. Calls are found through their rows' scopes, and no longer by an index of their own."""
# ruff: noqa: E501

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
PAYLOADS = "Bytes under a name that follows from them: their SHA-256, or the HMAC of it by their scope's key. `dictionary_ref` names the bytes that a compressed body leans on, before the common dictionary."
IS_NAMED = "length(ref) = CASE WHEN scope_id IS NULL THEN 32 ELSE 37 END"
HASH_IS_NAMED = "length(question_hash) IN (32, 37)"
# An own key for the scope of each row that is there; nobody else knows one.
RANDOM = {
    "sqlite": "randomblob(32)",
    "postgresql": "sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))",
}
SCOPES_OF_ROWS = (
    "INSERT INTO scopes (scope_id, assessment, kind, subject, ordinal, naming_key) "
    "SELECT row_number() OVER (ORDER BY assessment, row_key), assessment, 'row', row_key, 1, {random} "
    "FROM (SELECT DISTINCT n.assessment, r.row_key FROM rows r "
    "JOIN nodes n ON n.run_id = r.run_id AND n.node_id = r.node_id) AS found"
)
ROWS_TO_SCOPES = (
    "UPDATE rows SET scope_id = (SELECT s.scope_id FROM scopes s JOIN nodes n ON n.assessment = s.assessment "
    "WHERE s.kind = 'row' AND s.subject = rows.row_key AND n.run_id = rows.run_id AND n.node_id = rows.node_id)"
)


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    _make_scopes()
    op.drop_index(op.f("ix_calls_question_hash"), table_name="calls")
    for statement in _sqlite() if dialect == "sqlite" else _postgresql():
        op.execute(statement)
    op.execute(SCOPES_OF_ROWS.format(random=RANDOM[dialect]))
    op.execute(f"DROP TRIGGER IF EXISTS {'rows_no_update' if dialect == 'sqlite' else 'rows_no_change ON rows'}")
    op.execute(ROWS_TO_SCOPES)
    op.create_index(op.f("ix_rows_scope_id"), "rows", ["scope_id"], unique=False)


def _make_scopes() -> None:
    op.create_table(
        "scopes",
        sa.Column("scope_id", NUMBER, autoincrement=False, nullable=False),
        sa.Column("assessment", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("ordinal", NUMBER, autoincrement=False, nullable=False),
        sa.Column("naming_key", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("kind IN ('row', 'run')", name=op.f("ck_scopes_kind_is_known")),
        sa.CheckConstraint("length(naming_key) IN (0, 32)", name=op.f("ck_scopes_key_is_whole_or_gone")),
        sa.CheckConstraint("scope_id BETWEEN 1 AND 1099511627775", name=op.f("ck_scopes_fits_a_name")),
        sa.PrimaryKeyConstraint("scope_id", name=op.f("pk_scopes")),
        sa.UniqueConstraint(
            "assessment", "kind", "subject", "ordinal", name=op.f("uq_scopes_assessment_kind_subject_ordinal")
        ),
        comment="What is erased together, with the key that names its payloads: whatever is about the row with this key, in any run; or the records of a run that became no row. A subject that was erased and comes again has a next ordinal.",
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )


def _postgresql() -> Iterator[str]:
    yield "ALTER TABLE payloads DROP CONSTRAINT ck_payloads_ref_is_sha256"
    yield "ALTER TABLE payloads ADD COLUMN scope_id BIGINT CONSTRAINT fk_payloads_scope_id REFERENCES scopes (scope_id)"
    yield "ALTER TABLE payloads ADD COLUMN dictionary_ref BYTEA CONSTRAINT fk_payloads_dictionary_ref REFERENCES payloads (ref)"
    yield f"ALTER TABLE payloads ADD CONSTRAINT ck_payloads_ref_is_named CHECK ({IS_NAMED})"
    yield f"COMMENT ON TABLE payloads IS $${PAYLOADS}$$"
    yield "ALTER TABLE rows ADD COLUMN scope_id BIGINT CONSTRAINT fk_rows_scope_id REFERENCES scopes (scope_id)"
    yield "ALTER TABLE calls DROP CONSTRAINT ck_calls_question_hash_is_sha256"
    yield f"ALTER TABLE calls ADD CONSTRAINT ck_calls_question_hash_is_named CHECK ({HASH_IS_NAMED})"


def _sqlite() -> Iterator[str]:
    """SQLite takes no other CHECK for a table that others refer to; its text is changed as SQLite's own page has it.

    A column that is NULL where it wasn't needs no change of what is stored
    (https://www.sqlite.org/lang_altertable.html#otheralter).
    """
    yield "PRAGMA writable_schema = ON"
    yield _rewritten(
        "payloads",
        ("\n\tCONSTRAINT pk_payloads", "\n\tscope_id INTEGER, \n\tdictionary_ref BLOB, \n\tCONSTRAINT pk_payloads"),
        (
            "CONSTRAINT ck_payloads_ref_is_sha256 CHECK (length(ref) = 32)",
            f"CONSTRAINT ck_payloads_ref_is_named CHECK ({IS_NAMED}), "
            "\n\tCONSTRAINT fk_payloads_scope_id FOREIGN KEY(scope_id) REFERENCES scopes (scope_id), "
            "\n\tCONSTRAINT fk_payloads_dictionary_ref FOREIGN KEY(dictionary_ref) REFERENCES payloads (ref)",
        ),
    )
    yield _rewritten(
        "rows",
        ("\n\tCONSTRAINT pk_rows", "\n\tscope_id INTEGER, \n\tCONSTRAINT pk_rows"),
        (
            "\n\tCONSTRAINT fk_rows_values_ref",
            "\n\tCONSTRAINT fk_rows_scope_id FOREIGN KEY(scope_id) REFERENCES scopes (scope_id), "
            "\n\tCONSTRAINT fk_rows_values_ref",
        ),
    )
    yield _rewritten(
        "calls",
        (
            "ck_calls_question_hash_is_sha256 CHECK (length(question_hash) = 32)",
            f"ck_calls_question_hash_is_named CHECK ({HASH_IS_NAMED})",
        ),
    )
    yield "PRAGMA writable_schema = RESET"


def _rewritten(table: str, *changes: tuple[str, str]) -> str:
    found = op.get_bind().scalar(sa.text("SELECT sql FROM sqlite_master WHERE name = :table"), {"table": table})
    text = str(found)
    for old, new in changes:
        assert text.count(old) == 1, f"{table} is not as the version before made it: {old}"
        text = text.replace(old, new)
    return f"UPDATE sqlite_master SET sql = '{text.replace(chr(39), chr(39) * 2)}' WHERE type = 'table' AND name = '{table}'"
