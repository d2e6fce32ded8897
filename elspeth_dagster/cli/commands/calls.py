"""`calls`: those of a run, and what is uncertain of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from elspeth_dagster.cli.opening import reading
from elspeth_dagster.cli.options import json_option, landscape_option
from elspeth_dagster.cli.printing import amount, as_document, instant, remark, show, show_json_list, table
from elspeth_dagster.core.money import at_most

if TYPE_CHECKING:
    from elspeth_dagster.cli.listing import Uncertain


@click.command()
@click.argument("run")
@click.option("--row", "row_key", metavar="KEY", help="Only calls made for this row.")
@click.option("--question", metavar="Q", help="Only calls made for this question.")
@click.option("--unknown", is_flag=True, help="Only calls without a known reply: they may have been paid.")
@click.option("--errors", is_flag=True, help="Only calls that came to an error (together with --unknown: or these).")
@json_option
@landscape_option
def calls(
    run: str, row_key: str | None, question: str | None, unknown: bool, errors: bool, as_json: bool, url: str
) -> None:
    """List the calls of a run, one a line, batch by batch.

    A call without a known reply was sent, or was about to be when its step died: it may have been paid. `at most` is
    what it can have cost by list price, counted from the size of its request and the longest reply it allows; the sum
    is told on stderr. No bound is known where the assessment sets no `max_tokens`, or the model has no known price.

    \b
    elspeth-dagster calls latest --unknown           what is uncertain, while the run goes on too
    elspeth-dagster calls 3f2a91c4 --row S-1001      every try at one row
    """
    from elspeth_dagster.cli import listing
    from elspeth_dagster.landscape.finding import find_run

    with reading(url) as connection:
        run_id = find_run(connection, run).run_id
        found = listing.calls_of_run(
            connection, run_id, row_key=row_key, question=question, unknown=unknown, errors=errors
        )
        if as_json:
            show_json_list(as_document(line) for line in found)
        else:
            show(_call_table(found))
        uncertain = listing.uncertain_of_run(connection, run_id, row_key=row_key, question=question)
    if uncertain.calls and (unknown or not errors):
        remark(_uncertainty(uncertain))


def _uncertainty(uncertain: Uncertain) -> str:
    calls = "1 call" if uncertain.calls == 1 else f"{uncertain.calls} calls"
    if uncertain.bound_nanousd is None:
        return f"{calls} without a known reply, and no known bound of what may have been paid."
    return f"{calls} without a known reply, at most {at_most(uncertain.bound_nanousd, uncertain.unbounded_calls)}."


def _call_table(found: Iterator[Any]) -> Iterator[str]:
    numbers = ("attempt", "try", "ms", "prompt_tokens", "completion_tokens")
    lines = (
        (
            line.call_id,
            line.row_key,
            line.question,
            line.batch_attempt,
            line.query_attempt,
            line.cause.value,
            line.endpoint,
            instant(line.sent_at),
            line.error_class or (line.outcome.value if line.outcome else "no reply"),
            line.http_status,
            None if line.latency_us is None else f"{line.latency_us / 1000:.1f}",
            line.prompt_tokens,
            line.completion_tokens,
            amount(line.cost_nanousd),
            amount(line.bound_nanousd) if line.is_unknown else None,
        )
        for line in found
    )
    words = ("cause", "endpoint", "sent", "reply", "http")
    head = ("call", "row", "question", *numbers[:2], *words, *numbers[2:], "cost", "at most")
    return table(head, lines, numbers=numbers)
