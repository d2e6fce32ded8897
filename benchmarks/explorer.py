"""What the explorer's pages cost over a landscape of 100,000 calls: rows × ten questions, and a second run beside it.

    python benchmarks/explorer.py [--rows 10000] [--landscape URL] [--limit 1]

Each page is asked for over HTTP, by one reader after the other, from a server in a process of its own. The time is the
median of several loads, the first one apart; the ratio is to a file of a few hundred bytes from the same server, which
tells how busy the machine is. Exits with 1 where a page takes longer than `--limit` seconds.
"""

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import click
import sqlalchemy as sa
from filling import fill_run

from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.schema import batches, calls, runs

LOADS = 5
SECONDS_TO_START = 30
NAME = "bench"


@click.command(help=__doc__)
@click.option("--rows", default=10_000, show_default=True, help="Rows of each of the two runs, ten questions each.")
@click.option(
    "--landscape", "url", help="A SQLAlchemy url of a landscape, filled if it has no run; default: a new one."
)
@click.option("--limit", default=1.0, show_default=True, help="Seconds that a page may take.")
@click.option("--port", default=18_800, show_default=True)
def main(rows: int, url: str | None, limit: float, port: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = url or f"sqlite:///{folder}/landscape.sqlite"
        first, second = filled(url, rows)
        with served(url, port) as address:
            measured = {name: loads(address + path) for name, path in pages(url, first, second, rows).items()}
        report(measured, limit)


def filled(url: str, rows: int) -> tuple[str, str]:
    """The ids of the two newest runs, after there are two."""
    with Landscape.open(url) as landscape:
        for _ in range(2 - len(run_ids(landscape))):
            fill_run(landscape, rows, 500, collect=True)
        first, second = run_ids(landscape)[-2:]
    return first, second


def run_ids(landscape: Landscape) -> list[str]:
    with landscape.read() as connection:
        return list(connection.scalars(sa.select(runs.c.run_id).order_by(runs.c.started_at)))


@contextmanager
def served(url: str, port: int) -> Iterator[str]:
    """The address of an explorer in a process of its own."""
    command = [sys.executable, "-c", "from elspeth_dagster.cli import main; main()", "explorer", "--port", str(port)]
    server = subprocess.Popen([*command, "--landscape", url], stderr=subprocess.DEVNULL, env=dict(os.environ))
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address)
        yield address
    finally:
        server.terminate()
        server.wait()


def wait_for(address: str) -> None:
    until = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            load(f"{address}/assets/icon.svg")
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def pages(url: str, run: str, other: str, rows: int) -> dict[str, str]:
    """An address of every page; the first is the one that others are held against."""
    of_run, grid, middle = f"/runs/{run}", f"/runs/{run}/{NAME}/grid", rows // 2
    return {
        "a file": "/assets/icon.svg",
        "runs": "/",
        "runs, dearest first": "/?order=dearest",
        "run": of_run,
        "batch": f"{of_run}/batches/{a_batch(url, run)}",
        "row": f"{of_run}/{NAME}/rows/{middle}",
        "cell": f"{of_run}/{NAME}/rows/{middle}/cs2_c4",
        "find a row": f"{of_run}/find?key=R{middle}",
        "grid": grid,
        "grid, in the middle": f"{grid}?after={middle}",
        "grid, last page": f"{grid}?before=end",
        "grid, by key": f"{grid}?order=key&descending=yes",
        "grid, by a value": f"{grid}?order=cs1_c0&descending=yes",
        "grid, failed": f"{grid}?failed=yes",
        "grid, missing": f"{grid}?missing=yes",
        "grid, retried": f"{grid}?retried=yes",
        "grid, reused": f"{grid}?reused=yes",
        "grid, text found": f"{grid}?text=honest",
        "grid, text not found": f"{grid}?text=nowhere-to-be-found",
        "grid, score above all": f"{grid}?least=101",
        "grid, one score above all": f"{grid}?least=101&question=cs1_c1",
        "grid, all filters": f"{grid}?failed=yes&retried=yes&text=x&least=5&other={other}&order=cs1_c0",
        "grid, differs": f"{grid}?other={other}",
        "compare": f"{of_run}/{NAME}/compare?other={other}",
        "distributions": f"{of_run}/{NAME}/distribution",
        "distribution of one": f"{of_run}/{NAME}/distribution?question=cs2_c0",
    }


def a_batch(url: str, run: str) -> str:
    database = Database.open(url, create=False)
    with database.read() as connection:
        found = connection.scalar(sa.select(batches.c.batch_id).where(batches.c.run_id == run).limit(1))
        number = connection.scalar(sa.select(sa.func.count()).select_from(calls))
    database.close()
    click.echo(f"{number:,} calls on record", err=True)
    return str(found)


def load(address: str) -> float:
    """Seconds until a page was there, whole."""
    started = time.perf_counter()
    with urllib.request.urlopen(address, timeout=60) as answer:
        answer.read()
    return time.perf_counter() - started


def loads(address: str) -> list[float]:
    return [load(address) for _ in range(LOADS)]


def report(measured: dict[str, list[float]], limit: float) -> None:
    """A line per page; exits with 1 when one is too slow."""
    trivial = median(next(iter(measured.values()))[1:])
    click.echo(f"{'page':28}{'first, ms':>11}{'then, ms':>11}{'ratio':>8}")
    for name, took in measured.items():
        then = median(took[1:])
        late = "  too slow" if max(took[0], then) > limit else ""
        click.echo(f"{name:28}{took[0] * 1000:>11.0f}{then * 1000:>11.1f}{then / trivial:>8.0f}{late}")
    if any(max(took[0], median(took[1:])) > limit for took in measured.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
