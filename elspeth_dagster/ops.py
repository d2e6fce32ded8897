"""The ops, in walk order. Each reads its context, calls the stages, records, and returns references.

Nothing but ids and counts goes from op to op: rows, prompts, replies and answers are in the landscape. Each op works
by the configuration that `admit_rows` put on record when the run began.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import sqlalchemy as sa

from elspeth_dagster.admitting import admit
from elspeth_dagster.aggregating import flush_batches
from elspeth_dagster.asking import Desk
from elspeth_dagster.calling import Caller
from elspeth_dagster.collecting import Collector, some_of
from elspeth_dagster.conversing import Conversation
from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.errors import ElspethError, LandscapeError, NotOnRecordError, SettingsError
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.core.launch import Launch
from elspeth_dagster.counting import Counts
from elspeth_dagster.identity import assessment_name, begin_run, execution, launch_of, node_id, partition_keys
from elspeth_dagster.landscape import batches, rows, runs, states
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Batch, Run, Token
from elspeth_dagster.landscape.words import TokenKind
from elspeth_dagster.recalling import Lineage, Replay
from elspeth_dagster.reporting import asking_metadata, output_metadata, progress_line
from elspeth_dagster.resources.llm import LLMResource
from elspeth_dagster.resources.source import open_source
from elspeth_dagster.stages.reading import Record, Rejection, read_frame, read_records
from elspeth_dagster.stopping import Stop, asked_by_signals

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
        "goes on with, also when they completed. landscape: any to the same question. none: ask everything anew. Left "
        "out: a re-execution, and a launch after a run that did not complete, goes on; any other asks anew.",
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
SLICE = dg.Out(dict, description="A reference to the admitted slice: its run, assessment and counts.")


@dg.op(
    config_schema=ASSESSMENT_CONFIG,
    out=SLICE,
    tags={"dagster/kind": "source"},
    description="Reads the partition's source. Every record becomes a row with a token, or a rejection with its reason "
    "and its raw text; nothing is dropped. Puts the run and its configuration on record first.",
)
def admit_rows(context: dg.OpExecutionContext, landscape: dg.ResourceParam[Landscape]) -> Reference:
    assessment, partition = _assessment_to_admit(context), _partition(context)
    source, root = assessment.spec.source, Path(context.op_config["project_root"])
    with _plain_errors(context, landscape), _admitting(context, landscape, assessment) as (launch, counts):
        with open_source(source.path or "", root, partition) as (stream, name):
            admitted = _admit(context, landscape, read_records(stream, name, source))
        counts.update(**admitted, source=name, sha256=stream.sha256, size=stream.size)
    return _reference(context, **admitted, launch=launch._asdict())


@dg.op(
    config_schema=ASSESSMENT_CONFIG,
    ins={"source_rows": dg.In(pd.DataFrame, description="The upstream asset.")},
    out=SLICE,
    description="Takes the upstream DataFrame. Every record becomes a row with a token, or a rejection with its "
    "reason; nothing is dropped. Puts the run and its configuration on record first.",
)
def admit_frame(
    context: dg.OpExecutionContext, landscape: dg.ResourceParam[Landscape], source_rows: pd.DataFrame
) -> Reference:
    assessment = _assessment_to_admit(context)
    source = assessment.spec.source
    with _plain_errors(context, landscape), _admitting(context, landscape, assessment) as (launch, counts):
        admitted = _admit(context, landscape, read_frame(source_rows, f"asset {source.asset}", source))
        counts.update(**admitted, source=source.asset)
    return _reference(context, **admitted, launch=launch._asdict())


@dg.op(
    out={
        "shards": dg.DynamicOut(dict, description="A reference to the batches that one step asks."),
        "manifest": dg.Out(dict, description="The keys of all shards, so that one that never ran is missed."),
    },
    description="Groups the rows into batches by the declared triggers, and the batches into shards, one per step.",
)
def aggregate_rows(
    context: dg.OpExecutionContext, landscape: dg.ResourceParam[Landscape], admitted: Reference
) -> Iterator[dg.DynamicOutput[Reference] | dg.Output[Reference]]:
    with _plain_errors(context, landscape):
        _check_own_run(context, landscape, admitted)
        assessment = _assessment_on_record(context, landscape)
        with states.held(landscape, execution(context), _slice_token(context, landscape)) as (_, counts):
            flushed = list(flush_batches(landscape, context.run_id, assessment, admitted["rows"]))
            counts.update(batches=len(flushed), shards=len({batch.shard for batch in flushed}))
    keys = sorted({batch.shard for batch in flushed})
    context.log.info(f"{admitted['rows']} rows in {len(flushed)} batches, asked in {len(keys)} steps")
    launch = admitted["launch"]
    for key in keys:
        yield dg.DynamicOutput(_reference(context, shard=key, launch=launch), mapping_key=key, output_name="shards")
    yield dg.Output(_reference(context, shards=keys, **_counts(admitted), launch=launch), "manifest")


@dg.op(
    out=dg.Out(dict, description="A reference to the shard that was asked, and what that took."),
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
        how = Launch(**shard["launch"])
        asking = _replay if how.mode == "replay" else _ask
        asked = asyncio.run(asking(context, landscape, llm, assessment, to_ask, how))
    context.log.info(progress_line(asked))
    context.add_output_metadata(asking_metadata(asked))
    return _reference(context, shard=shard["shard"], **asdict(asked))


@dg.op(
    out={
        "results": dg.Out(io_manager_key="parquet_io_manager", description="A row per row that has a result."),
        "answers": dg.Out(io_manager_key="parquet_io_manager", description="A row per row and question."),
        "failures": dg.Out(io_manager_key="parquet_io_manager", description="A row per row without all its answers."),
        "rejections": dg.Out(io_manager_key="parquet_io_manager", description="A row per record that is no row."),
    },
    description="Reads the answers back from the record in source order, gives every row its one outcome, and writes "
    "the four assets. Fails when a shard is missing or a question has no answer on record.",
)
def collect_results(
    context: dg.OpExecutionContext, landscape: dg.ResourceParam[Landscape], manifest: Reference, asked: list[Reference]
) -> Iterator[dg.Output[Any]]:
    with _plain_errors(context, landscape):
        _check_own_run(context, landscape, manifest)
        _check_complete(manifest, asked)
        assessment = _assessment_on_record(context, landscape)
        slice_token = _slice_token(context, landscape)
        with states.held(landscape, execution(context), slice_token) as (state, counts):
            collector = Collector(landscape, assessment, context.run_id, state)
            counts.update(collector.decide_outcomes())
            facts = output_metadata(landscape, context.run_id, assessment.spec.name, manifest, asked, counts)
            for name in ("results", "answers", "failures", "rejections"):
                yield dg.Output(getattr(collector, name)(), name, metadata=facts[name])
            landscape.write(collector.complete(slice_token))
        runs.end_if_all_collected(landscape, context.run_id)


def _assessment_to_admit(context: dg.OpExecutionContext) -> Assessment:
    return Assessment.load(context.op_config["assessment"])


def _assessment_on_record(context: dg.OpExecutionContext, landscape: Landscape) -> Assessment:
    here = node_id(assessment_name(context), context.op_handle.name)
    with landscape.read() as connection:
        return Assessment.load(runs.node_config(connection, context.run_id, here))


def _reference(context: dg.OpExecutionContext, **facts: object) -> Reference:
    return {"run_id": context.run_id, "assessment": assessment_name(context), **facts}


def _counts(reference: Reference) -> Reference:
    return {name: reference[name] for name in ("rows", "rejected")}


def _partition(context: dg.OpExecutionContext) -> str | None:
    return context.partition_key if context.has_partition_key else None


@contextmanager
def _plain_errors(context: dg.OpExecutionContext, landscape: Landscape) -> Iterator[None]:
    """What a user can do something about, said in a sentence. A run that was ended meanwhile is told by whom."""
    try:
        yield
    except ElspethError as error:
        end, is_overtaken = None, False
        with suppress(LandscapeError), landscape.read() as connection:  # which may be what failed
            end = runs.end_of(connection, context.run_id)
            is_overtaken = states.is_overtaken(connection, execution(context))
        if end is not None:
            raise dg.Failure(f"This run has ended: {end.detail}.", allow_retries=False) from error
        if is_overtaken:
            overtaken = "A later attempt at this step has begun; this one can record nothing more."
            raise dg.Failure(overtaken, allow_retries=False) from error
        raise dg.Failure(str(error), allow_retries=isinstance(error, LandscapeError)) from error


def _check_own_run(context: dg.OpExecutionContext, landscape: Landscape, reference: Reference) -> None:
    """A re-execution admits its rows anew; a step of another run's slice has nothing to stand on."""
    if (other := reference["run_id"]) == context.run_id:
        return
    with landscape.read() as connection:
        lacking = rows.without_result(connection, other, node_id(assessment_name(context), "admit_rows"))
    left = f" {len(lacking)} rows there have no outcome yet ({some_of(lacking)})." if lacking else ""
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
    known = _slice_token_or_none(context, landscape)
    token = Token(known or new_id(), context.run_id, TokenKind.SLICE, None)
    with states.held(landscape, execution(context), token.token_id, *([] if known else [token])) as (_, counts):
        counts.update({name: choice for name, choice in launch._asdict().items() if choice is not None})
        yield launch, counts


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
        return launch._replace(of_run=_run_to_repeat(context, connection, launch.of_run).run_id)


def _run_to_repeat(context: dg.OpExecutionContext, connection: sa.Connection, run_id: str | None) -> Run:
    if run_id is not None:
        return runs.get(connection, run_id)
    slice_ = assessment_name(context), partition_keys(context)
    if (last := runs.last_completed(connection, *slice_)) is None:
        raise NotOnRecordError("no run of this slice has completed yet. Launch it with mode: ask, or name a run.")
    return last


def _admit(context: dg.OpExecutionContext, landscape: Landscape, read: Iterable[Record | Rejection]) -> dict[str, int]:
    here = node_id(assessment_name(context), "admit_rows")
    admitted, rejected = admit(landscape, context.run_id, here, _partition(context), read)
    context.log.info(f"{admitted + rejected} records read: {admitted} rows admitted, {rejected} rejected")
    return {"rows": admitted, "rejected": rejected}


def _slice_token_or_none(context: dg.OpExecutionContext, landscape: Landscape) -> str | None:
    with landscape.read() as connection:
        return rows.slice_token(connection, context.run_id, node_id(assessment_name(context), "admit_rows"))


def _slice_token(context: dg.OpExecutionContext, landscape: Landscape) -> str:
    token = _slice_token_or_none(context, landscape)
    assert token is not None  # whoever gave us the reference has opened its state
    return token


async def _ask(
    context: dg.OpExecutionContext,
    landscape: Landscape,
    llm: LLMResource,
    assessment: Assessment,
    to_ask: list[Batch],
    launch: Launch,
) -> Counts:
    stop, model = Stop(), assessment.spec.llm.model_name
    with landscape.read() as connection:
        run = runs.get(connection, context.run_id)
    on_unknown, anywhere = assessment.spec.errors.on_unknown, launch.reuse == "landscape"
    memory = Lineage(landscape, run, llm.provider, on_unknown, anywhere=anywhere)
    with asked_by_signals(stop.ask):
        async with llm.wire(model) as wire:
            caller = Caller(landscape, wire, llm.provider, model, stop)
            await caller.begin()
            conversation = Conversation(landscape, assessment, llm.provider, memory, caller)
            return await _desk(context, landscape, llm, assessment, conversation, stop).ask(to_ask, execution(context))


async def _replay(
    context: dg.OpExecutionContext,
    landscape: Landscape,
    llm: LLMResource,
    assessment: Assessment,
    to_ask: list[Batch],
    launch: Launch,
) -> Counts:
    stop = Stop()
    with landscape.read() as connection:
        replayed = runs.get(connection, launch.of_run or "")
    memory = Replay(landscape, replayed, assessment.spec.errors.on_unknown)
    with asked_by_signals(stop.ask):
        conversation = Conversation(landscape, assessment, memory.provider, memory, None)
        return await _desk(context, landscape, llm, assessment, conversation, stop).ask(to_ask, execution(context))


def _desk(
    context: dg.OpExecutionContext,
    landscape: Landscape,
    llm: LLMResource,
    assessment: Assessment,
    conversation: Conversation,
    stop: Stop,
) -> Desk:
    return Desk(
        landscape,
        assessment,
        conversation,
        stop,
        max_concurrency=llm.max_concurrency,
        grace_seconds=llm.grace_seconds,
        report=lambda counts: context.log.info(progress_line(counts)),
    )
