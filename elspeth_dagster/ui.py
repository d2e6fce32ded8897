"""`make ui`: Dagster's web pages with this deployment, the explorer beside them, linked from each materialization.

Where no provider is set, the local model is started too. Ctrl-C stops all of them.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from elspeth_dagster.core.settings import Settings
from elspeth_dagster.landscape.ledger import Landscape

HERE = "127.0.0.1"
EXPLORER_PORT = 3001
SECONDS_TO_STOP = 10


@click.command(help=__doc__)
@click.option("--cache", type=click.Path(path_type=Path), help="Where the model's weights are kept.")
@click.option("--port", default=3000, show_default=True, help="The port of Dagster's web pages.")
@click.option("--explorer-port", default=EXPLORER_PORT, show_default=True, help="The port of the explorer.")
def main(cache: Path | None, port: int, explorer_port: int) -> None:
    settings = Settings.from_env(os.environ)
    with ExitStack() as started:
        if settings.provider == "local" and "OPENAI_BASE_URL" not in os.environ:
            from elspeth_dagster.llm.local import LocalModel

            click.echo("Starting the local model (the first time its 93 MB are fetched) …")
            log = Path(os.environ["DAGSTER_HOME"]) / "local_model.log"
            os.environ["OPENAI_BASE_URL"] = started.enter_context(LocalModel(log, cache=cache)).base_url
        dagster = f"http://{HERE}:{port}"
        link_to_explorer(explorer_port)
        started.enter_context(explorer_beside(settings.landscape_url, explorer_port, dagster))
        click.echo(f"Dagster's pages will be at {dagster}")
        sys.exit(_dagster_dev(port))


def link_to_explorer(port: int = EXPLORER_PORT) -> None:
    """Let materializations link to the explorer that `make ui` starts, unless they link to another one."""
    os.environ.setdefault("ELSPETH_EXPLORER_URL", f"http://{HERE}:{port}")


@contextmanager
def explorer_beside(landscape_url: str, port: int, dagster_url: str) -> Iterator[None]:
    """The explorer for as long as the block runs: it prints its address, or why it can't be there."""
    Landscape.open(landscape_url).close()  # it only reads, and there may be no landscape yet
    options = ["--host", HERE, "--port", str(port), "--dagster-url", dagster_url]
    command = [sys.executable, "-c", "from elspeth_dagster.cli import main; main()", "explorer", *options]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()


def _dagster_dev(port: int) -> int:
    """Run `dagster dev` until it ends; Ctrl-C reaches it as well, and it is given time to stop."""
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", HERE, "-p", str(port)]
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            click.echo("Stopping …")


if __name__ == "__main__":
    main()
