"""The command line: `elspeth-dagster`. It works on the landscape, knows no Dagster, and starts without a database.

What a command needs is imported in the command, so that `--help` is there at once.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TypeVar

import click

from elspeth_dagster.cli.printing import (
    at_most,
    escaped,
    facts,
    instant,
    money,
    remark,
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

    from elspeth_dagster.cli.estimating import Estimate
    from elspeth_dagster.cli.listing import Uncertain
    from elspeth_dagster.cli.reclaiming import OpenRun, Reclaimed
    from elspeth_dagster.landscape.erasing import Wanted
    from elspeth_dagster.landscape.holding import Subject
    from elspeth_dagster.landscape.ledger import Landscape

F = TypeVar("F", bound=Callable[..., Any])

FOUND_WRONG, USED_WRONGLY = 1, 2
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class _Commands(click.Group):
    """Commands whose known errors are one sentence on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ElspethError as error:
            click.echo(f"Error: {escaped(str(error))}", err=True)
            ctx.exit(FOUND_WRONG if isinstance(error, LandscapeError) else USED_WRONGLY)


def _duration(_ctx: click.Context, _param: click.Parameter, text: str | None) -> timedelta | None:
    """A length of time, written like 90s, 30m, 2h or 1d."""
    if text is None:
        return None
    if (found := re.fullmatch(r"([0-9]{1,6})([smhd])", text)) is None:
        raise click.BadParameter(f"{text!r} is no duration like 90s, 30m, 2h or 1d")
    return timedelta(**{UNITS[found[2]]: int(found[1])})


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
    prompt, call and reply, each answer and outcome. Most commands read it. `reclaim` adds the end of a run that died,
    `hold` adds and releases legal holds, `upgrade` brings the schema up. `erase` takes away texts that must go; it
    leaves their names, and a record of itself. No command changes any other fact.

    \b
    Why did this row get this score?     elspeth-dagster explain latest --row S-1001
    And this one question of it?         elspeth-dagster explain latest --row S-1001 --question cs1_diagnosis
    Which runs are there?                elspeth-dagster runs --assessment case_studies
    Which calls went wrong?              elspeth-dagster calls 3f2a91c4 --errors
    Which may have been paid for naught? elspeth-dagster calls 3f2a91c4 --unknown
    What did it cost?                    elspeth-dagster cost 3f2a91c4
    What will it cost?                   elspeth-dagster estimate my_project/defs/case_studies
    Which runs died and are still open?  elspeth-dagster reclaim
    What would go if this row must?      elspeth-dagster erase --row S-1001 --reason ... --by ...

    RUN is a run's id, the first characters of it, or `latest`. Text from rows and replies is printed with control
    characters escaped; --json gives it exactly. An error is one sentence on stderr.

    \b
    Exit codes: 0 fine
                1 something is wrong: not on record, refused, or the record can't be used or was changed
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

    mode: whether it asked, replayed an earlier run's replies, or asked some once more to verify them.
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
            line.mode.value,
            line.status.value if line.status else "not ended",
            to_the_second(line.started_at),
            *(getattr(line, name) for name in counts),
            spent(line.cost_nanousd, line.unpriced_calls),
        )
        for line in found
    ]
    show(
        table(
            ("run", "assessment", "partition", "mode", "status", "started (UTC)", *counts, "cost"),
            lines,
            numbers=counts,
        )
    )


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
    """List the calls of a run, one a line, batch by batch.

    A call without a known reply was sent, or was about to be when its step died: it may have been paid. `at most` is
    what it can have cost by list price, counted from the size of its request and the longest reply it allows; the sum
    is told on stderr. No bound is known where the assessment sets no `max_tokens`, or the model has no known price.

    \b
    elspeth-dagster calls latest --unknown           what is uncertain, while the run goes on too
    elspeth-dagster calls 3f2a91c4 --row S-1001      every try at one row
    """
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
            instant(line.sent_at),
            line.error_class or (line.outcome.value if line.outcome else "no reply"),
            line.http_status,
            None if line.latency_us is None else f"{line.latency_us / 1000:.1f}",
            line.prompt_tokens,
            line.completion_tokens,
            _money(line.cost_nanousd),
            _money(line.bound_nanousd) if line.is_unknown else None,
        )
        for line in found
    )
    head = ("call", "row", "question", *numbers[:2], "cause", "sent", "reply", "http", *numbers[2:], "cost", "at most")
    return table(head, lines, numbers=numbers)


def _money(nanousd: int | None) -> str | None:
    return None if nanousd is None else money(nanousd)


@main.command()
@click.argument("run", required=False)
@click.option(
    "--by",
    type=click.Choice(["question", "model", "run"]),
    help="Add up by this alone. Default: a line for each question and model.",
)
@_json_option
@_landscape_option
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
    from elspeth_dagster.landscape.explaining import find_run

    parts = costs.QUESTION_AND_MODEL if by is None else costs.By(**{by: True})
    with _reading(url) as connection:
        run_id = find_run(connection, run).run_id if run else None
        found = costs.costs(connection, run_id, parts)
    total = costs.total(found)
    if as_json:
        show_json({"run_id": run_id, "lines": [_as_document(line) for line in found], "total": total})
        return
    words = ["assessment", *(name for name, is_asked in parts._asdict().items() if is_asked)]
    lines = [{**vars(line), "run": line.run_id} for line in found]
    show(_cost_table(words, [*lines, {**dict.fromkeys(words, ""), "assessment": "total", **total}]))


def _cost_table(words: list[str], lines: list[dict[str, Any]]) -> Iterator[str]:
    numbers = ("calls", "errors", "unknown", "unpriced_calls", "prompt_tokens", "completion_tokens")
    cells = [
        (
            *(line[name] for name in (*words, *numbers)),
            _money(line["cost_nanousd"]),
            at_most(line["bound_nanousd"], line["unbounded_calls"]),
            line["reused"],
            _money(line["saved_nanousd"]),
        )
        for line in lines
    ]
    last = ("reused", "saved")
    return table((*words, *numbers, "cost", "at most", *last), cells, numbers=(*numbers, "cost", *last))


@main.command()
@click.argument("declared", metavar="DEFS")
@click.option("--source", metavar="FILE", help="Count the rows of this file instead of the declared source's.")
@click.option("--partition", metavar="KEY", help="The partition whose rows are counted.")
@_json_option
@_landscape_option
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


@main.command()
@click.argument("run_ids", metavar="[RUN]...", nargs=-1)
@click.option(
    "--quiet-for",
    callback=_duration,
    metavar="DURATION",
    help="End every run that gave no sign of life for so long: 90s, 30m, 2h, 1d.",
)
@click.option("--force", is_flag=True, help="End a run also while a process of it is alive on this machine.")
@_json_option
@_landscape_option
def reclaim(run_ids: tuple[str, ...], quiet_for: timedelta | None, force: bool, as_json: bool, url: str) -> None:
    """List the runs that have no end on record, or end those that died.

    Without RUN and --quiet-for nothing is written: each run without an end is listed, with its last sign of life (the
    newest instant among what it recorded) and the processes that hold its open states. Whether one is alive can be told
    of this machine's processes only.

    A run that is named, or was quiet for so long, ends as interrupted, and nothing of it stays open: its states and
    tokens end as interrupted, its calls without a reply as unknown. Nothing is lost by that. What it has recorded
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
    from elspeth_dagster.landscape.ledger import Landscape

    if run_ids and quiet_for is not None:
        raise click.UsageError("Name runs or give --quiet-for, not both.")
    if force and not run_ids and quiet_for is None:
        raise click.UsageError("--force goes with RUN or --quiet-for.")
    with Landscape.open(url, create=False) as landscape:
        if not run_ids and quiet_for is None:
            _show_open_runs(reclaiming.open_runs(landscape), as_json=as_json)
        else:
            _show_reclaimed(reclaiming.reclaim(landscape, run_ids, quiet_for, force=force), as_json=as_json)


def _show_open_runs(found: Sequence[OpenRun], *, as_json: bool) -> None:
    if as_json:
        show_json([_as_document(run) for run in found])
        return
    numbers = ("open states", "calls without reply")
    lines = [
        (
            run.run_id,
            ", ".join(run.assessments),
            ", ".join(run.partitions) or None,
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
        show_json([_as_document(run) for run in reclaimed])
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


def _stated_options(command: F) -> F:
    command = click.option("--by", required=True, metavar="NAME", help="Who says so.")(command)
    return click.option("--reason", required=True, metavar="TEXT", help="Why, as one line.")(command)


@main.command()
@click.option("--row", "row_key", metavar="KEY", help="What is about the row with this key, in every run.")
@click.option("--assessment", metavar="A", help="With --row: only of this assessment.")
@click.option("--with-rejections", is_flag=True, help="With --row: also rejected records that hold the key as a word.")
@click.option("--run", metavar="RUN", help="What this run read, asked and got.")
@click.option(
    "--older-than",
    metavar="DURATION",
    callback=_duration,
    help="The same of all runs that ended so long ago, like 90d.",
)
@click.option("--reason", metavar="TEXT", help="Why, as one line. It is recorded.")
@click.option("--by", metavar="NAME", help="Who says so. It is recorded.")
@click.option("--yes", is_flag=True, help="Do it. Without this, what would go is listed.")
@click.option("--clean", is_flag=True, help="Only write the database's files anew, after an erasure that could not.")
@_json_option
@_landscape_option
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
    from elspeth_dagster.landscape.ledger import Landscape, now

    named = sum(each is not None for each in (row_key, run, older_than)) + clean
    if named != 1:
        raise click.UsageError("Say what: one of --row, --run, --older-than, or --clean.")
    if row_key is None and (assessment or with_rejections):
        raise click.UsageError("--assessment and --with-rejections go with --row.")
    if not clean and not (reason and by):
        raise click.UsageError("--reason and --by are recorded with an erasure, and must be given.")
    with Landscape.open(url, create=False) as landscape:
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
        show_json(_as_document(found)) if as_json else show(["Would erase:", *plan_lines(found), "Add --yes to do it."])
        return
    done = erasing.erase(landscape, wanted, reason, by)
    if as_json:
        show_json({"erasure": erased_document(done), "plan": _as_document(found)})
        return
    lost = f"{done.payloads:,} payloads are empty, {done.scopes:,} scopes without a key, {done.repacked:,} packed anew"
    show([f"Erased, as {done.erasure.erasure_id}: {lost}.", *plan_lines(found)])


@main.group()
def hold() -> None:
    """Keep what a court or an auditor may ask for: legal holds.

    While a hold is on a run, or on a row, nothing of it is erased. Holds and their releases are facts of the record.

    \b
    elspeth-dagster hold add --row S-1001 --reason "case 7 of 2026" --by "B. Counsel"
    elspeth-dagster hold list
    elspeth-dagster hold release --row S-1001 --reason "case closed" --by "B. Counsel"
    """


def _subject_options(command: F) -> F:
    command = click.option("--assessment", metavar="A", help="With --row: only of this assessment.")(command)
    command = click.option("--run", metavar="RUN", help="This run.")(command)
    return click.option("--row", "row_key", metavar="KEY", help="The row with this key, in every run.")(command)


def _subject(row_key: str | None, run: str | None, assessment: str | None) -> Subject:
    from elspeth_dagster.landscape.holding import Subject
    from elspeth_dagster.landscape.words import ScopeKind

    if (row_key is None) == (run is None):
        raise click.UsageError("Say what: one of --row and --run.")
    if row_key is None and assessment:
        raise click.UsageError("--assessment goes with --row.")
    return Subject(ScopeKind.RUN, run or "") if row_key is None else Subject(ScopeKind.ROW, row_key, assessment)


@hold.command("add")
@_subject_options
@_stated_options
@_landscape_option
def add_hold(row_key: str | None, run: str | None, assessment: str | None, reason: str, by: str, url: str) -> None:
    """Put a hold on a run or a row that is on record."""
    from elspeth_dagster.landscape import holding
    from elspeth_dagster.landscape.ledger import Landscape

    subject = _subject(row_key, run, assessment)
    with Landscape.open(url, create=False) as landscape:
        held = holding.hold(landscape, subject, reason, by)
    show([f"Held: {holding.subject_of(held)}."])


@hold.command("release")
@_subject_options
@_stated_options
@_landscape_option
def release_hold(row_key: str | None, run: str | None, assessment: str | None, reason: str, by: str, url: str) -> None:
    """End the holds that are on exactly this."""
    from elspeth_dagster.landscape import holding
    from elspeth_dagster.landscape.ledger import Landscape

    subject = _subject(row_key, run, assessment)
    with Landscape.open(url, create=False) as landscape:
        ended = holding.release(landscape, subject, reason, by)
    show([f"Released: {holding.subject_of(ended[0])} ({len(ended)} holds)."])


@hold.command("list")
@_json_option
@_landscape_option
def list_holds(as_json: bool, url: str) -> None:
    """List all holds, the oldest first, released ones too."""
    from elspeth_dagster.cli.erasing import hold_line
    from elspeth_dagster.landscape import holding
    from elspeth_dagster.landscape.explaining import document

    with _reading(url) as connection:
        found = holding.every(connection)
    if as_json:
        show_json([{**dict(document(held)), "release": released and document(released)} for held, released in found])
        return
    head = ("kind", "subject", "assessment", "reason", "by", "since (UTC)", "released (UTC)", "released for")
    show(table(head, [hold_line(*each) for each in found]))


@main.command()
@click.option("--print", "printed", is_flag=True, required=True, help="Print the SQL; nothing is run.")
@click.option("--schema", default="public", show_default=True, help="The PostgreSQL schema that holds the landscape.")
@click.option("--prefix", default="elspeth", show_default=True, help="What the roles' names begin with.")
def roles(printed: bool, schema: str, prefix: str) -> None:
    """Print SQL that gives a PostgreSQL landscape three roles.

    PREFIX_owner owns the tables: it upgrades and erases. PREFIX_writer runs assessments: it reads and inserts, and
    changes nothing but operational tables. PREFIX_reader reads. Run it as who may create roles and owns the tables,
    after `upgrade` and after every later one; then let people and services log in as members of these roles.

    \b
    elspeth-dagster roles --print | psql "$ELSPETH_LANDSCAPE_URL"
    """
    from elspeth_dagster.landscape.roles import statements

    for statement in statements(schema, prefix):
        click.echo(statement)


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
