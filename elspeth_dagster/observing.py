"""Which version of its ingredients and its source an assessment asked by, told to Dagster as observations.

An observation is told only when the version is another than the last one observed: it is the news that something
changed, to which automation may answer with a run. The results' own event then names the version that they were made
by, also when somebody edited a file while the run went on.
"""

from collections.abc import Mapping

import dagster as dg

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.describing import SOURCE
from elspeth_dagster.stages.versioning import ingredients

DATA_VERSION = "dagster/data_version"


def ingredient_versions(assessment: Assessment) -> dict[dg.AssetKey, str]:
    """The version of each ingredient, by the key of the asset that stands for it."""
    name = assessment.spec.name
    return {dg.AssetKey([name, *place]): version for place, version in ingredients(assessment).items()}


def source_version(assessment: Assessment, sha256: str | None) -> dict[dg.AssetKey, str]:
    """The version of a source file, by the key of the asset that stands for it; nothing where there is none."""
    return {dg.AssetKey([assessment.spec.name, SOURCE]): sha256} if sha256 else {}


def news(
    instance: dg.DagsterInstance, versions: Mapping[dg.AssetKey, str], partition: str | None = None
) -> list[dg.AssetObservation]:
    """An observation of each asset whose last observed version is another."""
    return [
        dg.AssetObservation(key, partition=partition, tags={DATA_VERSION: version})
        for key, version in versions.items()
        if version != _last_observed(instance, key, partition)
    ]


def _last_observed(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None) -> str | None:
    of_asset = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition] if partition else None)
    for record in instance.fetch_observations(of_asset, limit=1).records:
        observation = record.asset_observation
        return observation.tags.get(DATA_VERSION) if observation else None
    return None


def tell_versions(
    context: dg.OpExecutionContext, versions: Mapping[dg.AssetKey, str], partition: str | None = None
) -> None:
    """Tell Dagster which versions this step works by; what it materializes from here on stems from these."""
    step = context.get_step_execution_context()
    for observation in news(context.instance, versions, partition):
        context.log_event(observation)
        step.wipe_input_asset_version_info(observation.asset_key)
