"""`cost`: what calls took, and what reuse saved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from elspeth_dagster.cli.opening import reading
from elspeth_dagster.cli.options import json_option, landscape_option
from elspeth_dagster.cli.printing import amount, as_document, show, show_json, table
from elspeth_dagster.core.money import at_most


@click.command()
@click.argument("run", required=False)
@click.option(
    "--by",
    type=click.Choice(["question", "model", "run", "endpoint"]),
    help="Add up by this alone. Default: a line for each question and model.",
)
@json_option
@landscape_option
def cost(run: str | None, by: str | None, as_json: bool, url: str) -> None:
    """Show what calls took and what reuse saved: a run's, or all.

    A line for each assessment, question and model, then the total; every try counts, failed and repaired ones too.
    Costs are by list price or the assessment's own, exact to a billionth of a dollar. A call that was answered and
    whose price or usage is not known counts as `unpriced`, one whose reply is not known as `unknown`: neither is ever
    counted as free. `at most` is what the unknown ones can have cost. `reused` answers were taken from the record;
    `saved` is what their replies cost when they were paid.

    \b
    elspeth-dagster cost 3f2a91c4
    elspeth-dagster cost --by run
    """
    from elspeth_dagster.landscape import costs
    from elspeth_dagster.landscape.finding import find_run

    parts = costs.QUESTION_AND_MODEL if by is None else costs.By(**{by: True})
    with reading(url) as connection:
        run_id = find_run(connection, run).run_id if run else None
        found = costs.costs(connection, run_id, parts)
    total = costs.total(found)
    if as_json:
        show_json({"run_id": run_id, "lines": [as_document(line) for line in found], "total": total})
        return
    words = ["assessment", *(name for name, is_asked in parts._asdict().items() if is_asked)]
    lines = [{**vars(line), "run": line.run_id} for line in found]
    show(_cost_table(words, [*lines, {**dict.fromkeys(words, ""), "assessment": "total", **total}]))


def _cost_table(words: list[str], lines: list[dict[str, Any]]) -> Iterator[str]:
    numbers = ("calls", "errors", "unknown", "unpriced_calls", "prompt_tokens", "completion_tokens")
    cells = [
        (
            *(line[name] for name in (*words, *numbers)),
            amount(line["cost_nanousd"]),
            at_most(line["bound_nanousd"], line["unbounded_calls"]),
            line["reused"],
            amount(line["saved_nanousd"]),
        )
        for line in lines
    ]
    last = ("reused", "saved")
    return table((*words, *numbers, "cost", "at most", *last), cells, numbers=(*numbers, "cost", *last))
