"""The four assets of an assessment as the UI presents them: what they are, whose, made of what, by which code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from elspeth_dagster.components.automating import automation_condition, freshness_policy
from elspeth_dagster.components.ingredients import code_references
from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.describing import source_key, table_metadata
from elspeth_dagster.graphs import ASSETS, assessment_graph
from elspeth_dagster.observing import ingredient_versions
from elspeth_dagster.stages.querying import questions

DESCRIPTIONS = {
    "results": "A row per source row that has a result: its columns, then {{question}}_{{field}} for the "
    "{questions} questions that {model} is asked about each row.",
    "answers": "A row per source row and question: the answer or its refusal, the calls it took, usage and cost.",
    "failures": "A row per source row without all its answers, with each question's own reason.",
    "rejections": "A row per source record that could not become a row, with the reason and its raw text.",
}
KINDS = {
    "results": ("llm", "parquet"),
    "answers": ("llm", "parquet"),
    "failures": ("parquet",),
    "rejections": ("parquet",),
}


def assessment_assets(
    assessment: Assessment,
    project_root: Path,
    folder: Path,
    partitions: dg.PartitionsDefinition | None,
    code_version: str,
) -> dg.AssetsDefinition:
    """The four assets, which depend on the source and on all that is asked by; rejections on the source alone."""
    spec, source = assessment.spec, source_key(assessment.spec)
    asked_by = [*ingredient_versions(assessment)]
    observed = [*asked_by, *([source] if spec.source.asset is None else [])]
    inputs = {f"asked_by_{place}": key for place, key in enumerate(observed)}
    upstream = {} if spec.source.asset is None else {"source_rows": source}
    condition = automation_condition(spec.automation, asked_by, source)
    told = f"Asks every question of assessment {spec.name} about every row."
    assets = dg.AssetsDefinition.from_graph(
        assessment_graph(assessment, str(project_root), told, list(inputs)),
        keys_by_input_name={**upstream, **inputs},
        keys_by_output_name={output: dg.AssetKey([spec.name, output]) for output in ASSETS},
        internal_asset_deps={output: {source} if output == "rejections" else {source, *asked_by} for output in ASSETS},
        group_name=spec.name,
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run() if spec.backfill == "single_run" else None,
        descriptions_by_output_name=_descriptions(assessment),
        tags_by_output_name={output: {f"dagster/kind/{kind}": "" for kind in KINDS[output]} for output in ASSETS},
        code_versions_by_output_name=dict.fromkeys(ASSETS, code_version),
        metadata_by_output_name=_metadata(assessment, folder),
        owners_by_output_name=dict.fromkeys(ASSETS, spec.owners),
        automation_conditions_by_output_name=dict.fromkeys(ASSETS, condition),
    )
    return _with_freshness(assets, dg.AssetKey([spec.name, "results"]), freshness_policy(spec.freshness))


def _descriptions(assessment: Assessment) -> dict[str, str]:
    facts = {"questions": len(questions(assessment)), "model": assessment.spec.llm.model_name}
    return {output: told.format(**facts) for output, told in DESCRIPTIONS.items()}


def _metadata(assessment: Assessment, folder: Path) -> dict[str, Mapping[str, Any]]:
    code = code_references(assessment, folder)
    return {output: {**table, **code} for output, table in table_metadata(assessment).items()}


def _with_freshness(
    assets: dg.AssetsDefinition, key: dg.AssetKey, policy: dg.FreshnessPolicy | None
) -> dg.AssetsDefinition:
    if policy is None:
        return assets
    return assets.map_asset_specs(
        lambda spec: spec.replace_attributes(freshness_policy=policy) if spec.key == key else spec
    )
