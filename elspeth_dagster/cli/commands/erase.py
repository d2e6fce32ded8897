"""`erase`: texts that must go."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from elspeth_dagster.cli.opening import sealing
from elspeth_dagster.cli.options import duration, json_option, landscape_option, stated_options, subject_options
from elspeth_dagster.cli.printing import as_document, remark, show, show_json

if TYPE_CHECKING:
    from elspeth_dagster.landscape.erasing import Wanted
    from elspeth_dagster.landscape.ledger import Landscape


@click.command()
@subject_options
@click.option("--with-rejections", is_flag=True, help="With --row: also rejected records that hold the key as a word.")
@click.option(
    "--older-than",
    metavar="DURATION",
    callback=duration,
    help="The same of every run that ended so long ago, like 90d.",
)
@stated_options(required=False)
@click.option("--yes", is_flag=True, help="Do it. Without this, what would go is listed.")
@click.option("--clean", is_flag=True, help="Only write the database's files anew, after an erasure that could not.")
@json_option
@landscape_option
def erase(
    row_key: str | None,
    assessment: str | None,
    with_rejections: bool,
    run: str | None,
    older_than: timedelta | None,
    reason: str | None,
    by: str | None,
    yes: bool,
    clean: bool,
    as_json: bool,
    url: str,
) -> None:
    """Take texts out of the record that must be forgotten.

    Without --yes nothing is touched: what would go and what would stay is listed. With it, the bodies of payloads go:
    rows, requests, replies, answers, rejected records. Their names and sizes stay, and so does every other record,
    keys of rows too; seals hold. The erasure is recorded, and whoever asks for the texts is told when, why and by whom.

    What another run's records refer to stays. Runs that have not ended, and what is under a legal hold, are not
    touched. It can't be undone. The database's files are written anew in the end: they need room for a second copy,
    and nothing else can use the database meanwhile.

    \b
    elspeth-dagster erase --row S-1001 --reason "request 42" --by "A. Clerk"           what would go
    elspeth-dagster erase --row S-1001 --reason "request 42" --by "A. Clerk" --yes     do it
    elspeth-dagster erase --older-than 365d --reason "retention" --by cron --yes
    """
    from elspeth_dagster.landscape.erasing import Wanted
    from elspeth_dagster.landscape.ledger import now

    named = sum(each is not None for each in (row_key, run, older_than)) + clean
    if named != 1:
        raise click.UsageError("Say what: one of --row, --run, --older-than, or --clean.")
    if row_key is None and (assessment or with_rejections):
        raise click.UsageError("--assessment and --with-rejections go with --row.")
    if not clean and not (reason and by):
        raise click.UsageError("--reason and --by are recorded with an erasure, and must be given.")
    with sealing(url) as landscape:
        if clean:
            landscape.scrub()
            show(["The database's files are written anew."])
            return
        before = None if older_than is None else now() - older_than
        wanted = Wanted(row_key, assessment, with_rejections, run, before)
        _erase(landscape, wanted, reason or "", by or "", yes=yes, as_json=as_json)


def _erase(landscape: Landscape, wanted: Wanted, reason: str, by: str, *, yes: bool, as_json: bool) -> None:
    from elspeth_dagster.cli.erasing import erased_document, plan_lines
    from elspeth_dagster.landscape import erasing, holding

    holding.stated(reason, by)
    found = erasing.plan(landscape, wanted)
    if not yes:
        show_json(as_document(found)) if as_json else show(["Would erase:", *plan_lines(found), "Add --yes to do it."])
        return
    done = erasing.erase(landscape, wanted, reason, by)
    for warning in done.warnings:
        remark(warning)
    if as_json:
        show_json({"erasure": erased_document(done), "plan": as_document(found)})
        return
    lost = f"{done.payloads:,} payloads are empty, {done.scopes:,} scopes without a key, {done.repacked:,} packed anew"
    show([f"Erased, as {done.erasure.erasure_id}: {lost}.", *plan_lines(found)])
