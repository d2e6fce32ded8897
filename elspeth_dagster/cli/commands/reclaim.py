"""`reclaim`: the runs without an end, and the end of those that died."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from elspeth_dagster.cli.exits import FOUND_WRONG
from elspeth_dagster.cli.opening import sealing
from elspeth_dagster.cli.options import duration, json_option, landscape_option
from elspeth_dagster.cli.printing import as_document, remark, show, show_json, table, to_the_second
from elspeth_dagster.core.money import at_most
from elspeth_dagster.core.naming import in_order

if TYPE_CHECKING:
    from elspeth_dagster.cli.reclaiming import OpenRun, Reclaimed


@click.command()
@click.argument("run_ids", metavar="[RUN]...", nargs=-1)
@click.option(
    "--quiet-for",
    callback=duration,
    metavar="DURATION",
    help="End every run that gave no sign of life for so long: 90s, 30m, 2h, 1d.",
)
@click.option("--force", is_flag=True, help="End a run also while a process of it is alive on this machine.")
@json_option
@landscape_option
def reclaim(run_ids: tuple[str, ...], quiet_for: timedelta | None, force: bool, as_json: bool, url: str) -> None:
    """List the runs that have no end on record, or end those that died.

    Without RUN and --quiet-for nothing is written: each run without an end is listed, with its last sign of life (the
    newest instant among what it recorded) and the processes that hold its open states. Whether one is alive can be told
    of this machine's processes only.

    A run that is named, or was quiet for so long, ends as interrupted, and nothing of it stays open: its states and
    tokens end as interrupted, its calls without a reply as unknown; then it is sealed. Nothing is lost by that. What it
    has recorded
    stays, answers too; it can record nothing more, so that a worker that still goes on stops; and the next launch of
    its partition goes on from there. A run with a process alive on this machine is refused without --force.

    \b
    elspeth-dagster reclaim                          which runs are open, and do they live?
    elspeth-dagster reclaim 3f2a91c4                 end this one: its id, or the first characters of it
    elspeth-dagster reclaim --quiet-for 2h           end all that were silent for two hours

    Reading a large source gives no sign of life until it is done, nor does a call until its reply comes: think of
    hours. This is seldom needed: the sensor NAME_run_ends ends what Dagster calls failed or canceled, and the next
    launch of a partition ends what was left open of it.
    """
    from elspeth_dagster.cli import reclaiming

    if run_ids and quiet_for is not None:
        raise click.UsageError("Name runs or give --quiet-for, not both.")
    if force and not run_ids and quiet_for is None:
        raise click.UsageError("--force goes with RUN or --quiet-for.")
    with sealing(url) as landscape:
        if not run_ids and quiet_for is None:
            _show_open_runs(reclaiming.open_runs(landscape), as_json=as_json)
            return
        reclaimed = reclaiming.reclaim(landscape, run_ids, quiet_for, force=force)
        for warning in reclaiming.seal(landscape):
            remark(warning)
    _show_reclaimed(reclaimed, as_json=as_json)


def _show_open_runs(found: Sequence[OpenRun], *, as_json: bool) -> None:
    if as_json:
        show_json([as_document(run) for run in found])
        return
    numbers = ("open states", "calls without reply")
    lines = [
        (
            run.run_id,
            ", ".join(run.assessments),
            in_order(run.partitions) or None,
            to_the_second(run.started_at),
            to_the_second(run.last_sign_at),
            run.open_states,
            run.calls_without_reply,
            ", ".join(map(str, run.processes)) or None,
        )
        for run in found
    ]
    head = ("run", "assessment", "partition", "started (UTC)", "last sign (UTC)", *numbers, "processes")
    show(table(head, lines, numbers=numbers))


def _show_reclaimed(reclaimed: Sequence[Reclaimed], *, as_json: bool) -> None:
    """What became of each run. Exits with 1 when one was refused."""
    if as_json:
        show_json([as_document(run) for run in reclaimed])
    elif not reclaimed:
        show(["No run without an end was quiet for so long."])
    else:
        show(_what_became(run) for run in reclaimed if run.refused is None)
    refused = [run for run in reclaimed if run.refused is not None]
    for run in refused:
        remark(f"Error: {run.refused}")
    if refused:
        sys.exit(FOUND_WRONG)


def _what_became(run: Reclaimed) -> str:
    counts = f"tokens interrupted: {run.tokens_interrupted}, calls without a known reply: {run.calls_unknown}"
    bound = f" (at most {at_most(run.bound_nanousd, run.unbounded_calls)})" if run.bound_nanousd is not None else ""
    return f"{run.run_id} ended as interrupted; {counts}{bound}"
