"""What a call costs in a landscape that is larger and larger: to record, to explain, to collect.

    python benchmarks/landscape_size.py [--calls 10000 --calls 100000 --calls 1000000] [--rows 300] [--landscape URL]

At each size it measures a run of so many rows with ten questions each, a hundred calls in flight, and explains
the rows at the beginning, in the middle and at the end of the first, the middle and the last run. Costs are medians of
several runs, and ratios against the first size are what to compare; absolute figures are this machine's at this moment.
"""

import tempfile
import time
from contextlib import ExitStack
from statistics import median

import click
import sqlalchemy as sa
from filling import FilledRun, fill, fill_run

from elspeth_dagster.landscape.explaining import explain
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.schema import calls, rows, runs

IN_FLIGHT, REPEATS = 100, 3
SIZES = (10_000, 100_000, 1_000_000)
ROWS_A_RUN = 10_000


@click.command(help=__doc__)
@click.option("--calls", "sizes", multiple=True, type=int, default=SIZES, show_default=True)
@click.option("--rows", default=300, show_default=True, help="Rows of each run that is measured.")
@click.option("--landscape", "url", help="A SQLAlchemy url of an empty database; default: a new SQLite file.")
def main(sizes: tuple[int, ...], rows: int, url: str | None) -> None:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        landscape = stack.enter_context(Landscape.open(url or f"sqlite:///{folder}/landscape.sqlite"))
        measured = [at_size(landscape, size, rows) for size in sizes]
        for line in (*table(measured), *space(landscape)):
            click.echo(line)


def at_size(landscape: Landscape, size: int, rows: int) -> dict[str, float]:
    """Fill up to a size, and measure there, in milliseconds."""
    have = count(landscape)
    fill(landscape, max(0, size - have - REPEATS * rows * 10), ROWS_A_RUN)
    made = [fill_run(landscape, rows, IN_FLIGHT, collect=True) for _ in range(REPEATS)]
    slowest = explain_all(landscape)
    click.echo(f"{count(landscape)} calls on record", err=True)
    return {"calls": count(landscape), **costs(made, rows), **slowest}


def count(landscape: Landscape) -> int:
    with landscape.read() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(calls)) or 0


def costs(made: list[FilledRun], rows: int) -> dict[str, float]:
    """Milliseconds a call (to admit: a row)."""
    parts = {"admit, a row": ("admitting", rows), "insert": ("asking", rows * 10), "collect": ("collecting", rows * 10)}
    return {
        f"{name} {kind}": median(getattr(getattr(run, part), kind) for run in made) / number * 1000
        for name, (part, number) in parts.items()
        for kind in ("wall", "cpu")
    }


def explain_all(landscape: Landscape) -> dict[str, float]:
    took = []
    for run_id, keys in places(landscape):
        for key in keys:
            started = time.perf_counter()
            explain(landscape, run_id, key)
            took.append((time.perf_counter() - started) * 1000)
    return {"explain median": median(took), "explain slowest": max(took)}


def places(landscape: Landscape) -> list[tuple[str, list[str]]]:
    """The first, the middle and the last run, each with its first, middle and last row."""
    with landscape.read() as connection:
        all_runs = list(connection.scalars(sa.select(runs.c.run_id).order_by(runs.c.started_at)))
        chosen = [all_runs[0], all_runs[len(all_runs) // 2], all_runs[-1]]
        of_run = [
            (run, connection.scalar(sa.select(sa.func.max(rows.c.row_index)).where(rows.c.run_id == run)))
            for run in chosen
        ]
    return [(run, ["R0", f"R{(last or 0) // 2}", f"R{last}"]) for run, last in of_run]


def table(measured: list[dict[str, float]]) -> list[str]:
    """A line per cost: at each size, and as a ratio to the first."""
    lines = [f"{'ms':20}" + "".join(f"{int(at['calls']):>12,}{'ratio':>8}" for at in measured)]
    for name in list(measured[0])[1:]:
        cells = [f"{at[name]:>12.3f}{at[name] / measured[0][name]:>8.2f}" for at in measured]
        lines.append(f"{name:20}" + "".join(cells))
    return lines


def space(landscape: Landscape) -> list[str]:
    """Bytes a call by table and index, the largest first."""
    number = count(landscape)
    with landscape.read() as connection:
        if connection.dialect.name == "sqlite":
            query = "SELECT name, sum(pgsize) FROM dbstat GROUP BY name"
        else:
            query = (
                "SELECT relname, pg_relation_size(c.oid) + coalesce(pg_relation_size(nullif(reltoastrelid, 0)), 0) "
                "FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')"
            )
        found = sorted(connection.exec_driver_sql(query).all(), key=lambda pair: -pair[1])
    total = sum(size for _, size in found)
    lines = ["", f"{'bytes a call':50}{total / number:>10.0f}"]
    return lines + [f"  {name:48}{size / number:>10.1f}" for name, size in found if size / number >= 0.5]


if __name__ == "__main__":
    main()
