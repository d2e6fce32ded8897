"""Which assets Dagster calls stale and why, as its UI asks for it."""

from __future__ import annotations

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from elspeth_dagster_tests.project import Project


def causes(project: Project, asset: str, partition: str | None = None) -> list[str]:
    """Why an asset is stale, a cause each; none when it is fresh."""
    key = dg.AssetKey(asset.split("/"))
    graph = project.definitions().resolve_asset_graph()
    with project.in_env(), dg.DagsterInstance.get() as instance:
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        found = resolver.get_stale_causes(key, partition)
        assert (resolver.get_status(key, partition) is StaleStatus.STALE) == bool(found)
        return [
            f"{cause.reason}: {cause.dependency.asset_key.to_user_string()}" if cause.dependency else cause.reason
            for cause in found
        ]
