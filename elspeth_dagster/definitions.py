"""The composition root: loads what this deployment has under defs/, and binds its resources.

The only reader of the environment. In a project of your own, the whole of definitions.py is::

    @dg.definitions
    def defs() -> dg.Definitions:
        return dg.Definitions.merge(
            dg.load_from_defs_folder(path_within_project=Path(__file__).parent),
            dg.Definitions(resources=resources_from_env(), executor=executor_from_env()),
        )
"""

import os
from pathlib import Path
from typing import Any

import dagster as dg

from elspeth_dagster.core.errors import SettingsError
from elspeth_dagster.core.pooling import endpoints_in
from elspeth_dagster.core.settings import Settings
from elspeth_dagster.resources.landscape import LandscapeResource
from elspeth_dagster.resources.llm import LLMResource
from elspeth_dagster.resources.parquet import parquet_io_manager
from elspeth_dagster.resources.references import reference_io_manager


def resources_from_env() -> dict[str, Any]:
    """The resources that assessments need, by the environment's variables (docs/operations.md lists them)."""
    settings = Settings.from_env(os.environ)
    return {
        "landscape": LandscapeResource(
            url=_secret("ELSPETH_LANDSCAPE_URL", settings.landscape_url),
            explorer_url=settings.explorer_url,
            signing_key=_secret("ELSPETH_SIGNING_KEY", None),
            anchors=_secret("ELSPETH_ANCHORS", None),
        ),
        "llm": LLMResource(
            provider=settings.provider,
            api_key=_secret(settings.api_key_name, None),
            base_url=settings.base_url,
            azure_endpoint=settings.azure_endpoint,
            api_version=settings.api_version,
            max_concurrency=settings.max_concurrency,
            min_concurrency=settings.min_concurrency,
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
            endpoints=_endpoints(settings.endpoints_path),
            fingerprint_key=_secret("ELSPETH_FINGERPRINT_KEY", None),
        ),
        "parquet_io_manager": parquet_io_manager.configured({"base_path": settings.storage}),
        "reference_io_manager": reference_io_manager.configured({"base_path": settings.storage}),
    }


def _endpoints(path: str | None) -> list[dict[str, Any]] | None:
    """The pool that a file names, its keys by their variables' names."""
    return [one.model_dump(mode="json", exclude_none=True) for one in endpoints_in(path)] or None


def executor_from_env() -> dg.ExecutorDefinition | None:
    """Who runs the steps, by ELSPETH_EXECUTOR: Celery workers on several hosts; None: Dagster's own choice."""
    if Settings.from_env(os.environ).executor is None:
        return None
    try:
        from elspeth_dagster.executing import celery_executor_from_env
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"ELSPETH_EXECUTOR is celery, and {error.name} is not installed: pip install 'elspeth-dagster[celery]'"
        ) from error
    return celery_executor_from_env()


def _secret(name: str | None, default: str | None) -> Any:
    """A variable by its name, so that Dagster shows the name and reads the value only in a step."""
    return dg.EnvVar(name) if name and os.environ.get(name) else default


@dg.definitions
def defs() -> dg.Definitions:
    """Everything this deployment has."""
    loaded = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    return dg.Definitions.merge(loaded, dg.Definitions(resources=resources_from_env(), executor=executor_from_env()))
