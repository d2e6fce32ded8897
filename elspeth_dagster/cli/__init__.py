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
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from elspeth_dagster.cli.printing import (
    facts,
    instant,
    remark,
    show,
    show_json,
    show_json_list,
    table,
    to_the_second,
)
from elspeth_dagster.core.errors import ElspethError, LandscapeError, ReviewError
from elspeth_dagster.core.money import at_most, money, spent
from elspeth_dagster.core.naming import in_order
from elspeth_dagster.core.settings import default_landscape_url

if TYPE_CHECKING:
    import sqlalchemy as sa

    from elspeth_dagster.cli.estimating import Estimate
    from elspeth_dagster.cli.listing import Uncertain
    from elspeth_dagster.cli.reclaiming import OpenRun, Reclaimed
    from elspeth_dagster.landscape.erasing import Wanted
    from elspeth_dagster.landscape.holding import Subject
    from elspeth_dagster.landscape.ledger import Landscape
    from elspeth_dagster.landscape.records import Run

F = TypeVar("F", bound=Callable[..., Any])

FOUND_WRONG, USED_WRONGLY = 1, 2
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class _Commands(click.Group):
    """Commands whose known errors are one sentence on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ElspethError as error:
            lines = str(error).split("\n") if isinstance(error, ReviewError) else [str(error)]
            for line in [f"Error: {lines[0]}", *lines[1:]]:
                remark(line)
            ctx.exit(FOUND_WRONG if isinstance(error, LandscapeError | ReviewError) else USED_WRONGLY)


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
    prompt, call and reply, each answer and outcome. Most commands read it. Few write: `review import` adds what people
    say of answers, `reclaim` the end of a run that died, `verify --seal-missing` a seal, `keys rotate` another key,
    `hold` legal holds, and `upgrade` brings the schema up. `erase` takes away texts that must go, leaves their names
    and a record of itself. No command changes any other fact.

    \b
    Why did this row get this score?     elspeth-dagster explain latest --row S-1001
    And this one question of it?         elspeth-dagster explain latest --row S-1001 --question cs1_diagnosis
    Which runs are there?                elspeth-dagster runs --assessment case_studies
    Which calls went wrong?              elspeth-dagster calls 3f2a91c4 --errors
    Which may have been paid for naught? elspeth-dagster calls 3f2a91c4 --unknown
    What did it cost?                    elspeth-dagster cost 3f2a91c4
    What will it cost?                   elspeth-dagster estimate my_project/defs/case_studies
    Which runs died and are still open?  elspeth-dagster reclaim
    What do people think of its answers? elspeth-dagster review export 3f2a91c4 --sample 50 --to sheet.csv
    May I read it in a browser?          elspeth-dagster explorer
    Is the record whole and unchanged?   elspeth-dagster verify --all
    How do I prove this one decision?    elspeth-dagster prove 3f2a91c4 --row S-1001 --to S-1001.json
    And hand over the whole run?         elspeth-dagster export 3f2a91c4 --to export.zip
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
    from elspeth_dagster.landscape import browsing

    with _reading(url) as connection:
        found = browsing.newest_runs(connection, assessment=assessment, limit=limit)
    if as_json:
        show_json([_as_document(line) for line in found])
        return
    counts = ("rows", "rejected", "assessed", "partial", "failed", "calls")
    lines = [
        (
            line.run_id,
            ", ".join(line.assessments),
            in_order(line.partitions) or None,
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
            line.endpoint,
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
    words = ("cause", "endpoint", "sent", "reply", "http")
    head = ("call", "row", "question", *numbers[:2], *words, *numbers[2:], "cost", "at most")
    return table(head, lines, numbers=numbers)


def _money(nanousd: int | None) -> str | None:
    return None if nanousd is None else money(nanousd)


@main.command()
@click.argument("run", required=False)
@click.option(
    "--by",
    type=click.Choice(["question", "model", "run", "endpoint"]),
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
@click.option(
    "--partition",
    "partitions",
    multiple=True,
    metavar="KEY",
    help="A partition whose rows are counted, or several: FIRST...LAST. May be given again.",
)
@click.option("--all", "all_partitions", is_flag=True, help="All partitions that there are.")
@_json_option
@_landscape_option
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
    tokens end as interrupted, its calls without a reply as unknown; then it is sealed. Nothing is lost by that. What it
    has recorded
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

    if run_ids and quiet_for is not None:
        raise click.UsageError("Name runs or give --quiet-for, not both.")
    if force and not run_ids and quiet_for is None:
        raise click.UsageError("--force goes with RUN or --quiet-for.")
    with _sealing(url) as landscape:
        if not run_ids and quiet_for is None:
            _show_open_runs(reclaiming.open_runs(landscape), as_json=as_json)
            return
        reclaimed = reclaiming.reclaim(landscape, run_ids, quiet_for, force=force)
        for warning in reclaiming.seal(landscape):
            remark(warning)
    _show_reclaimed(reclaimed, as_json=as_json)


def _show_open_runs(found: Sequence[OpenRun], *, as_json: bool) -> None:
    if as_json:
        show_json([_as_document(run) for run in found])
        return
    numbers = ("open states", "calls without reply")
    lines = [
        (
            run.run_id,
            ", ".join(run.assessments),
            in_order(run.partitions) or None,
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


@main.group()
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
@_landscape_option
def review_export(
    run: str, assessment: str | None, failed: bool, sample: float | None, inputs: bool, path: str, url: str
) -> None:
    """Write a run's answers into a sheet, a CSV file for people.

    It has a line per row and question: what the model answered (answer_FIELD), or why that was refused; and for people
    to fill in: reviewer, verdict (agree, correct or reject), corrected_FIELD, reason. A line without a verdict is not a
    review. Leave the other columns as they are. Text that a spreadsheet program could take for a formula has an
    apostrophe before it; `review import` takes it off again.
    """
    from pathlib import Path

    from elspeth_dagster.cli import sheets
    from elspeth_dagster.landscape.ledger import Landscape

    with Landscape.open(url, create=False) as landscape:
        found, name = _run_and_assessment(landscape, run, assessment)
        written = sheets.write_sheet(landscape, found, name, sheets.Choice(failed, sample, inputs), Path(path))
    remark(f"{written} answers of {name} in run {found.run_id} are in {path}.")


def _run_and_assessment(landscape: Landscape, run: str, assessment: str | None) -> tuple[Run, str]:
    from elspeth_dagster.cli import sheets
    from elspeth_dagster.landscape import runs as on_record
    from elspeth_dagster.landscape.explaining import find_run

    with landscape.read() as connection:
        found = find_run(connection, run, assessment)
        nodes = on_record.nodes_of(connection, found.run_id)
    return found, sheets.only_assessment(nodes, found.run_id, assessment)


@review.command("import")
@click.argument("path", metavar="FILE")
@click.option("--by", metavar="NAME", help="The reviewer of all lines that name none.")
@_json_option
@_landscape_option
def review_import(path: str, by: str | None, as_json: bool, url: str) -> None:
    """Put the reviews of a sheet on record, all or none.

    Each mistake is told with file, line, column and what to do; then nothing is recorded. The same file a second time
    adds nothing. What a reviewer says later of the same answer is a further review: the last one counts, the earlier
    ones stay.
    """
    from pathlib import Path

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
@_json_option
@_landscape_option
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


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=3001, show_default=True, help="The port; 0: any.")
@click.option(
    "--token",
    envvar="ELSPETH_EXPLORER_TOKEN",
    metavar="TEXT",
    help="What a reader must know, 16 characters or more. Default: ELSPETH_EXPLORER_TOKEN, which no list of processes "
    "shows.",
)
@click.option("--name", "names", multiple=True, help="A name it is reached by, behind a proxy. May be given again.")
@click.option("--dagster-url", metavar="URL", help="Dagster's own pages, to link runs to: http://127.0.0.1:3000")
@click.option("--hide-token", is_flag=True, help="Print the address without the token: where what is printed is kept.")
@_landscape_option
def explorer(
    host: str,
    port: int,
    token: str | None,
    names: tuple[str, ...],
    dagster_url: str | None,
    hide_token: bool,
    url: str,
) -> None:
    """Serve web pages to read the landscape with, until Ctrl-C.

    Runs, their rows, each question with its prompt, reply and answer. The database is opened for reading only. The
    pages have no login: they are served on this machine alone, unless a token is set. It goes into the address once,
    then the browser keeps it.

    \b
    elspeth-dagster explorer
    elspeth-dagster explorer --port 8001 --dagster-url http://127.0.0.1:3000
    ELSPETH_EXPLORER_TOKEN=… elspeth-dagster explorer --host 0.0.0.0 --name audit.example.org
    """
    from elspeth_dagster.explorer import serving

    serving.serve(url, serving.Serving(host, port, token, names, dagster_url, hide_token), remark)


@main.command()
@click.argument("run", required=False)
@click.option("--all", "all_runs", is_flag=True, help="Verify every run.")
@click.option(
    "--anchor",
    "anchors",
    multiple=True,
    metavar="FILE",
    help="A file, folder/ or fsspec URL with checkpoints that were kept outside; besides those of ELSPETH_ANCHORS. "
    "May be given several times.",
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="VKEY",
    help="The verifier key that you know the record is signed by; besides that of ELSPETH_SIGNING_KEY.",
)
@click.option(
    "--tsa-certificates",
    "certificates",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The certificates (PEM) that timestamping services are trusted by: checks their timestamps, by openssl.",
)
@click.option("--seal-missing", is_flag=True, help="First seal the runs that ended and have no seal.")
@_json_option
@_landscape_option
def verify(
    run: str | None,
    all_runs: bool,
    anchors: tuple[str, ...],
    keys: tuple[str, ...],
    certificates: Path | None,
    seal_missing: bool,
    as_json: bool,
    url: str,
) -> None:
    """Verify that the record is whole and unchanged, or say what is not.

    Of the installation's log: that no entry is missing or changed, by its checkpoints and those that are held outside.
    Of each run: that its records are those that were sealed, that its seal is signed, that every reference leads
    somewhere, that every row, call and state has its end, and that every payload has the bytes that its name says.
    Each finding names the record, and the rows and questions whose results are in doubt. Payloads that were erased are
    counted, not blamed.

    A checkpoint from outside (--anchor, ELSPETH_ANCHORS) and a key from outside (--key) make the difference: without
    them, whoever could rewrite all of the record could have done so. docs/evidence.md says who can do what, and what
    finds it.

    \b
    elspeth-dagster verify latest
    elspeth-dagster verify --all --anchor /audit/checkpoints.txt --key "$(cat our.vkey)"
    elspeth-dagster verify --seal-missing            only seal what has no seal yet
    """
    from elspeth_dagster.cli import verifying

    if run and all_runs:
        raise click.UsageError("Name a run or give --all, not both.")
    if not (run or all_runs or seal_missing):
        raise click.UsageError("Name a run, or give --all or --seal-missing.")
    with _sealing(url) as landscape:
        if seal_missing:
            for line in verifying.seal_missing(landscape):
                remark(line)
        if not (run or all_runs):
            return
        report = verifying.verify(landscape, run, anchors, keys, certificates)
    if as_json:
        show_json(report.document())
    else:
        show(verifying.told(report))
    if not report.is_sound:
        sys.exit(FOUND_WRONG)


@main.group("keys")
def keys_() -> None:
    """Make, show and change the key that seals are signed with.

    The key is a file that only its owner may read, named by ELSPETH_SIGNING_KEY. What is handed out, to whoever is to
    verify the record, is its verifier key, which `show` prints.

    \b
    elspeth-dagster keys generate --name tenders.example --to /secure/signing.key
    export ELSPETH_SIGNING_KEY=/secure/signing.key
    elspeth-dagster keys show
    """


@keys_.command()
@click.option("--name", default="elspeth-dagster", show_default=True, help="What signatures are called by.")
@click.option("--to", "path", required=True, metavar="FILE", help="The new file; one that is there is never touched.")
def generate(name: str, path: str) -> None:
    """Make a key in a new file, mode 0600, and print its verifier key."""
    from pathlib import Path

    from elspeth_dagster.landscape.signing import make_key

    show([make_key(Path(path), name).verifier.vkey])


@keys_.command("command")
@click.option("--name", default="elspeth-dagster", show_default=True, help="What signatures are called by.")
@click.option("--public-key", required=True, type=click.Path(path_type=Path), help="The public key, PEM or DER.")
@click.option("--to", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The new file.")
@click.argument("words", nargs=-1, required=True, metavar="PROGRAM [ARGUMENT]...")
def command_key(name: str, public_key: Path, to: Path, words: tuple[str, ...]) -> None:
    """Let a program sign, by a key that stays in a KMS or HSM, and print the verifier key.

    The program gets the bytes on its standard input and prints their Ed25519 signature, as 64 bytes or in base64. It is
    run without a shell, and tried once. docs/evidence.md has such programs for AWS KMS and Vault.

    \b
    elspeth-dagster keys command --name tenders.example --public-key kms.pem --to /secure/kms.signer sign-with-kms audit
    export ELSPETH_SIGNING_KEY=/secure/kms.signer
    """
    from elspeth_dagster.landscape.signing import make_commanded

    show([make_commanded(to, name, public_key, words).verifier.vkey])


@keys_.command("show")
@click.argument("path", metavar="[FILE]", envvar="ELSPETH_SIGNING_KEY")
def show_key(path: str) -> None:
    """Print the verifier key of a key file; by default of ELSPETH_SIGNING_KEY."""
    from elspeth_dagster.landscape.signing import read_signer

    show([read_signer(path).verifier.vkey])


@keys_.command()
@click.option("--new", "path", required=True, metavar="FILE", help="The key file that signs from now on.")
@_landscape_option
def rotate(path: str, url: str) -> None:
    """Let another key sign from now on. The one in ELSPETH_SIGNING_KEY signs that it hands over.

    Afterwards set ELSPETH_SIGNING_KEY to the new file, everywhere. What the old key has signed stays valid; who knows
    either key can verify all of it.
    """
    from elspeth_dagster.cli import verifying

    with _sealing(url) as landscape:
        show(verifying.rotate(landscape, path))


@main.command()
@click.argument("run")
@click.option("--row", "row_key", required=True, metavar="KEY", help="The row's key, or '#3' for the record's index.")
@click.option("--assessment", metavar="A", help="Where several assessments of the run have a row with this key.")
@click.option("--to", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The new file.")
@_landscape_option
def prove(run: str, row_key: str, assessment: str | None, to: Path, url: str) -> None:
    """Write the story of one row as one file that anybody can check.

    In it are the row's records and texts, the hashes that lead from each record to the seal of the run, the seal, and
    what the installation's log says of it; and the key by which this row's texts can be held to their names. No data of
    other rows are in it. Whoever gets it checks it with `elspeth-verify FILE --key VKEY`: without this database or
    software, with a verifier key that he has from you by another way.

    \b
    elspeth-dagster prove 3f2a91c4 --row S-1001 --to S-1001.json
    """
    from elspeth_dagster.landscape import proving
    from elspeth_dagster.landscape.ledger import Landscape

    with Landscape.open(url, create=False) as landscape:
        proof = proving.prove(landscape, run, row_key, assessment=assessment)
    with proving.new_file(to) as file:
        file.write(proof)
    show([f"{to}: {len(proof):,} bytes. Check it with: elspeth-verify {to} --key VKEY"])


@main.command("export")
@click.argument("run")
@click.option(
    "--to",
    required=True,
    type=click.Path(path_type=Path),
    metavar="TO",
    help="A new folder, or a new file whose name ends in .zip; a new file for the other formats.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["elspeth", "openlineage", "prov"]),
    default="elspeth",
    show_default=True,
    help="What can be checked against the seal; or OpenLineage events; or PROV-JSON.",
)
@_landscape_option
def export_run(run: str, to: Path, form: str, url: str) -> None:
    """Write all that a run left on record as files that need no database.

    The records, the texts that they name, the keys of the rows' scopes, the seal and the log up to it: every answer can
    be told from these files alone, and `elspeth-verify TO --key VKEY` checks that nothing was changed, left out or
    added. Two exports of a run are the same bytes. They hold all that people wrote: keep them as you keep that.

    \b
    elspeth-dagster export 3f2a91c4 --to export.zip
    elspeth-dagster export latest --to lineage.jsonl --format openlineage
    elspeth-dagster export latest --to provenance.json --format prov
    """
    from elspeth_dagster.landscape import exporting, lineage_events, provenance
    from elspeth_dagster.landscape.ledger import Landscape

    write = {"elspeth": exporting.export, "openlineage": lineage_events.export, "prov": provenance.export}[form]
    with Landscape.open(url, create=False) as landscape:
        run_id = write(landscape, run, to)
    show([f"{to}: run {run_id}"])


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
    from elspeth_dagster.landscape.ledger import now

    named = sum(each is not None for each in (row_key, run, older_than)) + clean
    if named != 1:
        raise click.UsageError("Say what: one of --row, --run, --older-than, or --clean.")
    if row_key is None and (assessment or with_rejections):
        raise click.UsageError("--assessment and --with-rejections go with --row.")
    if not clean and not (reason and by):
        raise click.UsageError("--reason and --by are recorded with an erasure, and must be given.")
    with _sealing(url) as landscape:
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
    for warning in done.warnings:
        remark(warning)
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
def _sealing(url: str) -> Iterator[Landscape]:
    """The landscape with the deployment's key and anchors."""
    from elspeth_dagster.landscape.anchoring import read_anchors
    from elspeth_dagster.landscape.ledger import Landscape
    from elspeth_dagster.landscape.signing import load_signer

    signer = load_signer(os.environ.get("ELSPETH_SIGNING_KEY"))
    anchors = read_anchors(os.environ.get("ELSPETH_ANCHORS"))
    with Landscape.open(url, create=False, signer=signer, anchors=anchors) as landscape:
        yield landscape


@contextmanager
def _reading(url: str) -> Iterator[sa.Connection]:
    from elspeth_dagster.landscape.ledger import Landscape

    with Landscape.open(url, create=False) as landscape, landscape.read() as connection:
        yield connection


def _as_document(line: Any) -> dict[str, Any]:
    from elspeth_dagster.landscape.explaining import document

    return dict(document(line))
