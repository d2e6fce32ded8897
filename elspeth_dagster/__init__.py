"""Audit-grade LLM assessment on Dagster: case studies × criteria over rows, every call on record.

The names a user's project needs are here, and are imported when they are asked for: the command line and the local
model start without Dagster.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elspeth_dagster.components import MultiQueryAssessment
    from elspeth_dagster.definitions import executor_from_env, resources_from_env
    from elspeth_dagster.resources.landscape import LandscapeResource
    from elspeth_dagster.resources.llm import LLMResource

__all__ = ["LLMResource", "LandscapeResource", "MultiQueryAssessment", "executor_from_env", "resources_from_env"]

_HOMES = {
    "MultiQueryAssessment": "elspeth_dagster.components",
    "executor_from_env": "elspeth_dagster.definitions",
    "resources_from_env": "elspeth_dagster.definitions",
    "LandscapeResource": "elspeth_dagster.resources.landscape",
    "LLMResource": "elspeth_dagster.resources.llm",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
