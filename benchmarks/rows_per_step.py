"""Whole runs with a process per step: how many rows a step takes, and how its process is started.

    python benchmarks/rows_per_step.py [--rows 2000] [--rows-per-step 100 …] [--latency-ms 0 --latency-ms 50]

Two steps at a time, ten questions a row. Calls a second, and CPU, of the whole run, its start and end included; ratios
within one run of this script are what to compare. What a fork server's processes use can't be counted from here.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import click
import dagster as dg
from memory import write_rows

from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project, job_of_folder

PRELOADED = ["elspeth_dagster.ops", "elspeth_dagster.collecting", "elspeth_dagster.llm.wire"]
START_METHODS = {
    "spawn": {"spawn": {}},
    "forkserver": {"forkserver": {}},
    "preloaded": {"forkserver": {"preload_modules": PRELOADED}},
}


@click.command(help=__doc__)
@click.option("--rows", default=2000, show_default=True)
@click.option("--rows-per-step", "sizes", multiple=True, type=int, default=(100, 300, 1000, 2000), show_default=True)
@click.option("--latency-ms", "latencies", multiple=True, type=int, default=(0, 50), show_default=True)
@click.option(
    "--start", "starts", multiple=True, type=click.Choice(list(START_METHODS)), default=["spawn", "preloaded"]
)
@click.option("--concurrency", default=100, show_default=True, help="Requests in flight in each step.")
@click.option("--in-folder", hidden=True, help="Run the project in this folder, which was prepared.")
def main(
    rows: int,
    sizes: tuple[int, ...],
    latencies: tuple[int, ...],
    starts: tuple[str, ...],
    concurrency: int,
    in_folder: str | None,
) -> None:
    if in_folder is not None:
        run_here(in_folder, starts[0])
        return
    click.echo(f"{'start':12}{'latency':>8}{'rows a step':>12}{'steps':>7}{'s':>8}{'calls/s':>10}{'CPU s':>8}")
    for latency, start, size in product(latencies, starts, sizes):
        seconds, cpu = measured(rows, size, latency, start, concurrency)
        steps, told = -(-rows // size), f"{cpu:.1f}" if start == "spawn" else ""
        click.echo(f"{start:12}{latency:>8}{size:>12}{steps:>7}{seconds:>8.1f}{rows * 10 / seconds:>10.0f}{told:>8}")


def measured(rows: int, size: int, latency_ms: int, start: str, concurrency: int) -> tuple[float, float]:
    """Seconds of a whole run, on the clock and of CPU, all its processes together."""
    with tempfile.TemporaryDirectory() as folder, FaultServer(latency_ms=latency_ms) as server:
        project = Project(Path(folder, "project"), f"sqlite:///{folder}/landscape.sqlite", server.base_url)
        project.declare(criteria=[{"name": f"c{n}"} for n in range(5)], aggregate={"rows": 50}, rows_per_step=size)
        write_rows(project.folder / "data" / "rows.csv", rows)
        env = {**os.environ, **project.env, "ELSPETH_MAX_CONCURRENCY": str(concurrency)}
        command = [sys.executable, __file__, "--in-folder", str(project.folder), "--start", start]
        before = cpu_of_children()
        told = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        return float(told.stdout.splitlines()[-1]), cpu_of_children() - before


def cpu_of_children() -> float:
    """Of all processes that this one has waited for, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_here(folder: str, start: str) -> None:
    job = dg.build_reconstructable_job(
        job_of_folder.__module__, job_of_folder.__name__, (folder, "trial_job", ""), {}, str(Path(__file__).parents[1])
    )
    multiprocess = {"max_concurrent": 2, "start_method": START_METHODS[start]}
    with dg.DagsterInstance.get() as instance:
        began = time.perf_counter()
        result = dg.execute_job(
            job, instance=instance, run_config={"execution": {"config": {"multiprocess": multiprocess}}}
        )
        assert result.success
        click.echo(f"{time.perf_counter() - began}")


if __name__ == "__main__":
    main()
