"""The ops, in walk order. Each reads its context, calls the stages, records, and returns references.

Nothing but ids and counts goes from op to op: rows, prompts, replies and answers are in the landscape. Each op works
by the configuration that `admit_rows` put on record when the run began.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import sqlalchemy as sa

from elspeth_dagster.admitting import admit
from elspeth_dagster.aggregating import flush_batches
from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.errors import (
    ElspethError,
    LandscapeError,
    LimitError,
    NotOnRecordError,
    SettingsError,
)
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.core.launch import Launch
from elspeth_dagster.core.naming import Some
from elspeth_dagster.engaging import Engagement
from elspeth_dagster.estimating import Deployment, Estimate, estimate, load_of_slice
from elspeth_dagster.hosting import check_hosts_agree, check_recorded_here
from elspeth_dagster.identity import (
    VERIFICATION,
    assessment_name,
    begin_run,
    execution,
    launch_of,
    node_id,
    partition,
    partitions,
    seal_what_ended,
)
from elspeth_dagster.landscape import answers, batches, experience, rows, runs, states
from elspeth_dagster.landscape.flushed import rows_of_shard
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import NodeState, Run, Token
from elspeth_dagster.landscape.words import TokenKind
from elspeth_dagster.observing import ingredient_versions, source_version, tell_versions
from elspeth_dagster.progressing import Progress, progress_line
from elspeth_dagster.recounting import failure_lines
from elspeth_dagster.reporting import (
    agreement_check,
    asking_metadata,
    explorer_link,
    held_back,
    newest_checkpoint,
    output_metadata,
    review_metadata,
)
from elspeth_dagster.resources.frames import FRAME
from elspeth_dagster.resources.llm import LLMResource
from elspeth_dagster.resources.parquet import Table, Tables
from elspeth_dagster.running import run
from elspeth_dagster.sourcing import Slice
from elspeth_dagster.stages.planning import RunPlan
from elspeth_dagster.stages.querying import questions
from elspeth_dagster.stages.reading import Record, Rejection, read_frame
from elspeth_dagster.verifying import Verification

if TYPE_CHECKING:  # slow to import, see `collect_results`
    from elspeth_dagster.collecting import Collector

Reference = dict[str, Any]
LAUNCH_CONFIG = {
    "mode": dg.Field(
        dg.Enum("Mode", [dg.EnumValue("ask"), dg.EnumValue("replay")]),
        default_value="ask",
        description="ask: ask the provider. replay: take every reply from the record of an earlier run, send nothing, "
        "and make the same tables again.",
    ),
    "reuse": dg.Field(
        dg.Enum("Reuse", [dg.EnumValue("lineage"), dg.EnumValue("landscape"), dg.EnumValue("none")]),
        is_required=False,
        description="Which recorded replies are used instead of asking again. lineage: those of the runs that this one "
        "goes on with, also when they completed. landscape: any to the same question about the row, of whatever run. "
        "none: ask everything anew. Left out: a re-execution, and a launch after a run that did not complete, goes on; "
        "any other asks anew.",
    ),
    "of_run": dg.Field(
        str,
        is_required=False,
        description="With mode replay, the run to replay. Left out: the last one of this slice that completed.",
    ),
}
ASSESSMENT_CONFIG = {
    **LAUNCH_CONFIG,
    "assessment": dg.Field(dict, description="The assessment: its spec, template texts and lookup data."),
    "project_root": dg.Field(str, description="The folder at which relative source paths start."),
}
ASKED_BY = {"asked_by": dg.In(dg.Nothing, description="Templates, criteria, lookup and source: they bring no data.")}
NOTHING_MADE = (
    "Nothing was materialized, since the source's file is not there: the partition stays missing, and tables of an "
    "earlier run stay as they are. Launch it again when the file has come."
)
REFERENCES = "reference_io_manager"
SLICE = dg.Out(
    dict, io_manager_key=REFERENCES, description="A reference to the admitted slice: its run, assessment and counts."
)


@dg.op(
    config_schema=ASSESSMENT_CONFIG,
    ins=ASKED_BY,
    out=SLICE,
    tags={"dagster/kind": "source"},
    description="Reads the source of its partition, or of several one after another. Every record becomes a row with a "
    "token, or a rejection with its reason and its raw text; nothing is dropped. Puts the run and its configuration on "
    "record first.",
)
def admit_rows(context: dg.OpExecutionContext, landscape: dg.ResourceParam[Landscape]) -> Reference:
    assessment, root = _assessment_to_admit(context), Path(context.op_config["project_root"])
    with _plain_errors(context, landscape):
        keys = _partitions_to_admit(context, assessment)
        with _admitting(context, landscape, assessment) as (launch, counts):
            slice_ = Slice(landscape, assessment.spec, root, keys)
            admitted = _admit(context, landscape, slice_.records())
            counts.update(**admitted, **slice_.facts())
            _tell_source(context, assessment, slice_.versions)
    for missing in slice_.missing:
        context.log.warning(f"{missing} Skipped, since source.missing is skip.")
    facts = {"versions": list(slice_.versions.items()), "is_missing": slice_.is_missing}
    return _reference(context, **admitted, **facts, launch=launch._asdict())


@dg.op(
    config_schema=ASSESSMENT_CONFIG,
    ins={"source_rows": dg.In(FRAME, description="The upstream asset."), **ASKED_BY},
    out=SLICE,
    description="Takes the upstream DataFrame. Every record becomes a row with a token, or a rejection with its "
    "reason; nothing is dropped. Puts the run and its configuration on record first.",
)
def admit_frame(context: dg.OpExecutionContext, landscape: dg.ResourceParam[Landscape], source_rows: Any) -> Reference:
    assessment = _assessment_to_admit(context)
    source = assessment.spec.source
    with _plain_errors(context, landscape):
        only = partition(context)
        with _admitting(context, landscape, assessment) as (launch, counts):
            read = read_frame(source_rows, f"asset {source.asset}", source, only)
            admitted = _admit(context, landscape, read)
            counts.update(**admitted, source=source.asset)
    return _reference(context, **admitted, versions=[], launch=launch._asdict())


@dg.op(
    out={
        "shards": dg.DynamicOut(
            dict, io_manager_key=REFERENCES, description="A reference to the batches that one step asks."
        ),
        "manifest": dg.Out(
            dict, io_manager_key=REFERENCES, description="The keys of all shards, so that one that never ran is missed."
        ),
    },
    description="Groups the rows into batches by the declared triggers, and the batches into shards, one per step.",
)
def aggregate_rows(
    context: dg.OpExecutionContext, landscape: dg.ResourceParam[Landscape], llm: LLMResource, admitted: Reference
) -> Iterator[dg.DynamicOutput[Reference] | dg.Output[Reference]]:
    with _plain_errors(context, landscape):
        _check_own_run(context, landscape, admitted)
        assessment = _assessment_on_record(context, landscape)
        with states.held(landscape, execution(context), _slice_token(context, landscape)) as (_, counts):
            flushed = flush_batches(landscape, context.run_id, assessment, admitted["rows"])
            batches_of = Counter(batch.shard for batch in flushed)
            counts.update(batches=batches_of.total(), shards=len(batches_of))
        keys = sorted(batches_of)
        estimated = _estimate(context, landscape, llm, assessment, admitted["rows"], batches_of)
    of_several = f"{len(taken)} partitions: " if len(taken := partitions(context)) > 1 else ""
    context.log.info(f"{of_several}{admitted['rows']} rows in {batches_of.total()} batches, asked in {len(keys)} steps")
    context.log.info(f"Before retries, repairs and what is on record already: {estimated.line()}")
    launch = admitted["launch"]
    for key in keys:
        shard = _reference(context, shard=key, rows=admitted["rows"], launch=launch)
        yield dg.DynamicOutput(shard, mapping_key=key, output_name="shards")
    is_missing = admitted.get("is_missing", False)
    manifest = _reference(context, shards=keys, **_counts(admitted), launch=launch, is_missing=is_missing)
    yield dg.Output(manifest, "manifest")


@dg.op(
    out=dg.Out(
        dict, io_manager_key=REFERENCES, description="A reference to the shard that was asked, and what that took."
    ),
    tags={"dagster/kind": "openai"},
    pool="llm",
    description="Asks every question of every row of its shard, many at once. Each call is on record before it is "
    "sent, each reply before it is used; what was answered before a crash is not asked again; a row that fails never "
    "costs its neighbours.",
)
def ask_batches(
    context: dg.OpExecutionContext, landscape: dg.ResourceParam[Landscape], llm: LLMResource, shard: Reference
) -> Reference:
    with _plain_errors(context, landscape):
        _check_own_run(context, landscape, shard)
        assessment = _assessment_on_record(context, landscape)
        with landscape.read() as connection:
            aggregated_by = node_id(assessment.spec.name, "aggregate_rows")
            to_ask = batches.of_shard(connection, context.run_id, aggregated_by, shard["shard"])
            row_count = rows_of_shard(connection, context.run_id, aggregated_by, shard["shard"])
        with _what_is_left_told(context, landscape, assessment, shard["rows"]):
            engagement = _engagement(context, landscape, llm, assessment, row_count * len(questions(assessment)))
            asked, pace = run(engagement.ask(to_ask, Launch(**shard["launch"]), shard["rows"]))
    context.log.info(progress_line(asked, pace))
    context.add_output_metadata(asking_metadata(asked, landscape, execution(context), pace))
    return _reference(context, shard=shard["shard"], **asdict(asked), **held_back(pace))


def _table_out(description: str) -> dg.Out:
    """A table that stays as it is where the source's file is missing and may be."""
    return dg.Out(io_manager_key="parquet_io_manager", is_required=False, description=description)


@dg.op(
    out={
        "results": _table_out("A row per row that has a result."),
        "answers": _table_out("A row per row and question."),
        "failures": _table_out("A row per row without all its answers."),
        "rejections": _table_out("A row per record that is no row."),
    },
    description="Reads the answers back from the record in source order, gives every row its one outcome, and writes "
    "the four assets. Fails when a shard is missing or a question has no answer on record.",
)
def collect_results(
    context: dg.OpExecutionContext, landscape: dg.ResourceParam[Landscape], manifest: Reference, asked: list[Reference]
) -> Iterator[dg.Output[Any]]:
    # Here, because definitions are loaded far more often than tables are made, and pyarrow is slow to import.
    from elspeth_dagster.collecting import Collector

    with _plain_errors(context, landscape):
        _check_own_run(context, landscape, manifest)
        _check_complete(manifest, asked)
        assessment = _assessment_on_record(context, landscape)
        slice_token = _slice_token(context, landscape)
        tell_versions(context, ingredient_versions(assessment))
        _tell_source(context, assessment, dict(manifest["versions"]))
        with states.held(landscape, execution(context), slice_token) as (state, counts):
            collector = Collector(landscape, assessment, context.run_id, state)
            fates = collector.decide_outcomes()
            counts.update(sum(fates.values(), Counter()))
            told = [_told(landscape, collector, part, asked, fates[part.partition]) for part in collector.parts]
            for line in failure_lines(landscape, context.run_id, assessment.spec.name):
                context.log.warning(line)
            link = explorer_link(landscape, context.run_id)
            for name in () if manifest["is_missing"] else ("results", "answers", "failures", "rejections"):
                yield _output(collector, name, [facts[name] for facts in told], link)
            collector.complete(slice_token)
        runs.end_if_all_collected(landscape, context.run_id)
        seal_what_ended(context, landscape, context.run_id)
    if manifest["is_missing"]:
        context.log.warning(NOTHING_MADE)


def _told(
    landscape: Landscape, collector: "Collector", part: rows.Part, asked: list[Reference], fates: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """The metadata of the four tables of a part."""
    assessment = collector.assessment
    facts = output_metadata(landscape, collector.run_id, assessment, part, asked, fates)
    if assessment.spec.review:
        facts["results"] |= review_metadata(collector.judgements(part), questions(assessment))
    facts["results"] |= newest_checkpoint(landscape)
    return facts


def _output(
    collector: "Collector", name: str, told: list[dict[str, Any]], link: Mapping[str, Any]
) -> dg.Output[Table | Tables]:
    """A table; of a run with several partitions one for each, which tells its own numbers."""
    tables = [collector.table(name, part) for part in collector.parts]
    if len(tables) == 1:
        return dg.Output(tables[0], name, metadata={**told[0], **link})
    keys = [str(part.partition) for part in collector.parts]
    of_partitions = {key: table.telling(facts) for key, table, facts in zip(keys, tables, told, strict=True)}
    return dg.Output(Tables(of_partitions), name, metadata={"partitions": len(keys), **link})


@dg.op(
    config_schema={
        "sample": dg.Field(
            float,
            default_value=0.05,
            description="Which share of the accepted answers is asked again, above 0 and up to 1; at least one is.",
        ),
        "min_agreement": dg.Field(
            float,
            default_value=0.9,
            description="The least share of cells that must come back the same for the check `agreement` to pass.",
        ),
        "of_run": dg.Field(
            str,
            is_required=False,
            description="The run that is verified. Left out: the last one of this slice that completed.",
        ),
    },
    ins={"results": dg.In(dg.Nothing)},
    out={
        "verification": dg.Out(
            io_manager_key="parquet_io_manager", description="A row per field of each answer that was asked again."
        ),
        "agreement": dg.Out(dg.Nothing, description="The check whether enough answers still agree."),
    },
    tags={"dagster/kind": "openai"},
    pool="llm",
    description="Sends some of a run's recorded requests once more and compares the answers, field by field. Each call "
    "is on record before it is sent; the results stay as they are.",
)
def verify_answers(
    context: dg.OpExecutionContext, landscape: dg.ResourceParam[Landscape], llm: LLMResource
) -> Iterator[dg.Output[Any] | dg.AssetCheckResult]:
    from elspeth_dagster.comparing import Comparison  # as above

    config, here = context.op_config, execution(context).node_id
    with _plain_errors(context, landscape):
        verified, assessment = _to_verify(context, landscape)
        begin_run(context, landscape, assessment, launch_of(context))
        with _slice_held(context, landscape) as (state, counts):
            verification = Verification(landscape, assessment, verified, context.run_id, here, partition(context))
            drawn = verification.draw(config["sample"])
            engagement = _engagement(context, landscape, llm, assessment, verification.size)
            asked, pace = run(engagement.ask_again(verification, drawn))
            comparison = Comparison(landscape, context.run_id, here, questions(assessment))
            table = comparison.table(verification.sampled, state)
            facts = asking_metadata(asked, landscape, execution(context), pace)
            yield dg.Output(table, "verification", metadata={**facts, "of_run": verified.run_id})
            yield agreement_check(assessment.spec.name, comparison, config["min_agreement"])
            counts.update({**asdict(asked), **comparison.numbers, "of_run": verified.run_id})
            landscape.write(*verification.fates(state))
        runs.end_if_all_collected(landscape, context.run_id)
        seal_what_ended(context, landscape, context.run_id)


def _to_verify(context: dg.OpExecutionContext, landscape: Landscape) -> tuple[Run, Assessment]:
    """The run that is verified, and the assessment as it was then."""
    if launch_of(context).mode == "replay":
        raise SettingsError("a replay sends nothing, a verification asks: launch them apart.")
    for name in ("sample", "min_agreement"):
        if not 0 <= context.op_config[name] <= 1:
            raise SettingsError(f"{name} is {context.op_config[name]}; it must be from 0 to 1.")
    partition(context)
    name = assessment_name(context).removesuffix(VERIFICATION)
    with landscape.read() as connection:
        verified = _run_to_repeat(context, connection, name, context.op_config.get("of_run"))
        return verified, Assessment.load(runs.node_config(connection, verified.run_id, node_id(name, "ask_batches")))


def _assessment_to_admit(context: dg.OpExecutionContext) -> Assessment:
    return Assessment.load(context.op_config["assessment"])


def _assessment_on_record(context: dg.OpExecutionContext, landscape: Landscape) -> Assessment:
    here = node_id(assessment_name(context), context.op_handle.name)
    with landscape.read() as connection:
        return Assessment.load(runs.node_config(connection, context.run_id, here))


def _reference(context: dg.OpExecutionContext, **facts: object) -> Reference:
    return {"run_id": context.run_id, "assessment": assessment_name(context), **facts}


def _counts(reference: Reference) -> Reference:
    return {name: reference[name] for name in ("rows", "rejected", "versions")}


def _partitions_to_admit(context: dg.OpExecutionContext, assessment: Assessment) -> list[str]:
    """The partitions of this run. Raises SettingsError for several where the assessment takes one at a time."""
    if assessment.spec.backfill == "per_partition":
        partition(context)
    return partitions(context)


def _tell_source(
    context: dg.OpExecutionContext, assessment: Assessment, versions: Mapping[str | None, str | None]
) -> None:
    for key, version in versions.items():
        tell_versions(context, source_version(assessment, version), key)


@contextmanager
def _plain_errors(context: dg.OpExecutionContext, landscape: Landscape) -> Iterator[None]:
    """What a user can do something about, said in a sentence. A run that was ended meanwhile is told by whom."""
    try:
        check_hosts_agree(context, landscape)
        yield
    except LimitError as error:  # its own states are interrupted: nobody else took over
        raise dg.Failure(str(error), allow_retries=False) from error
    except ElspethError as error:
        end, is_overtaken = None, False
        with suppress(LandscapeError), landscape.read() as connection:  # which may be what failed
            end = runs.end_of(connection, context.run_id)
            is_overtaken = states.is_overtaken(connection, execution(context))
        if end is not None:
            told = end.detail or end.status.value
            raise dg.Failure(f"This run has ended: {told}.", allow_retries=False) from error
        if is_overtaken:
            overtaken = "A later attempt at this step has begun; this one can record nothing more."
            raise dg.Failure(overtaken, allow_retries=False) from error
        raise dg.Failure(str(error), allow_retries=isinstance(error, LandscapeError)) from error


def _check_own_run(context: dg.OpExecutionContext, landscape: Landscape, reference: Reference) -> None:
    """A re-execution admits its rows anew; a step of another run's slice has nothing to stand on."""
    if (other := reference["run_id"]) == context.run_id:
        check_recorded_here(context, landscape)
        return
    with landscape.read() as connection:
        lacking = Some()
        lacking.add(rows.without_result(connection, other, node_id(assessment_name(context), "admit_rows")))
    left = f" {lacking.number} rows there have no outcome yet ({lacking})." if lacking else ""
    raise LandscapeError(
        f"this step was re-executed without the steps before it, whose rows belong to run {other}.{left} "
        "Launch the partition again, or re-execute all steps, or 'from asset failure': "
        "what is answered there is not asked again."
    )


def _check_complete(manifest: Reference, asked: list[Reference]) -> None:
    if missing := sorted(set(manifest["shards"]) - {shard["shard"] for shard in asked}):
        raise LandscapeError(
            f"{len(missing)} of {len(manifest['shards'])} shards were never asked ({', '.join(missing[:5])}). "
            "Launch the partition again; a result without them would be a smaller result."
        )


@contextmanager
def _admitting(
    context: dg.OpExecutionContext, landscape: Landscape, assessment: Assessment
) -> Iterator[tuple[Launch, dict[str, Any]]]:
    """The run begun as it was launched, and the slice's state at this node for as long as the block runs."""
    launch = _launch(context, landscape)
    begin_run(context, landscape, assessment, launch)
    with _slice_held(context, landscape) as (_, counts):
        counts.update({name: choice for name, choice in launch._asdict().items() if choice is not None})
        yield launch, counts


@contextmanager
def _slice_held(context: dg.OpExecutionContext, landscape: Landscape) -> Iterator[tuple[NodeState, dict[str, Any]]]:
    """The slice's state at the first node of its walk."""
    known = _slice_token_or_none(context, landscape)
    token = Token(known or new_id(), context.run_id, TokenKind.SLICE, None)
    with states.held(landscape, execution(context), token.token_id, *([] if known else [token])) as held:
        yield held


def _launch(context: dg.OpExecutionContext, landscape: Landscape) -> Launch:
    """What was chosen for this run, with the run that is to be replayed. Raises NotOnRecordError if there is none."""
    launch = launch_of(context)
    if launch.mode == "ask":
        if launch.of_run is not None:
            raise SettingsError("of_run goes with mode: replay. Take it out, or set the mode.")
        return launch
    if launch.reuse is not None:
        raise SettingsError("mode: replay takes every reply from the one run; reuse does not go with it. Take it out.")
    with landscape.read() as connection:
        replayed = _run_to_repeat(context, connection, assessment_name(context), launch.of_run)
    return launch._replace(of_run=replayed.run_id)


def _run_to_repeat(
    context: dg.OpExecutionContext, connection: sa.Connection, assessment: str, run_id: str | None
) -> Run:
    if run_id is not None:
        return runs.get(connection, run_id)
    if (last := runs.last_covering(connection, assessment, partitions(context))) is None:
        raise NotOnRecordError("no run of this slice has completed yet. Launch one that asks first, or name a run.")
    return last


def _admit(context: dg.OpExecutionContext, landscape: Landscape, read: Iterable[Record | Rejection]) -> dict[str, int]:
    name = assessment_name(context)
    here = node_id(name, "admit_rows")
    admitted, rejected = admit(landscape, context.run_id, name, here, read)
    context.log.info(f"{admitted + rejected} records read: {admitted} rows admitted, {rejected} rejected")
    return {"rows": admitted, "rejected": rejected}


def _slice_token_or_none(context: dg.OpExecutionContext, landscape: Landscape) -> str | None:
    first = "verify_answers" if context.op_handle.name == "verify_answers" else "admit_rows"
    with landscape.read() as connection:
        return rows.slice_token(connection, context.run_id, node_id(assessment_name(context), first))


def _slice_token(context: dg.OpExecutionContext, landscape: Landscape) -> str:
    token = _slice_token_or_none(context, landscape)
    assert token is not None  # whoever gave us the reference has opened its state
    return token


def _estimate(
    context: dg.OpExecutionContext,
    landscape: Landscape,
    llm: LLMResource,
    assessment: Assessment,
    row_count: int,
    batches_of: Counter[str],
) -> Estimate:
    declared = assessment.spec.llm.endpoints
    deployment = Deployment(llm.provider, *llm.capacity(declared), llm.endpoints_for(declared))
    load = load_of_slice(landscape, assessment, context.run_id, row_count, deployment)
    with landscape.read() as connection:
        learnt = experience.of(connection, assessment.spec.name, assessment.spec.llm.model_name)
    taken = tuple(partitions(context))
    plan = RunPlan(taken, row_count, 0, batches_of.total(), len(batches_of), load.calls)
    return estimate(assessment, [plan], load, learnt, deployment)


@contextmanager
def _what_is_left_told(
    context: dg.OpExecutionContext, landscape: Landscape, assessment: Assessment, row_count: int
) -> Iterator[None]:
    """A run that goes no further says how much it leaves."""
    try:
        yield
    except LimitError as error:
        planned, here = row_count * len(questions(assessment)), execution(context)
        with landscape.read() as connection:
            left = planned - answers.settled(connection, here.run_id, here.node_id)
        raise type(error)(f"{error} {left} of {planned} questions are left.") from error


def _engagement(
    context: dg.OpExecutionContext, landscape: Landscape, llm: LLMResource, assessment: Assessment, to_settle: int
) -> Engagement:
    progress = Progress(to_settle, len(questions(assessment)), context.log.info)
    return Engagement(landscape, llm, assessment, execution(context), progress.tell)
