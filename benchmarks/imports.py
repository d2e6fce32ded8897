"""How long `dagster definitions validate` takes for the sample project, beside an empty Dagster project.

    python benchmarks/imports.py [--times 9]

Runs alternate; the ratio of the medians is what to compare. The goal is 1.5 at most.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import click

VALIDATE = [sys.executable, "-m", "dagster", "definitions", "validate"]
EMPTY = "import dagster as dg\n\ndefs = dg.Definitions()\n"


@click.command(help=__doc__)
@click.option("--times", default=9, show_default=True)
def main(times: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        Path(folder, "nothing_defined.py").write_text(EMPTY)
        took: dict[str, list[float]] = {"nothing_defined": [], "elspeth_dagster.definitions": []}
        for _ in range(times):
            for module, seconds in took.items():
                seconds.append(validate(module, folder))
    for module, seconds in took.items():
        click.echo(f"{module:32}{median(seconds):>8.2f} s   ({min(seconds):.2f} to {max(seconds):.2f})")
    empty, ours = map(median, took.values())
    click.echo(f"\nratio {ours / empty:.2f}")


def validate(module: str, folder: str) -> float:
    """Seconds to load and validate a module's definitions in a new process."""
    path = os.pathsep.join([folder, *filter(None, sys.path)])
    env = {**os.environ, "DAGSTER_HOME": folder, "PYTHONPATH": path}
    started = time.perf_counter()
    subprocess.run([*VALIDATE, "-m", module], cwd=folder, env=env, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
