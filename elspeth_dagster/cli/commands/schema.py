"""`upgrade` and `roles`: the tables, and who may do what with them."""

from __future__ import annotations

import click

from elspeth_dagster.cli.options import landscape_option
from elspeth_dagster.cli.printing import show


@click.command()
@click.option("--print", "printed", is_flag=True, required=True, help="Print the SQL; nothing is run.")
@click.option("--schema", default="public", show_default=True, help="The PostgreSQL schema that holds the landscape.")
@click.option("--prefix", default="elspeth", show_default=True, help="What the roles' names begin with.")
def roles(printed: bool, schema: str, prefix: str) -> None:
    """Print SQL that gives a PostgreSQL landscape three roles.

    PREFIX_owner owns the tables: it upgrades and erases. PREFIX_writer runs assessments: it reads and inserts, and
    changes nothing but operational tables. PREFIX_reader reads. Run it as who may create roles and owns the tables,
    after `upgrade` and after every later one; then let people and services log in as members of these roles.

    \b
    elspeth-dagster roles --print | psql "$ELSPETH_LANDSCAPE_URL"
    """
    from elspeth_dagster.landscape.roles import statements

    for statement in statements(schema, prefix):
        click.echo(statement)


@click.command()
@landscape_option
def upgrade(url: str) -> None:
    """Bring the landscape's schema up to date.

    Makes the tables where there are none. Facts stay as they are. A landscape that is newer than this package is left
    alone.
    """
    from elspeth_dagster.landscape import database, migrations

    found = database.Database(database._engine(url, create=True))
    with found.read() as connection:
        before = migrations.version_of(connection)
    found.close()
    database.Database.open(url, upgrade=True).close()
    where, now = migrations.named(found.engine), migrations.newest()
    if before == now:
        show([f"{where} is up to date: its schema is {now}."])
    else:
        show([f"{where} had {f'schema {before}' if before else 'no tables'}, now it has schema {now}."])
