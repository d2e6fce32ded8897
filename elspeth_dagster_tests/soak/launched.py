"""What is launched: the job of a user's project, in a process that kills and breaks itself as its environment says."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

import elspeth_dagster.components
import elspeth_dagster.definitions
import elspeth_dagster.llm.providers
import elspeth_dagster.llm.wire  # noqa: F401  (all that a launch needs, imported once)
from elspeth_dagster_tests.project import load_definitions
from elspeth_dagster_tests.soak import acknowledging, breaking, failpoints

PROJECT, JOB = "ELSPETH_SOAK_PROJECT", "ELSPETH_SOAK_JOB"

_instrumented: set[int] = set()


def job() -> dg.JobDefinition:
    """The job, made in the process of a launch and in those of its steps."""
    if os.getpid() not in _instrumented:
        _instrumented.add(os.getpid())
        breaking.install()
        acknowledging.install()
        failpoints.install()
    return load_definitions(Path(os.environ[PROJECT])).resolve_job_def(os.environ[JOB])
