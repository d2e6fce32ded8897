"""The same assessments as anywhere; what makes it Kubernetes is the executor, each step a pod of its own."""

from pathlib import Path

import dagster as dg
import yaml
from dagster_k8s import k8s_job_executor

from elspeth_dagster import resources_from_env

HERE = Path(__file__).parent


@dg.definitions
def defs() -> dg.Definitions:
    return dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=HERE),
        dg.Definitions(
            resources=resources_from_env(),
            executor=k8s_job_executor.configured(yaml.safe_load((HERE / "steps.yaml").read_text())),
        ),
    )
