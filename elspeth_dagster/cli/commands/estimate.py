"""`estimate`: the plan of runs, and what they will take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from elspeth_dagster.cli.options import json_option, landscape_option
from elspeth_dagster.cli.printing import facts, show, show_json, table
from elspeth_dagster.core.money import money

if TYPE_CHECKING:
    from elspeth_dagster.cli.estimating import Estimate


@click.command()
@click.argument("declared", metavar="DEFS")
@click.option("--source", metavar="FILE", help="Count the rows of this file instead of the declared source's.")
@click.option(
    "--partition",
    "partitions",
    multiple=True,
    metavar="KEY",
    help="A partition whose rows are counted, or several: FIRST...LAST. May be given again.",
)
@click.option("--all", "all_partitions", is_flag=True, help="All partitions that there are.")
@json_option
@landscape_option
def estimate(
    declared: str, source: str | None, partitions: tuple[str, ...], all_partitions: bool, as_json: bool, url: str
) -> None:
    """Show the plan of a run or a backfill before it is launched, and what it will take: calls, tokens, money, time.

    DEFS is a defs.yaml, its folder, or the name of an assessment that is on record, whose relative source path then
    starts here. The source is read once, record by record, cut into batches and steps as the run will cut it, and the
    prompts are made (of a partition's first 10,000 rows all, then every hundredth row's); nothing is sent. Tokens and
    time are learnt from the replies on record; without any, a token is assumed to be four bytes, a reply half of
    max_tokens, and of the time is known what the limits per minute allow at the least. Retries and repairs come on top,
    what is on record already comes off. Provider, concurrency, limits and prices are those of the environment.

    \b
    elspeth-dagster estimate my_project/defs/case_studies --partition 2026-01-05
    elspeth-dagster estimate my_project/defs/case_studies --partition 2026-01-01...2026-01-31
    elspeth-dagster estimate my_project/defs/case_studies --all
    elspeth-dagster estimate case_studies --source tenders.csv --json

    """
    if partitions and all_partitions:
        raise click.UsageError("Name partitions or give --all, not both.")
    from elspeth_dagster.cli.estimating import estimate_of

    found = estimate_of(
        declared, source=source, partitions=partitions, all_partitions=all_partitions, env=os.environ, url=url
    )
    if as_json:
        show_json({**vars(found), "plan": [vars(run) for run in found.plan]})
    else:
        show([*_estimate_lines(found), *_plan_lines(found)])


def _estimate_lines(found: Estimate) -> Iterator[str]:
    most = "" if found.bound_nanousd is None else f", at most {money(found.bound_nanousd)}"
    return facts(
        {
            "assessment": f"{found.assessment}, asked of {found.model}",
            "plan": f"{found.runs:,} runs × {found.steps / max(found.runs, 1):,.1f} steps that ask × "
            f"{found.batches / max(found.steps, 1):,.1f} batches × {found.rows / max(found.batches, 1):,.1f} rows × "
            f"{found.questions} questions"
            if found.runs > 1
            else f"{found.steps:,} steps that ask, with {found.batches:,} batches",
            "rows": f"{found.rows:,}, {found.questions} questions each; {found.rejections:,} records are rejected",
            "calls": f"{found.calls:,}",
            "prompt tokens": f"{found.prompt_tokens:,} ({found.prompt_tokens_are})",
            "completion tokens": "unknown: no max_tokens, and no reply on record"
            if found.completion_tokens is None
            else f"{found.completion_tokens:,} ({found.completion_tokens_are})",
            "cost": "unknown" if found.cost_nanousd is None else f"{money(found.cost_nanousd)}{most}",
            "time": f"{found.duration}, with {found.in_flight} requests in flight",
        }
    )


def _plan_lines(found: Estimate) -> Iterator[str]:
    """A line per run, where there are several, and the partitions whose file is not there."""
    numbers = ("rows", "rejected", "batches", "steps", "calls")
    cells = [
        (
            run.partitions[0] if len(run.partitions) == 1 else f"{len(run.partitions)} partitions",
            *(f"{number:,}" for number in (run.rows, run.rejections, run.batches, run.steps, run.calls)),
            "its file is not there" if run.partitions == run.missing else "",
        )
        for run in found.plan
    ]
    if len(found.plan) > 1:
        yield ""
        yield from table(("partition", *numbers, ""), cells, numbers=numbers)
    missing = [key for run in found.plan for key in run.missing]
    if missing:
        yield ""
        yield f"{len(missing)} partitions have no file yet, {missing[0]} the first: none of their rows is counted"
