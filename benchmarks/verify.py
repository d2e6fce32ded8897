"""What sealing and verifying a run cost, in time per record and in memory.

    python benchmarks/verify.py [--rows 1000 --rows 20000] [--landscape URL]

A run of so many rows with two questions each, 17 records a row, is put on record, sealed and verified: the records
against the seal, references, rules, and every payload. Microseconds are of CPU and of the clock, per record; memory is
the most that Python held on top meanwhile, by tracemalloc, in a second and slower pass.
"""

import tempfile
import time
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice

import click

from elspeth_dagster.landscape import auditing, runs, sealing
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.words import RunStatus
from elspeth_dagster_tests.landscape.sealed import begin_run, facts_of

AT_ONCE = 5000


@click.command(help=__doc__)
@click.option("--rows", "sizes", multiple=True, type=int, default=(1000, 20_000), show_default=True)
@click.option("--landscape", "url", help="A SQLAlchemy url of an empty database; default: a new SQLite file.")
def main(sizes: tuple[int, ...], url: str | None) -> None:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        landscape = stack.enter_context(Landscape.open(url or f"sqlite:///{folder}/landscape.sqlite"))
        for size in sizes:
            measure(landscape, size)


def measure(landscape: Landscape, rows: int) -> None:
    """Put a run on record, and tell what its seal and its verification take."""
    run_id = f"of-{rows}"
    begin_run(landscape, run_id)
    facts = facts_of(landscape, run_id, rows)
    while some := list(islice(facts, AT_ONCE)):
        landscape.write(*some)
    runs.end(landscape, run_id, RunStatus.FAILED, "a benchmark")
    sealed = timed(lambda: sealing.seal_ended(landscape))
    report = auditing.verify(landscape, [run_id])
    verified = timed(lambda: auditing.verify(landscape, [run_id]))
    memory = most_memory(lambda: auditing.verify(landscape, [run_id]))
    click.echo(
        f"{report.records:>9,} records, {report.payloads:>9,} payloads, {report.found} findings: "
        f"seal {per(sealed, report.records)}, verify {per(verified, report.records)}, {memory / 1e6:.1f} MB"
    )


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """The seconds that some work takes, of CPU and of the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - clock


def per(seconds: tuple[float, float], records: int) -> str:
    return f"{seconds[0] / records * 1e6:.1f} µs CPU ({seconds[1] / records * 1e6:.1f} by the clock)"


def most_memory(work: Callable[[], object]) -> int:
    """The most bytes that Python held on top while it worked."""
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


if __name__ == "__main__":
    main()
