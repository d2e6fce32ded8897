"""`explorer`: the web pages."""

from __future__ import annotations

import click

from elspeth_dagster.cli.options import landscape_option
from elspeth_dagster.cli.printing import remark


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=3001, show_default=True, help="The port; 0: any.")
@click.option(
    "--token",
    envvar="ELSPETH_EXPLORER_TOKEN",
    metavar="TEXT",
    help="What a reader must know, 16 characters or more. Default: ELSPETH_EXPLORER_TOKEN, which no list of processes "
    "shows.",
)
@click.option("--name", "names", multiple=True, help="A name it is reached by, behind a proxy. May be given again.")
@click.option("--dagster-url", metavar="URL", help="Dagster's own pages, to link runs to: http://127.0.0.1:3000")
@click.option("--hide-token", is_flag=True, help="Print the address without the token: where what is printed is kept.")
@landscape_option
def explorer(
    host: str,
    port: int,
    token: str | None,
    names: tuple[str, ...],
    dagster_url: str | None,
    hide_token: bool,
    url: str,
) -> None:
    """Serve web pages to read the landscape with, until Ctrl-C.

    Runs, their rows, each question with its prompt, reply and answer. The database is opened for reading only. The
    pages have no login: they are served on this machine alone, unless a token is set. It goes into the address once,
    then the browser keeps it.

    \b
    elspeth-dagster explorer
    elspeth-dagster explorer --port 8001 --dagster-url http://127.0.0.1:3000
    ELSPETH_EXPLORER_TOKEN=… elspeth-dagster explorer --host 0.0.0.0 --name audit.example.org
    """
    from elspeth_dagster.explorer import serving

    serving.serve(url, serving.Serving(host, port, token, names, dagster_url, hide_token), remark)
