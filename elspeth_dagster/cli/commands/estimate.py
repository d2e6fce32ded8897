"""`estimate`: what a run will take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from elspeth_dagster.cli.options import json_option, landscape_option
from elspeth_dagster.cli.printing import facts, show, show_json
from elspeth_dagster.core.money import money

if TYPE_CHECKING:
    from elspeth_dagster.cli.estimating import Estimate


@click.command()
@click.argument("declared", metavar="DEFS")
@click.option("--source", metavar="FILE", help="Count the rows of this file instead of the declared source's.")
@click.option("--partition", metavar="KEY", help="The partition whose rows are counted.")
@json_option
@landscape_option
def estimate(declared: str, source: str | None, partition: str | None, as_json: bool, url: str) -> None:
    """Say what a run will take before it is launched: calls, tokens, money, time.

    DEFS is a defs.yaml, its folder, or the name of an assessment that is on record, whose relative source path then
    starts here. The source is read and every prompt
    is made, nothing is sent. Tokens and time are learnt from the replies on record; without any, a token is assumed to
    be four bytes, a reply half of max_tokens, and the time is unknown. Retries and repairs come on top, what is on
    record already comes off. Provider, concurrency and prices are those of the environment.

    \b
    elspeth-dagster estimate my_project/defs/case_studies --partition 2026-01-05
    elspeth-dagster estimate case_studies --source tenders.csv --json

    """
    from elspeth_dagster.cli.estimating import estimate_of

    found = estimate_of(declared, source=source, partition=partition, env=os.environ, url=url)
    if as_json:
        show_json(vars(found))
    else:
        show(_estimate_lines(found))


def _estimate_lines(found: Estimate) -> Iterator[str]:
    most = "" if found.bound_nanousd is None else f", at most {money(found.bound_nanousd)}"
    return facts(
        {
            "assessment": f"{found.assessment}, asked of {found.model}",
            "rows": f"{found.rows:,}, {found.questions} questions each, in {found.steps} steps",
            "calls": f"{found.calls:,}",
            "prompt tokens": f"{found.prompt_tokens:,} ({found.prompt_tokens_are})",
            "completion tokens": "unknown: no max_tokens, and no reply on record"
            if found.completion_tokens is None
            else f"{found.completion_tokens:,} ({found.completion_tokens_are})",
            "cost": "unknown" if found.cost_nanousd is None else f"{money(found.cost_nanousd)}{most}",
            "time": f"{found.duration}, with {found.in_flight} requests in flight",
        }
    )
