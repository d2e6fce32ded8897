"""What the four assets' tables look like, and from which source column each of their columns stems, for the UI."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.spec import AssessmentSpec
from elspeth_dagster.stages.querying import questions
from elspeth_dagster.stages.tracing import Column, columns

SOURCE = "source"
TRACED = ("results", "answers", "failures")


def source_key(spec: AssessmentSpec) -> dg.AssetKey:
    """The asset that the rows come from: the upstream one, or the one that stands for the file."""
    return dg.AssetKey([spec.name, SOURCE] if spec.source.asset is None else spec.source.asset.split("/"))


def table_metadata(assessment: Assessment) -> dict[str, Mapping[str, Any]]:
    """The table schema of each of the four assets, and the column lineage of those whose columns stem from others."""
    described = columns(assessment.spec, questions(assessment))
    return {output: _of_table(assessment.spec, output, found) for output, found in described.items()}


def _of_table(spec: AssessmentSpec, output: str, found: list[Column]) -> Mapping[str, Any]:
    schema = dg.TableSchema([dg.TableColumn(one.name, one.kind, one.description or None) for one in found])
    lineage = _lineage(source_key(spec), found) if output in TRACED else None
    return {"dagster/column_schema": schema, **({"dagster/column_lineage": lineage} if lineage else {})}


def _lineage(source: dg.AssetKey, found: list[Column]) -> dg.TableColumnLineage:
    return dg.TableColumnLineage(
        {one.name: [dg.TableColumnDep(source, column) for column in one.stems_from] for one in found if one.stems_from}
    )
