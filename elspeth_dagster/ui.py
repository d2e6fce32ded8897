"""`make ui`: Dagster's web pages with this deployment, and the local model beside them where no provider is set.

Ctrl-C stops both.
"""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import click

from elspeth_dagster.core.settings import Settings


@click.command(help=__doc__)
@click.option("--cache", type=click.Path(path_type=Path), help="Where the model's weights are kept.")
@click.option("--port", default=3000, show_default=True, help="The port of Dagster's web pages.")
def main(cache: Path | None, port: int) -> None:
    settings = Settings.from_env(os.environ)
    with ExitStack() as started:
        if settings.provider == "local" and "OPENAI_BASE_URL" not in os.environ:
            from elspeth_dagster.llm.local import LocalModel

            click.echo("Starting the local model (the first time its 93 MB are fetched) …")
            log = Path(os.environ["DAGSTER_HOME"]) / "local_model.log"
            os.environ["OPENAI_BASE_URL"] = started.enter_context(LocalModel(log, cache=cache)).base_url
        click.echo(f"Dagster's pages will be at http://127.0.0.1:{port}")
        sys.exit(_dagster_dev(port))


def _dagster_dev(port: int) -> int:
    """Run `dagster dev` until it ends; Ctrl-C reaches it as well, and it is given time to stop."""
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            click.echo("Stopping …")


if __name__ == "__main__":
    main()
