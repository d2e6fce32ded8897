"""What is soaked: small slices of a few forms, each in a project of its own, and what an undisturbed run makes of them.

What the provider answers follows from the request's body alone; by the try follow only faults that a later try
overcomes. So results don't depend on how often a question was asked, and those of an undisturbed run are what those of
a disturbed one must be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from elspeth_dagster_tests.project import Project, rows_of_texts

MISBEHAVIOUR: dict[str, Any] = {
    "latency_ms": [5, 50],
    "content_by": "body",
    "body_shares": {"wrong_types": 0.04, "not_json": 0.03, "truncated": 0.02},
    "shares": {"429": 0.03, "500": 0.02, "reset": 0.01},
    "record": True,
}
WORSE: dict[str, Any] = {
    **MISBEHAVIOUR,
    "body_shares": {"wrong_types": 0.02, "not_json": 0.01, "html": 0.01, "empty_choices": 0.01},
    "shares": {"429": 0.03, "500": 0.02, "reset": 0.01, "hang": 0.01},
}
CONCURRENCY = 8
DEFINITIONS = """
from elspeth_dagster import LLMResource

alone = defs

@dg.definitions
def defs():
    llm = LLMResource(
        provider="openai", api_key=dg.EnvVar("OPENAI_API_KEY"), base_url=dg.EnvVar("OPENAI_BASE_URL"),
        timeout_seconds={timeout_seconds}, max_concurrency={concurrency},
    )
    tables = dg.AssetSelection.assets("trial/results").required_multi_asset_neighbors()
    retrying = dg.define_asset_job("retrying_job", selection=tables, op_retry_policy=dg.RetryPolicy(max_retries=2))
    whole = alone()
    others = {{name: resource for name, resource in whole.resources.items() if name != "llm"}}
    return dg.Definitions(
        assets=whole.assets, asset_checks=whole.asset_checks, schedules=whole.schedules, sensors=whole.sensors,
        jobs=[*(whole.jobs or []), retrying], resources={{**others, "llm": llm}},
    )
"""


class Form(NamedTuple):
    """How many rows, from which on; how many make a batch; how many a step asks."""

    rows: int
    start: int
    batch: int
    step: int

    @property
    def keys(self) -> set[str]:
        """The rows' keys, as they are on record."""
        return {f"R{number}" for number in range(self.start, self.start + self.rows)}


FORMS = (Form(8, 0, 2, 4), Form(6, 100, 2, 4), Form(10, 200, 3, 6), Form(7, 300, 1, 4))


def make_project(folder: Path, url: str, base_url: str, form: Form, timeout_seconds: float) -> Project:
    """A project that assesses a slice of this form."""
    project = Project(folder, url, base_url)
    project.declare(
        aggregate={"rows": form.batch},
        rows_per_step=form.step,
        errors={"repair": 1, "retry_seconds": 60},
    )
    project.write_rows(rows_of_texts(form.rows, start=form.start))
    with (project.folder / "trial" / "definitions.py").open("a") as file:
        file.write(DEFINITIONS.format(timeout_seconds=timeout_seconds, concurrency=CONCURRENCY))
    return project
