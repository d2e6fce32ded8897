"""Who executes: what Dagster says about the run and the step, as the record's words."""

import hashlib
import json
import os
import platform
import socket
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.canonical import Json, canonical_json, ordered_json
from elspeth_dagster.core.errors import SettingsError
from elspeth_dagster.core.launch import Launch, Reuse
from elspeth_dagster.landscape import runs, sealing
from elspeth_dagster.landscape.ledger import Landscape, now
from elspeth_dagster.landscape.records import Edge, Node, Payload, Run
from elspeth_dagster.landscape.states import Execution
from elspeth_dagster.landscape.words import Determinism, Mode

WALK = {
    "admit_rows": Determinism.EXTERNAL_READ,
    "aggregate_rows": Determinism.DETERMINISTIC,
    "ask_batches": Determinism.EXTERNAL_CALL,
    "collect_results": Determinism.DETERMINISTIC,
}
RETRY_TAG = "dagster/retry_number"
RETRY_WHOLE = {"dagster/retry_strategy": "FROM_ASSET_FAILURE"}
RANGE_TAG = "dagster/asset_partition_range_start"
VERIFICATION = "_verification"
"""How the name of an assessment's other walk ends, which verifies what the first one recorded."""
VERIFYING = {"verify_answers": Determinism.EXTERNAL_CALL}
FLOWS = [
    ("admit_rows", "aggregate_rows", "rows"),
    ("aggregate_rows", "ask_batches", "shards"),
    ("aggregate_rows", "collect_results", "manifest"),
    ("ask_batches", "collect_results", "answers"),
]


def assessment_name(context: dg.OpExecutionContext) -> str:
    """The assessment that a step belongs to: the graph around its op."""
    return context.op_handle.path[0]


def node_id(assessment: str, op_name: str) -> str:
    """The id of an assessment's op among the nodes of a run."""
    return f"{assessment}.{op_name}"


def execution(context: dg.OpExecutionContext) -> Execution:
    """This execution of this op."""
    mapping_key = context.get_mapping_key()
    return Execution(
        run_id=context.run_id,
        node_id=node_id(assessment_name(context), context.op_handle.name),
        step_key=f"{context.op_handle}[{mapping_key}]" if mapping_key else str(context.op_handle),
        retry_number=context.retry_number,
        host=socket.gethostname(),
        pid=os.getpid(),
    )


def launch_of(context: dg.OpExecutionContext) -> Launch:
    """What was chosen for this run. Raises SettingsError when its assessments were launched with different choices."""
    run_config: Mapping[str, Any] = context.run.run_config
    of_graphs = {name: config.get("config", {}) for name, config in run_config.get("ops", {}).items()}
    chosen = {_launch(of_graphs.get(name, {})) for name in _walks(context, "collect_results")}
    if len(chosen) > 1:
        raise SettingsError("mode, reuse and of_run are choices of a whole run: launch these assessments apart.")
    launch = chosen.pop() if chosen else Launch(mode="verify")
    # An automatic retry of a run that asked anew goes on with it: nobody asked for a second time.
    return launch._replace(reuse=None) if launch.reuse == "none" and RETRY_TAG in context.run.tags else launch


def _launch(config: Mapping[str, Any]) -> Launch:
    return Launch(**{name: config[name] for name in Launch._fields if config.get(name) is not None})


def begin_run(context: dg.OpExecutionContext, landscape: Landscape, assessment: Assessment, launch: Launch) -> None:
    """Put the run, and the ops of this assessment with the configuration they work by, on record."""
    _retry_whole(context)
    config = Payload.of(ordered_json(assessment.document()))
    run_config = Payload.of(canonical_json(_jsonable(context.run.run_config)))
    walk = assessment_name(context)
    verifies = context.op_handle.name in VERIFYING
    nodes = [
        Node(
            run_id=context.run_id,
            node_id=node_id(walk, op_name),
            assessment=walk,
            op_name=op_name,
            version=assessment.version,
            determinism=determinism,
            config_ref=config.ref,
        )
        for op_name, determinism in (VERIFYING if verifies else WALK).items()
    ]
    edges = [
        Edge(context.run_id, node_id(walk, source), node_id(walk, target), label)
        for source, target, label in ([] if verifies else FLOWS)
    ]
    run = _run(context, run_config.ref, launch)
    reuse = launch.reuse or _reuse_after_a_crash(context, landscape, launch)
    runs.begin(landscape, run, nodes, edges, [config, run_config], reuse=reuse)
    seal_what_ended(context, landscape)


def seal_what_ended(context: dg.OpExecutionContext, landscape: Landscape, first: str | None = None) -> None:
    """Seal the runs that have ended, this one first, and publish the log. What fails stops nothing, and is told."""
    for warning in sealing.seal_if_possible(landscape, first=first):
        context.log.warning(warning)


def _retry_whole(context: dg.OpExecutionContext) -> None:
    """Have an automatic retry walk from the start, also where assets were materialized without one of our jobs.

    Dagster's own choice leaves out mapped steps that never ran (https://github.com/dagster-io/dagster/issues/30077).
    """
    if not RETRY_WHOLE.keys() & context.run.tags.keys():
        context.instance.add_run_tags(context.run_id, RETRY_WHOLE)


def _reuse_after_a_crash(context: dg.OpExecutionContext, landscape: Landscape, launch: Launch) -> Reuse | None:
    """Go on from a run that is complete on record and failed in Dagster: a step can outlive its run's worker."""
    with landscape.read() as connection:
        last = runs.last_collected(connection, assessment_name(context), partition_keys(context))
    known = context.instance.get_run_by_id(last.run_id) if last and launch.mode == "ask" else None
    return "lineage" if known and known.status is not dg.DagsterRunStatus.SUCCESS else None


def _run(context: dg.OpExecutionContext, config_ref: str, launch: Launch) -> Run:
    run = context.run
    return Run(
        run_id=run.run_id,
        parent_run_id=run.parent_run_id,
        root_run_id=run.root_run_id or run.run_id,
        job_name=run.job_name,
        assessments=json.dumps(_walks(context, *runs.LAST_OPS)),
        partition_keys=partition_keys(context),
        config_ref=config_ref,
        package_version=version("elspeth-dagster"),
        code_version=code_version(),
        dagster_version=version("dagster"),
        python_version=platform.python_version(),
        host=socket.gethostname(),
        started_at=now(),
        mode=Mode(launch.mode),
    )


def partitions(context: dg.OpExecutionContext | dg.AssetCheckExecutionContext) -> list[str]:
    """The partitions of this run, in their order: one, those of a single run's range, or none."""
    if context.has_partition_key:
        return [str(context.partition_key)]
    if RANGE_TAG in context.run.tags:
        return [str(key) for key in context.partition_keys]
    return []


def partition(context: dg.OpExecutionContext) -> str | None:
    """The only partition of this run; None without partitions. Raises SettingsError for a run of several at once."""
    keys = partitions(context)
    if len(keys) > 1:
        raise SettingsError(
            f"this takes one partition a run, and {len(keys)} were launched as one. Launch them as a backfill with one "
            "run per partition. An assessment takes several in one run where it declares `backfill: single_run`."
        )
    return keys[0] if keys else None


def partition_keys(context: dg.OpExecutionContext) -> str:
    """The partitions of this run, as the record keeps them."""
    return json.dumps(partitions(context))


def _walks(context: dg.OpExecutionContext, *last_ops: str) -> list[str]:
    """The walks of this run: its graphs that have one of these ops."""
    return sorted(
        node.name
        for node in context.job_def.nodes
        if isinstance(node.definition, dg.GraphDefinition) and set(last_ops) & set(node.definition.node_dict)
    )


@cache
def code_version() -> str:
    """The hash of this package's own source files."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return f"sha256:{digest.hexdigest()}"


def _jsonable(config: object) -> Json:
    return json.loads(json.dumps(config, default=str))
