"""`make demo`: one slice of the sample, asked of the local model in a real Dagster run, and what came of it.

The definitions are those that `make ui` shows, the Dagster instance is the one in DAGSTER_HOME, so the run is there to
look at afterwards. What this starts it stops.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import dagster as dg
import pandas as pd
import sqlalchemy as sa

from elspeth_dagster.core.settings import Settings
from elspeth_dagster.landscape import runs
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Run
from elspeth_dagster.landscape.schema import answers, calls, replies, rows, tokens
from elspeth_dagster.landscape.schema import runs as runs_table
from elspeth_dagster.landscape.words import TokenKind
from elspeth_dagster.ui import link_to_explorer

ASSESSMENT = "case_studies"
POLL_SECONDS = 1.0
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
NANO = 1e9


@click.command(help=__doc__)
@click.option("--partition", default="2026-01-05", show_default=True, help="Which daily slice of the sample to ask.")
@click.option("--cache", type=click.Path(path_type=Path), help="Where the model's weights are kept.")
def main(partition: str, cache: Path | None) -> None:
    home = Path(os.environ["DAGSTER_HOME"])
    link_to_explorer()
    settings = Settings.from_env(os.environ)
    with _provider(settings, home, cache), Landscape.open(settings.landscape_url) as landscape:
        started = time.monotonic()
        result = _run(partition, landscape)
        seconds = time.monotonic() - started
        with landscape.read() as connection:
            run = runs.get(connection, result.run_id)
            _tell(connection, run, result, seconds, home)
    if not result.success:
        sys.exit(1)


@contextmanager
def _provider(settings: Settings, home: Path, cache: Path | None) -> Iterator[None]:
    """The provider that the environment names; without one, the local model for as long as the demo runs."""
    if settings.provider != "local" or "OPENAI_BASE_URL" in os.environ:
        click.echo(f"Asking {settings.provider} at {settings.base_url or settings.azure_endpoint or 'api.openai.com'}")
        yield
        return
    from elspeth_dagster.llm.local import LocalModel

    click.echo("Starting the local model (the first time its 93 MB are fetched) …")
    with LocalModel(home / "local_model.log", cache=cache) as model:
        os.environ["OPENAI_BASE_URL"] = model.base_url
        click.echo(f"It answers at {model.base_url}. Its replies have the right form; its judgement is worthless.")
        yield


def _run(partition: str, landscape: Landscape) -> dg.ExecuteInProcessResult:
    from elspeth_dagster.definitions import defs

    job = defs().resolve_job_def(f"{ASSESSMENT}_job")
    with dg.DagsterInstance.get() as instance, _progress(landscape):
        return job.execute_in_process(
            instance=instance, partition_key=partition, run_config=QUIET, raise_on_error=False
        )


@contextmanager
def _progress(landscape: Landscape) -> Iterator[None]:
    """A line that tells, every second, what the record of the newest run holds."""
    done = threading.Event()
    before = _newest(landscape)
    teller = threading.Thread(target=_tell_progress, args=(landscape, before, done))
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def _tell_progress(landscape: Landscape, before: str | None, done: threading.Event) -> None:
    shown = None
    while not done.wait(POLL_SECONDS):
        run_id = _newest(landscape)
        if run_id != before and run_id is not None and (line := _progress_line(landscape, run_id)) != shown:
            click.echo(line)
            shown = line


def _newest(landscape: Landscape) -> str | None:
    with landscape.read() as connection:
        newest = sa.select(runs_table.c.run_id).order_by(runs_table.c.started_at.desc()).limit(1)
        found: str | None = connection.scalar(newest)
    return found


def _progress_line(landscape: Landscape, run_id: str) -> str:
    with landscape.read() as connection:
        rows = connection.scalar(_count(tokens).where(tokens.c.run_id == run_id, tokens.c.kind == TokenKind.ROW))
        sent = connection.scalar(_count(calls).where(calls.c.run_id == run_id))
        settled = connection.scalar(_count(answers).where(answers.c.run_id == run_id))
    return f"  {rows} rows admitted, {sent} calls sent, {settled} questions settled"


def _count(table: sa.Table) -> sa.Select[int]:
    return sa.select(sa.func.count()).select_from(table)


def _tell(connection: sa.Connection, run: Run, result: dg.ExecuteInProcessResult, seconds: float, home: Path) -> None:
    partition = json.loads(run.partition_keys)[0]
    numbers = _numbers(result)
    if numbers:
        click.echo(f"\nResults of {ASSESSMENT}, {partition}:\n")
        click.echo(_table(home / "storage" / ASSESSMENT / "results" / f"{partition}.parquet"))
        click.echo(
            f"\n{numbers['rows'] + numbers['rejected']} records: {numbers['rows']} rows admitted, "
            f"{numbers['rejected']} rejected; {numbers['assessed']} assessed, {numbers['failed']} failed."
        )
    made, cost, unpriced = connection.execute(_spent(run.run_id)).one()
    price = f"${int(cost or 0) / NANO:.4f}" + (f" and {unpriced} calls of unknown price" if unpriced else "")
    click.echo(f"{made} calls, {price}, {seconds:.0f} s. On record in {connection.engine.url.render_as_string()}")
    click.echo(_next_steps(connection, run))


def _numbers(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    made = [event.materialization for event in result.get_asset_materialization_events()]
    found = [asset.metadata for asset in made if asset.asset_key.path[-1] == "results"]
    return {name: value.value for name, value in found[0].items()} if found else {}


def _table(path: Path) -> str:
    results = pd.read_parquet(path)
    scores = [column for column in results.columns if column.endswith("_score")]
    return results[["submission_id", *scores]].to_string(index=False)


def _spent(run_id: str) -> sa.Select[int, Any, int]:
    unpriced = sa.case((replies.c.outcome == "success", replies.c.cost_nanousd.is_(None)), else_=False)
    return (
        sa.select(sa.func.count(), sa.func.sum(replies.c.cost_nanousd), sa.func.sum(sa.cast(unpriced, sa.Integer)))
        .select_from(calls)
        .outerjoin(replies, replies.c.call_id == calls.c.call_id)
        .where(calls.c.run_id == run_id)
    )


def _next_steps(connection: sa.Connection, run: Run) -> str:
    first = sa.select(rows.c.row_key).where(rows.c.run_id == run.run_id).order_by(rows.c.row_index).limit(1)
    key = connection.scalar(first)
    home = os.path.relpath(os.environ["DAGSTER_HOME"])
    return f"""
Next:
  make ui
      the run, its graph and its assets in Dagster's pages
  DAGSTER_HOME={home} .venv/bin/elspeth-dagster explain {run.run_id[:8]} --row {key}
      why this row got its scores: source, prompts, replies, answers
  OPENAI_API_KEY=… make demo
      the same of OpenAI, once defs.yaml names one of its models;
      of Azure with AZURE_OPENAI_API_KEY=… AZURE_OPENAI_ENDPOINT=… OPENAI_API_VERSION=…"""


if __name__ == "__main__":
    main()
