"""The schema's versions: a new database gets the newest, an older one is brought up on request, a newer one refused.

The version a landscape has is in its table `landscape_version`. It needs a database (on PostgreSQL: or a schema) of its
own, since others have tables called `runs` too; Dagster's storage does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from elspeth_dagster.core.errors import LandscapeError, SchemaVersionError
from elspeth_dagster.landscape import guards
from elspeth_dagster.landscape.schema import metadata

VERSION_TABLE = "landscape_version"
WRITING = 0x454C5350  # the PostgreSQL advisory lock that who writes shares, and who decides or upgrades holds alone
_one_at_a_time = threading.Lock()  # alembic's context is global to the process


def bring_up(engine: sa.Engine, *, create: bool, upgrade: bool) -> None:
    """See to it that the database has this package's schema.

    Raises SchemaVersionError when it has another one and may not be changed, LandscapeError when it is something else.
    """
    with engine.connect() as connection:
        found = version_of(connection)
        taken = () if found else set(sa.inspect(connection).get_table_names()) & set(metadata.tables)
    if found == newest():
        return
    if taken:
        raise LandscapeError(f"{named(engine)} holds tables of something else: give the landscape one of its own")
    if not ((found is None and create) or (upgrade and _is_known(found))):
        raise SchemaVersionError(_what_to_do(engine, found))
    _upgrade(engine)


def version_of(connection: sa.Connection) -> str | None:
    """The schema version a database has; None for a database without a landscape."""
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def newest() -> str:
    """The schema version this package works with."""
    return _newest_in(str(Path(__file__).parent))


@cache
def _newest_in(folder: str) -> str:
    """Read once: every opening asks for it, and alembic loads all versions anew."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None, folder
    return head


def named(engine: sa.Engine) -> str:
    """The database in words, without any password."""
    return f"the landscape at {engine.url.set(query={}).render_as_string(hide_password=True)}"


def _is_known(version: str | None) -> bool:
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    return version is None or version in known


def _what_to_do(engine: sa.Engine, found: str | None) -> str:
    if found is None:
        return f"{named(engine)} has no tables yet"
    if _is_known(found):
        return f"{named(engine)} has schema {found}, this package needs {newest()}: run `elspeth-dagster upgrade`"
    return f"{named(engine)} has schema {found}, newer than this package's {newest()}: install the newer package"


def _upgrade(engine: sa.Engine) -> None:
    with _one_at_a_time, _alone(engine) as connection:
        if (before := version_of(connection)) == newest():
            return  # another process was faster
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        guards.install(connection)
        if before is not None:
            _log_migration(connection, before)


def _log_migration(connection: sa.Connection, before: str) -> None:
    # Here, since what keeps the log reads the database that is opened here.
    from elspeth_dagster.landscape import installation_log

    installation_log.append(connection, installation_log.MIGRATION, **{"from": before, "to": newest()})


@contextmanager
def _alone(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction beside which no other upgrades or writes."""
    with engine.connect().execution_options(landscape_write=True) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(WRITING)))
        yield connection


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config
