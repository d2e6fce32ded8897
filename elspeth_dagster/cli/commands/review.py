"""`review`: sheets for people, what they say, and how far they agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from elspeth_dagster.cli.options import json_option, landscape_option
from elspeth_dagster.cli.printing import remark, show, show_json, table

if TYPE_CHECKING:
    from elspeth_dagster.landscape.ledger import Landscape
    from elspeth_dagster.landscape.records import Run


@click.group()
def review() -> None:
    """Have people review answers, and see how far they agree with the model.

    A review is a fact of its own beside the answer: it says who, when, and whether the answer stands (agree), is
    corrected (correct) or is no good (reject). The answer stays as it is. It can come at any time, also long after its
    run has ended.

    \b
    elspeth-dagster review export latest --sample 50 --to sheet.csv
    elspeth-dagster review import sheet.csv --by "Ada Lovelace"
    elspeth-dagster review agreement latest
    """


def _share_or_number(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    """How many to draw: a share below 1, or a number."""
    if text is None:
        return None
    if not re.fullmatch(r"0?\.[0-9]*[1-9][0-9]*|[1-9][0-9]{0,8}", text):
        raise click.BadParameter(f"{text!r} is neither a share like 0.05 nor a number like 50")
    return float(text)


@review.command("export")
@click.argument("run")
@click.option("--assessment", metavar="A", help="Where the run has several.")
@click.option("--failed", is_flag=True, help="Only questions without an accepted answer.")
@click.option(
    "--sample",
    callback=_share_or_number,
    metavar="N",
    help="Only some: a share of them like 0.05, or a number like 50. Drawn by hash: again the same ones.",
)
@click.option("--inputs", is_flag=True, help="With what each question was asked about (input_NAME).")
@click.option("--to", "path", required=True, metavar="FILE", help="The sheet to write; one that is there stays.")
@landscape_option
def review_export(
    run: str, assessment: str | None, failed: bool, sample: float | None, inputs: bool, path: str, url: str
) -> None:
    """Write a run's answers into a sheet, a CSV file for people.

    It has a line per row and question: what the model answered (answer_FIELD), or why that was refused; and for people
    to fill in: reviewer, verdict (agree, correct or reject), corrected_FIELD, reason. A line without a verdict is not a
    review. Leave the other columns as they are. Text that a spreadsheet program could take for a formula has an
    apostrophe before it; `review import` takes it off again.
    """
    from elspeth_dagster.cli import sheets
    from elspeth_dagster.landscape.ledger import Landscape

    with Landscape.open(url, create=False) as landscape:
        found, name = _run_and_assessment(landscape, run, assessment)
        written = sheets.write_sheet(landscape, found, name, sheets.Choice(failed, sample, inputs), Path(path))
    remark(f"{written} answers of {name} in run {found.run_id} are in {path}.")


def _run_and_assessment(landscape: Landscape, run: str, assessment: str | None) -> tuple[Run, str]:
    from elspeth_dagster.cli import sheets
    from elspeth_dagster.landscape import runs as on_record
    from elspeth_dagster.landscape.finding import find_run

    with landscape.read() as connection:
        found = find_run(connection, run, assessment)
        nodes = on_record.nodes_of(connection, found.run_id)
    return found, sheets.only_assessment(nodes, found.run_id, assessment)


@review.command("import")
@click.argument("path", metavar="FILE")
@click.option("--by", metavar="NAME", help="The reviewer of all lines that name none.")
@json_option
@landscape_option
def review_import(path: str, by: str | None, as_json: bool, url: str) -> None:
    """Put the reviews of a sheet on record, all or none.

    Each mistake is told with file, line, column and what to do; then nothing is recorded. The same file a second time
    adds nothing. What a reviewer says later of the same answer is a further review: the last one counts, the earlier
    ones stay.
    """
    from elspeth_dagster.cli.taking_sheets import take_sheet
    from elspeth_dagster.landscape.ledger import Landscape, now

    with Landscape.open(url, create=False) as landscape:
        taken = take_sheet(landscape, Path(path), by, now())
    if as_json:
        show_json(taken._asdict())
    else:
        show(
            [
                f"{taken.recorded} reviews recorded, {taken.known} were on record already, "
                f"{taken.without} lines without a review."
            ]
        )


@review.command("agreement")
@click.argument("run")
@click.option("--assessment", metavar="A", help="Where the run has several.")
@json_option
@landscape_option
def review_agreement(run: str, assessment: str | None, as_json: bool, url: str) -> None:
    """Tell how far reviewers and the model agree.

    Krippendorff's alpha at interval level, of each numeric field: over all questions together, then of each. 1 is full
    agreement, 0 what chance would give. Raters are the model and each reviewer by their last word; a rejected answer
    has no value from who rejected it. Who saw the model's answer is no blind rater: read alpha as an upper bound.
    """
    from elspeth_dagster.cli import sheets
    from elspeth_dagster.landscape import reviews
    from elspeth_dagster.landscape.ledger import Landscape
    from elspeth_dagster.stages.agreeing import agreements
    from elspeth_dagster.stages.querying import questions

    with Landscape.open(url, create=False) as landscape:
        found, name = _run_and_assessment(landscape, run, assessment)
        node_id = f"{name}.ask_batches"
        with landscape.read() as connection:
            said = reviews.about_run(connection, found, node_id)
            asked = questions(sheets.assessment_of(connection, found.run_id, node_id))
    lines = agreements(said, asked)
    if as_json:
        show_json([line._asdict() for line in lines])
        return
    numbers = ("answers", "reviewers", "alpha")
    cells = [
        (
            line.field,
            line.question or "all",
            line.answers,
            line.reviewers,
            line.why if line.alpha is None else f"{line.alpha:.3f}",
        )
        for line in lines
    ]
    show(table(("field", "question", *numbers), cells, numbers=numbers[:2]))
