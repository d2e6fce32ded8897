"""`explain`: the chain of one row."""

from __future__ import annotations

import click

from elspeth_dagster.cli.options import json_option, landscape_option
from elspeth_dagster.cli.printing import show, show_json


@click.command()
@click.argument("run")
@click.option(
    "--row",
    "row_key",
    required=True,
    metavar="KEY",
    help="The row's key; '#3' is the record with index 3, counted from 0.",
)
@click.option("--question", metavar="Q", help="Only this question, like cs1_diagnosis.")
@click.option("--assessment", metavar="A", help="Where several assessments of the run have a row with this key.")
@json_option
@landscape_option
def explain(run: str, row_key: str, question: str | None, assessment: str | None, as_json: bool, url: str) -> None:
    """Show the chain of one row, whole.

    The run and the code that ran; the row as it came and as it was understood, or why it was rejected; its batch and
    each attempt at it; each question with every call, prompt and reply, and the answer with the call it comes from; the
    outcome, and the tables that carry it. Each stored text is checked against its hash on the way.

    \b
    elspeth-dagster explain latest --row S-1001
    elspeth-dagster explain 3f2a91c4 --row S-1001 --question cs1_diagnosis --json
    elspeth-dagster explain latest --row '#3'        the record with index 3, a rejected one too
    """
    from elspeth_dagster.cli.telling import tell
    from elspeth_dagster.landscape import explaining
    from elspeth_dagster.landscape.ledger import Landscape

    with Landscape.open(url, create=False) as landscape:
        explanation = explaining.explain(landscape, run, row_key, question, assessment=assessment)
    if as_json:
        show_json(explanation.document())
    else:
        show(tell(explanation))
