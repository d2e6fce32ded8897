"""The components: YAML into Dagster definitions."""

from elspeth_dagster.components.multi_query_assessment import MultiQueryAssessment

__all__ = ["MultiQueryAssessment"]
