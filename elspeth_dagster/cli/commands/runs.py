"""`runs`: which there are."""

from __future__ import annotations

import click

from elspeth_dagster.cli.opening import reading
from elspeth_dagster.cli.options import json_option, landscape_option
from elspeth_dagster.cli.printing import as_document, show, show_json, table, to_the_second
from elspeth_dagster.core.money import spent
from elspeth_dagster.core.naming import in_order


@click.command()
@click.option("--assessment", metavar="A", help="Only runs of this assessment.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@json_option
@landscape_option
def runs(assessment: str | None, limit: int, as_json: bool, url: str) -> None:
    """List runs, newest first, with their rows, calls and cost.

    mode: whether it asked, replayed an earlier run's replies, or asked some once more to verify them.
    rows = assessed + partial + failed + interrupted + those without an outcome yet; rejected records come on top.
    """
    from elspeth_dagster.landscape import browsing

    with reading(url) as connection:
        found = browsing.newest_runs(connection, assessment=assessment, limit=limit)
    if as_json:
        show_json([as_document(line) for line in found])
        return
    counts = ("rows", "rejected", "assessed", "partial", "failed", "calls")
    lines = [
        (
            line.run_id,
            ", ".join(line.assessments),
            in_order(line.partitions) or None,
            line.mode.value,
            line.status.value if line.status else "not ended",
            to_the_second(line.started_at),
            *(getattr(line, name) for name in counts),
            spent(line.cost_nanousd, line.unpriced_calls),
        )
        for line in found
    ]
    show(
        table(
            ("run", "assessment", "partition", "mode", "status", "started (UTC)", *counts, "cost"),
            lines,
            numbers=counts,
        )
    )
