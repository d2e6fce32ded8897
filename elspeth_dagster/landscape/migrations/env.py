"""How alembic runs our migrations: on the connection it is given, in that connection's transaction."""

from alembic import context

from elspeth_dagster.landscape.migrations import VERSION_TABLE
from elspeth_dagster.landscape.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=False,
    transactional_ddl=True,
)
context.run_migrations()
