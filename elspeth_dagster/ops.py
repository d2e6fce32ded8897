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

from elspeth_dagster.admitting import admit
from elspeth_dagster.aggregating import flush_batches
from elspeth_dagster.asking import Desk
from elspeth_dagster.collecting import Collector
from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.errors import ElspethError, LandscapeError
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.counting import Counts
from elspeth_dagster.identity import assessment_name, begin_run, execution, node_id
from elspeth_dagster.landscape import batches, rows, runs, states
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Batch, Token
from elspeth_dagster.landscape.words import TokenKind
from elspeth_dagster.reporting import asking_metadata, output_metadata, progress_line
from elspeth_dagster.resources.llm import LLMResource
from elspeth_dagster.resources.source import open_source
from elspeth_dagster.stages.reading import Record, Rejection, read_frame, read_records

Reference = dict[str, Any]
ASSESSMENT_CONFIG = {
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
    with _plain_errors(context, landscape), _admitting(context, landscape, assessment) as counts:
        with open_source(source.path or "", root, partition) as (stream, name):
            admitted = _admit(context, landscape, read_records(stream, name, source))
        counts.update(**admitted, source=name, sha256=stream.sha256, size=stream.size)
    return _reference(context, **admitted)


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
    with _plain_errors(context, landscape), _admitting(context, landscape, assessment) as counts:
        admitted = _admit(context, landscape, read_frame(source_rows, f"asset {source.asset}", source))
        counts.update(**admitted, source=source.asset)
    return _reference(context, **admitted)


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
        _check_own_run(context, admitted)
        assessment = _assessment_on_record(context, landscape)
        with states.held(landscape, execution(context), _slice_token(context, landscape)) as (_, counts):
            flushed = list(flush_batches(landscape, context.run_id, assessment, admitted["rows"]))
            counts.update(batches=len(flushed), shards=len({batch.shard for batch in flushed}))
    keys = sorted({batch.shard for batch in flushed})
    context.log.info(f"{admitted['rows']} rows in {len(flushed)} batches, asked in {len(keys)} steps")
    for key in keys:
        yield dg.DynamicOutput(_reference(context, shard=key), mapping_key=key, output_name="shards")
    yield dg.Output(_reference(context, shards=keys, **_counts(admitted)), "manifest")


@dg.op(
    out=dg.Out(dict, description="A reference to the shard that was asked, and what that took."),
    tags={"dagster/kind": "openai"},
    pool="llm",
    description="Asks every question of every row of its shard, many at once. Each call is on record before it is "
    "sent, each reply before it is used; a row that fails never costs its neighbours.",
)
def ask_batches(
    context: dg.OpExecutionContext, landscape: dg.ResourceParam[Landscape], llm: LLMResource, shard: Reference
) -> Reference:
    with _plain_errors(context, landscape):
        _check_own_run(context, shard)
        assessment = _assessment_on_record(context, landscape)
        with landscape.read() as connection:
            aggregated_by = node_id(assessment.spec.name, "aggregate_rows")
            to_ask = batches.of_shard(connection, context.run_id, aggregated_by, shard["shard"])
        asked = asyncio.run(_ask(context, landscape, llm, assessment, to_ask))
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
        _check_own_run(context, manifest)
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
        end = None
        with suppress(LandscapeError), landscape.read() as connection:  # which may be what failed
            end = runs.end_of(connection, context.run_id)
        if end is not None:
            raise dg.Failure(f"This run has ended: {end.detail}.", allow_retries=False) from error
        raise dg.Failure(str(error), allow_retries=isinstance(error, LandscapeError)) from error


def _check_own_run(context: dg.OpExecutionContext, reference: Reference) -> None:
    """A re-execution admits its rows anew; a step of another run's slice has nothing to stand on."""
    if reference["run_id"] != context.run_id:
        raise LandscapeError(
            f"this step was re-executed without the steps before it, whose rows belong to run {reference['run_id']}. "
            "Re-execute all steps, or 'from asset failure': what is on record there stays."
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
) -> Iterator[dict[str, Any]]:
    """The run begun, and the slice's state at this node for as long as the block runs."""
    begin_run(context, landscape, assessment)
    known = _slice_token_or_none(context, landscape)
    token = Token(known or new_id(), context.run_id, TokenKind.SLICE, None)
    with states.held(landscape, execution(context), token.token_id, *([] if known else [token])) as (_, counts):
        yield counts


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
) -> Counts:
    async with llm.wire(assessment.spec.llm.model_name) as wire:
        desk = Desk(
            landscape,
            wire,
            assessment,
            provider=llm.provider,
            max_concurrency=llm.max_concurrency,
            report=lambda counts: context.log.info(progress_line(counts)),
        )
        return await desk.ask(to_ask, execution(context))
