"""Three PostgreSQL roles, so that who writes the record can't change it: owner, writer, reader.

Triggers refuse changes to everybody, but whoever owns a table can take its triggers off. So assessments run as a role
that doesn't own the tables: it may read and insert. Only operational tables, which are no evidence, it may change too.
What an erasure or a legal hold says is the owner's to record; so is a change of the schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from elspeth_dagster.core.errors import SettingsError
from elspeth_dagster.landscape import operating, schema
from elspeth_dagster.landscape.migrations import VERSION_TABLE

NAME = re.compile(r"[a-z_][a-z0-9_]{0,40}")
OF_THE_OWNER = frozenset(
    {
        schema.erasures.name,
        schema.erased_payloads.name,
        schema.erased_scopes.name,
        schema.legal_holds.name,
        schema.legal_hold_releases.name,
    }
)


def statements(in_schema: str = "public", prefix: str = "elspeth") -> Iterator[str]:
    """The SQL, a statement or comment a line; it may be run again. Raises SettingsError for names that need quotes."""
    for name in (in_schema, prefix):
        if not NAME.fullmatch(name):
            raise SettingsError(f"{name!r} is no name of at most 41 small letters, digits and underscores")
    owner, writer, reader = (f"{prefix}_{kind}" for kind in ("owner", "writer", "reader"))
    evidence = [table.name for table in schema.metadata.sorted_tables]
    operational = [table.name for table in operating.metadata.sorted_tables]
    yield "BEGIN;"
    for role in (owner, writer, reader):
        yield _made(role)
        yield f"GRANT USAGE ON SCHEMA {in_schema} TO {role};"
    yield f"REVOKE CREATE ON SCHEMA {in_schema} FROM PUBLIC;"
    yield f"GRANT CREATE ON SCHEMA {in_schema} TO {owner};"
    yield f"GRANT {owner} TO CURRENT_USER;"
    for table in [*evidence, *operational, VERSION_TABLE]:
        yield f"ALTER TABLE {in_schema}.{table} OWNER TO {owner};"
        yield f"REVOKE ALL ON {in_schema}.{table} FROM PUBLIC, {writer}, {reader};"
        yield f"GRANT SELECT ON {in_schema}.{table} TO {writer}, {reader};"
    for table in evidence:
        if table not in OF_THE_OWNER:
            yield f"GRANT INSERT ON {in_schema}.{table} TO {writer};"
    for table in operational:
        yield f"GRANT INSERT, UPDATE, DELETE ON {in_schema}.{table} TO {writer};"
    yield from _functions(in_schema, owner)
    yield "COMMIT;"


def _made(role: str) -> str:
    return f"DO $$ BEGIN CREATE ROLE {role} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"


def _functions(in_schema: str, owner: str) -> Iterator[str]:
    """The guards' functions: whoever owns one can make it say yes to everything."""
    found = f"SELECT p.oid::regprocedure AS name FROM pg_proc p WHERE p.pronamespace = '{in_schema}'::regnamespace"
    change = f"EXECUTE format('ALTER FUNCTION %s OWNER TO {owner}', guard.name);"
    yield (
        f"DO $$ DECLARE guard record; BEGIN FOR guard IN {found} AND p.proname LIKE 'landscape\\_%' "
        f"LOOP {change} END LOOP; END $$;"
    )
