"""The schema's versions: a new database gets the newest, an older one is brought up on request, a newer one refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from elspeth_dagster.core.errors import SchemaVersionError
from elspeth_dagster.landscape import guards

ONE_AT_A_TIME = 0x454C5350  # the PostgreSQL advisory lock that upgrades take


def bring_up(engine: sa.Engine, *, create: bool, upgrade: bool) -> None:
    """See to it that the database has this package's schema.

    Raises SchemaVersionError when it has another one and may not be changed.
    """
    found = version_of(engine)
    if found == newest():
        return
    if (found is None and create) or (upgrade and _is_known(found)):
        _upgrade(engine)
        return
    raise SchemaVersionError(_what_to_do(engine, found))


def version_of(engine: sa.Engine) -> str | None:
    """The schema version a database has; None for a database without tables of ours."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def newest() -> str:
    """The schema version this package works with."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def _is_known(version: str | None) -> bool:
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    return version is None or version in known


def _what_to_do(engine: sa.Engine, found: str | None) -> str:
    where = f"the landscape at {engine.url!r}"
    if found is None:
        return f"{where} has no tables yet"
    if _is_known(found):
        return f"{where} has schema {found}, this package needs {newest()}: run `elspeth-dagster upgrade`"
    return f"{where} has schema {found}, newer than this package's {newest()}: install the newer package"


def _upgrade(engine: sa.Engine) -> None:
    with _alone(engine) as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        guards.install(connection)


@contextmanager
def _alone(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that no other upgrade runs beside."""
    with engine.connect().execution_options(landscape_write=True) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ONE_AT_A_TIME)))
        yield connection


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config
