"""`hold`: what must not go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from elspeth_dagster.cli.opening import reading
from elspeth_dagster.cli.options import json_option, landscape_option, stated_options, subject_options
from elspeth_dagster.cli.printing import show, show_json, table

if TYPE_CHECKING:
    from elspeth_dagster.landscape.holding import Subject


@click.group()
def hold() -> None:
    """Keep what a court or an auditor may ask for: legal holds.

    While a hold is on a run, or on a row, nothing of it is erased. Holds and their releases are facts of the record.

    \b
    elspeth-dagster hold add --row S-1001 --reason "case 7 of 2026" --by "B. Counsel"
    elspeth-dagster hold list
    elspeth-dagster hold release --row S-1001 --reason "case closed" --by "B. Counsel"
    """


def _subject(row_key: str | None, run: str | None, assessment: str | None) -> Subject:
    from elspeth_dagster.landscape.holding import Subject
    from elspeth_dagster.landscape.words import ScopeKind

    if (row_key is None) == (run is None):
        raise click.UsageError("Say what: one of --row and --run.")
    if row_key is None and assessment:
        raise click.UsageError("--assessment goes with --row.")
    return Subject(ScopeKind.RUN, run or "") if row_key is None else Subject(ScopeKind.ROW, row_key, assessment)


@hold.command("add")
@subject_options
@stated_options(required=True)
@landscape_option
def add_hold(row_key: str | None, run: str | None, assessment: str | None, reason: str, by: str, url: str) -> None:
    """Put a hold on a run or a row that is on record."""
    from elspeth_dagster.landscape import holding
    from elspeth_dagster.landscape.ledger import Landscape

    subject = _subject(row_key, run, assessment)
    with Landscape.open(url, create=False) as landscape:
        held = holding.hold(landscape, subject, reason, by)
    show([f"Held: {holding.subject_of(held)}."])


@hold.command("release")
@subject_options
@stated_options(required=True)
@landscape_option
def release_hold(row_key: str | None, run: str | None, assessment: str | None, reason: str, by: str, url: str) -> None:
    """End the holds that are on exactly this."""
    from elspeth_dagster.landscape import holding
    from elspeth_dagster.landscape.ledger import Landscape

    subject = _subject(row_key, run, assessment)
    with Landscape.open(url, create=False) as landscape:
        ended = holding.release(landscape, subject, reason, by)
    show([f"Released: {holding.subject_of(ended[0])} ({len(ended)} holds)."])


@hold.command("list")
@json_option
@landscape_option
def list_holds(as_json: bool, url: str) -> None:
    """List all holds, the oldest first, released ones too."""
    from elspeth_dagster.cli.erasing import hold_line
    from elspeth_dagster.landscape import holding
    from elspeth_dagster.landscape.explanation import document

    with reading(url) as connection:
        found = holding.every(connection)
    if as_json:
        show_json([{**dict(document(held)), "release": released and document(released)} for held, released in found])
        return
    head = ("kind", "subject", "assessment", "reason", "by", "since (UTC)", "released (UTC)", "released for")
    show(table(head, [hold_line(*each) for each in found]))
