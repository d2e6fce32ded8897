"""How alembic runs our migrations: on the connection it is given, in that connection's transaction."""

from alembic import context

from elspeth_dagster.landscape import operating, schema
from elspeth_dagster.landscape.migrations import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=[schema.metadata, operating.metadata],
    version_table=VERSION_TABLE,
    render_as_batch=False,
    transactional_ddl=True,
)
context.run_migrations()
