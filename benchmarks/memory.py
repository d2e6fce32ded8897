"""Peak memory of a whole run in one process: 100,000 rows beside 1,000 rows, ten questions each.

    python benchmarks/memory.py [--rows 1000 --rows 100000] [--questions 10] [--concurrency 100]

Each run is a real one, in a process of its own, against a provider that answers at once. Its memory is looked at fifty
times a second, and told for each step; the goal is 1.3 times at most for a hundred times the rows. The large run asks
a million questions: it takes some ten minutes. So do a million rows with one question each (--rows 1000000
--questions 1), which admit, aggregate and collect ten times as much.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import dagster as dg

from elspeth_dagster.core.ids import new_id
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project

TEXT = "The applicant describes the work in plain words, with figures where they matter. " * 12
MIB = 1 << 20


@click.command(help=__doc__)
@click.option("--rows", "sizes", multiple=True, type=int, default=(1_000, 100_000), show_default=True)
@click.option("--questions", default=10, show_default=True, help="How many each row is asked.")
@click.option("--concurrency", default=100, show_default=True)
@click.option("--in-folder", hidden=True, help="Run the project in this folder, which was prepared.")
def main(sizes: tuple[int, ...], questions: int, concurrency: int, in_folder: str | None) -> None:
    if in_folder is not None:
        click.echo(json.dumps(run_here(Path(in_folder))))
        return
    peaks = [measured(rows, questions, concurrency) for rows in sizes]
    click.echo(f"{'MiB':16}" + "".join(f"{rows:>12,}{'ratio':>8}" for rows in sizes))
    for step in peaks[0]:
        cells = [f"{peak.get(step, 0):>12.0f}{peak.get(step, 0) / peaks[0][step]:>8.2f}" for peak in peaks]
        click.echo(f"{step:16}" + "".join(cells))


def measured(rows: int, questions: int, concurrency: int) -> dict[str, float]:
    """The peaks of a run of so many rows, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder, FaultServer() as server:
        project = Project(Path(folder, "project"), f"sqlite:///{folder}/landscape.sqlite", server.base_url)
        project.declare(
            criteria=[{"name": f"c{n}"} for n in range(questions)],
            case_studies=[{"name": "cs1", "inputs": {"text": "cs1_text"}}],
            aggregate={"rows": 50},
        )
        write_rows(project.folder / "data" / "rows.csv", rows)
        env = {**os.environ, **project.env, "ELSPETH_MAX_CONCURRENCY": str(concurrency)}
        command = [sys.executable, __file__, "--in-folder", str(project.folder)]
        started = time.perf_counter()
        told = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
        click.echo(f"{rows} rows took {time.perf_counter() - started:.0f} s", err=True)
    return dict(json.loads(told.stdout.splitlines()[-1]))


def write_rows(path: Path, rows: int) -> None:
    path.parent.mkdir(parents=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "cs1_text", "cs2_text"])
        writer.writerows([f"R{n}", f"{n} {TEXT}", f"{TEXT} {n}"] for n in range(rows))


def run_here(folder: Path) -> dict[str, float]:
    """Run the project's job in this process; the peak of each step, and of all."""
    from elspeth_dagster_tests.project import load_definitions

    with dg.DagsterInstance.get() as instance, sampled() as samples:
        job = load_definitions(folder).resolve_job_def("trial_job")
        result = job.execute_in_process(instance=instance, run_id=new_run_id())
        assert result.success
        steps = instance.get_run_step_stats(result.run_id)
    peaks: dict[str, float] = {}
    for step in steps:
        name = step.step_key.partition(".")[2].partition("[")[0]
        within = [mib for at, mib in samples if (step.start_time or 0) <= at <= (step.end_time or 0)]
        peaks[name] = max(peaks.get(name, 0), *within, 0)
    for step in steps:
        click.echo(f"{step.step_key} took {(step.end_time or 0) - (step.start_time or 0):.0f} s", err=True)
    return {**peaks, "peak": max(mib for _, mib in samples)}


def new_run_id() -> str:
    return dg.DagsterRun(job_name=new_id()).run_id


@contextmanager
def sampled() -> Iterator[list[tuple[float, float]]]:
    """Instants and this process's resident MiB at them, for as long as the block runs."""
    samples = [(time.time(), resident())]
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            samples.append((time.time(), resident()))

    thread = threading.Thread(target=look)
    thread.start()
    yield samples
    over.set()
    thread.join()


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


if __name__ == "__main__":
    main()
