"""The walk on one screen.

source slice ─► admit_rows ─► aggregate_rows ─► ask_batches[shard] ─► collect_results ─► four assets

And the one beside it: recorded answers ─► verify_answers ─► the asset `verification` and its check.
"""

from collections.abc import Callable, Sequence
from inspect import Parameter, Signature
from typing import Any, TypeVar

import dagster as dg

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.identity import VERIFICATION
from elspeth_dagster.ops import (
    LAUNCH_CONFIG,
    admit_frame,
    admit_rows,
    aggregate_rows,
    ask_batches,
    collect_results,
    verify_answers,
)

ASSETS = ("results", "answers", "failures", "rejections")
Outputs = dict[str, Any]
Walk = TypeVar("Walk", bound=Callable[..., Outputs])
OUTS = {name: dg.GraphOut() for name in ASSETS}


def assessment_graph(
    assessment: Assessment, project_root: str, description: str, asked_by: Sequence[str]
) -> dg.GraphDefinition:
    """The walk for one assessment. Every assessment walks through the same four ops.

    `asked_by` names inputs that bring nothing: the graph depends on what stands for them.
    """
    name = assessment.spec.name
    config = _launch_config({"assessment": assessment.document(), "project_root": project_root})

    @dg.graph(name=name, description=description, out=OUTS, config=config)
    @_with_inputs(asked_by)
    def walk_from_files(**asked_by: Any) -> Outputs:
        shards, manifest = aggregate_rows(admit_rows([*asked_by.values()]))
        asked = shards.map(ask_batches)
        return _four(collect_results(manifest, asked.collect()))

    @dg.graph(name=name, description=description, out=OUTS, config=config)
    @_with_inputs(["source_rows", *asked_by])
    def walk_from_an_asset(source_rows: Any, **asked_by: Any) -> Outputs:
        admitted = admit_frame.alias("admit_rows")(source_rows, [*asked_by.values()])
        shards, manifest = aggregate_rows(admitted)
        asked = shards.map(ask_batches)
        return _four(collect_results(manifest, asked.collect()))

    return walk_from_files if assessment.spec.source.asset is None else walk_from_an_asset


def verification_graph(assessment: str) -> dg.GraphDefinition:
    """The walk that asks some of an assessment's recorded questions again."""

    @dg.graph(
        name=f"{assessment}{VERIFICATION}",
        description=f"Asks some recorded questions of assessment {assessment} again, and compares the answers.",
        out={"verification": dg.GraphOut(), f"{assessment}__verification_agreement": dg.GraphOut()},
    )
    def walk_again(results: Any) -> Outputs:
        verification, agreement = verify_answers(results)
        return {"verification": verification, f"{assessment}__verification_agreement": agreement}

    return walk_again


def _with_inputs(names: Sequence[str]) -> Callable[[Walk], Walk]:
    """The walk with these inputs, which Dagster reads off its signature."""

    def named(walk: Walk) -> Walk:
        inputs = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        walk.__signature__ = Signature(inputs)  # type: ignore[attr-defined]
        return walk

    return named


def _launch_config(declared: dict[str, Any]) -> dg.ConfigMapping:
    """A launch chooses mode and reuse; the assessment itself is fixed when the code location is loaded."""
    return dg.ConfigMapping(
        config_fn=lambda chosen: {"admit_rows": {"config": {**declared, **chosen}}}, config_schema=LAUNCH_CONFIG
    )


def _four(collected: Any) -> Outputs:
    return {name: getattr(collected, name) for name in ASSETS}
