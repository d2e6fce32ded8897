"""The command line: `elspeth-dagster`. It reads the landscape, knows no Dagster, and starts without a database.

What a command needs is imported in the command, so that `--help` is there at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TypeVar

import click

from elspeth_dagster.cli.printing import (
    escaped,
    instant,
    money,
    show,
    show_json,
    show_json_list,
    spent,
    table,
    to_the_second,
)
from elspeth_dagster.core.errors import ElspethError, LandscapeError
from elspeth_dagster.core.settings import default_landscape_url

if TYPE_CHECKING:
    import sqlalchemy as sa

F = TypeVar("F", bound=Callable[..., Any])

FOUND_WRONG, USED_WRONGLY = 1, 2


class _Commands(click.Group):
    """Commands whose known errors are one sentence on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ElspethError as error:
            click.echo(f"Error: {escaped(str(error))}", err=True)
            ctx.exit(FOUND_WRONG if isinstance(error, LandscapeError) else USED_WRONGLY)


def _default_url() -> str:
    return default_landscape_url(os.environ)


def _landscape_option(command: F) -> F:
    return click.option(
        "--landscape",
        "url",
        envvar="ELSPETH_LANDSCAPE_URL",
        default=_default_url,
        metavar="URL",
        help="The audit database, a SQLAlchemy URL: sqlite:////data/landscape.sqlite or postgresql://host/name. "
        "Default: ELSPETH_LANDSCAPE_URL, else landscape.sqlite in DAGSTER_HOME.",
    )(command)


def _json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document, exact and in ASCII.")(command)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="elspeth-dagster")
def main() -> None:
    """Ask the record of LLM assessments why a row got its score, what was asked, and what it cost.

    Every run of an assessment writes what it does into an audit database, the landscape: each source row, each
    prompt, call and reply, each answer and outcome. These commands read it; only `upgrade` changes anything.

    \b
    Why did this row get this score?     elspeth-dagster explain latest --row S-1001
    And this one question of it?         elspeth-dagster explain latest --row S-1001 --question cs1_diagnosis
    Which runs are there?                elspeth-dagster runs --assessment case_studies
    Which calls went wrong?              elspeth-dagster calls 3f2a91c4 --errors --unknown
    What did it cost?                    elspeth-dagster cost 3f2a91c4

    RUN is a run's id, the first characters of it, or `latest`. Text from rows and replies is printed with control
    characters escaped; --json gives it exactly. An error is one sentence on stderr.

    \b
    Exit codes: 0 fine
                1 something is wrong: not on record, or the record can't be used or was changed
                2 used wrongly: an unknown command, option or setting
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@main.command()
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
@_json_option
@_landscape_option
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


@main.command()
@click.option("--assessment", metavar="A", help="Only runs of this assessment.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@_json_option
@_landscape_option
def runs(assessment: str | None, limit: int, as_json: bool, url: str) -> None:
    """List runs, newest first, with their rows, calls and cost.

    rows = assessed + partial + failed + interrupted + those without an outcome yet; rejected records come on top.
    """
    from elspeth_dagster.cli import listing

    with _reading(url) as connection:
        found = listing.newest_runs(connection, assessment=assessment, limit=limit)
    if as_json:
        show_json([_as_document(line) for line in found])
        return
    counts = ("rows", "rejected", "assessed", "partial", "failed", "calls")
    lines = [
        (
            line.run_id,
            ", ".join(line.assessments),
            ", ".join(line.partitions) or None,
            line.status.value if line.status else "not ended",
            to_the_second(line.started_at),
            *(getattr(line, name) for name in counts),
            spent(line.cost_nanousd, line.unpriced_calls),
        )
        for line in found
    ]
    show(table(("run", "assessment", "partition", "status", "started (UTC)", *counts, "cost"), lines, numbers=counts))


@main.command()
@click.argument("run")
@click.option("--row", "row_key", metavar="KEY", help="Only calls made for this row.")
@click.option("--question", metavar="Q", help="Only calls made for this question.")
@click.option("--unknown", is_flag=True, help="Only calls without a known reply: they may have been paid.")
@click.option("--errors", is_flag=True, help="Only calls that came to an error (together with --unknown: or these).")
@_json_option
@_landscape_option
def calls(
    run: str, row_key: str | None, question: str | None, unknown: bool, errors: bool, as_json: bool, url: str
) -> None:
    """List the calls of a run, one a line, batch by batch."""
    from elspeth_dagster.cli import listing
    from elspeth_dagster.landscape.explaining import find_run

    with _reading(url) as connection:
        run_id = find_run(connection, run).run_id
        found = listing.calls_of_run(
            connection, run_id, row_key=row_key, question=question, unknown=unknown, errors=errors
        )
        if as_json:
            show_json_list(_as_document(line) for line in found)
        else:
            show(_call_table(found))


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
            instant(line.sent_at),
            line.error_class or (line.outcome.value if line.outcome else "no reply"),
            line.http_status,
            None if line.latency_us is None else f"{line.latency_us / 1000:.1f}",
            line.prompt_tokens,
            line.completion_tokens,
            None if line.cost_nanousd is None else money(line.cost_nanousd),
        )
        for line in found
    )
    head = ("call", "row", "question", *numbers[:2], "cause", "sent", "reply", "http", *numbers[2:], "cost")
    return table(head, lines, numbers=numbers)


@main.command()
@click.argument("run", required=False)
@_json_option
@_landscape_option
def cost(run: str | None, as_json: bool, url: str) -> None:
    """Show what calls took: a run's, or all.

    A line for each assessment, question and model, then the total. Costs are list prices, exact to a billionth of a
    dollar. A call that was answered and whose price or usage is not known counts as `unpriced`, one whose reply is not
    known as `unknown`: neither is ever counted as free.
    """
    from elspeth_dagster.cli import listing
    from elspeth_dagster.landscape.explaining import find_run

    with _reading(url) as connection:
        run_id = find_run(connection, run).run_id if run else None
        found = listing.costs(connection, run_id)
    total = listing.total(found)
    if as_json:
        show_json({"run_id": run_id, "lines": [_as_document(line) for line in found], "total": total})
    else:
        show(_cost_table([*map(vars, found), {"assessment": "total", "question": "", "model": "", **total}]))


def _cost_table(lines: list[dict[str, Any]]) -> Iterator[str]:
    words = ("assessment", "question", "model")
    numbers = ("calls", "errors", "unknown", "unpriced_calls", "prompt_tokens", "completion_tokens")
    costs = (line["cost_nanousd"] for line in lines)
    cells = [
        (*(line[name] for name in (*words, *numbers)), None if nanousd is None else money(nanousd))
        for line, nanousd in zip(lines, costs, strict=True)
    ]
    return table((*words, *numbers, "cost"), cells, numbers=(*numbers, "cost"))


@main.command()
@_landscape_option
def upgrade(url: str) -> None:
    """Bring the landscape's schema up to date.

    Makes the tables where there are none. Facts stay as they are. A landscape that is newer than this package is left
    alone.
    """
    from elspeth_dagster.landscape import database, migrations

    found = database.Database(database._engine(url, create=True))
    with found.read() as connection:
        before = migrations.version_of(connection)
    found.close()
    database.Database.open(url, upgrade=True).close()
    where, now = migrations.named(found.engine), migrations.newest()
    if before == now:
        show([f"{where} is up to date: its schema is {now}."])
    else:
        show([f"{where} had {f'schema {before}' if before else 'no tables'}, now it has schema {now}."])


@contextmanager
def _reading(url: str) -> Iterator[sa.Connection]:
    from elspeth_dagster.landscape.ledger import Landscape

    with Landscape.open(url, create=False) as landscape, landscape.read() as connection:
        yield connection


def _as_document(line: Any) -> dict[str, Any]:
    from elspeth_dagster.landscape.explaining import document

    return dict(document(line))
