"""Audit-grade LLM assessment on Dagster: case studies × criteria over rows, every call on record."""

from elspeth_dagster.components import MultiQueryAssessment
from elspeth_dagster.definitions import resources_from_env
from elspeth_dagster.resources.landscape import LandscapeResource
from elspeth_dagster.resources.llm import LLMResource

__all__ = ["LLMResource", "LandscapeResource", "MultiQueryAssessment", "resources_from_env"]
