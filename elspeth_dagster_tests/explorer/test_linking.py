"""Every materialization leads to its run's page in the explorer, where it is known at which address that is reached."""

from __future__ import annotations

import dagster as dg
import pytest

from elspeth_dagster_tests.explorer.conftest import Explored


@pytest.mark.parametrize("table", ["results", "answers", "failures", "rejections"])
def test_each_table_links_to_its_run(on_sqlite: Explored, table: str) -> None:
    event = materialization(on_sqlite, "trial", table)
    assert event.metadata["explorer"] == dg.MetadataValue.url(f"http://127.0.0.1:3001/runs/{on_sqlite.again}")


@pytest.mark.parametrize("table", ["results", "answers", "failures", "rejections"])
def test_where_the_address_is_not_known_there_is_no_link(on_sqlite: Explored, table: str) -> None:
    assert "explorer" not in materialization(on_sqlite, "hostile", table).metadata


def materialization(explored: Explored, assessment: str, table: str) -> dg.AssetMaterialization:
    """The last one of an assessment's table."""
    with explored.project.in_env(), dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey([assessment, table]))
    assert event is not None and event.asset_materialization is not None
    return event.asset_materialization
