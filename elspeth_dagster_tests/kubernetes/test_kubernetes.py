"""The example for Kubernetes: its values are ones that Dagster reads, its pods get secrets as references alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes.client as k8s
import pytest
import yaml
from dagster._core.launcher import LaunchRunContext
from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict

from elspeth_dagster.core import settings
from elspeth_dagster_tests.conftest import PostgresServer
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.kubernetes.api_server import Cluster, Manifest, served
from elspeth_dagster_tests.project import KEY, Project, rows_of_texts

EXAMPLE = Path(__file__).parents[2] / "examples" / "kubernetes"
VALUES = yaml.safe_load((EXAMPLE / "values.yaml").read_text())
[DEPLOYMENT] = VALUES["dagster-user-deployments"]["deployments"]
IMAGE = "{repository}:{tag}".format(**DEPLOYMENT["image"])
NAMESPACE, ACCOUNT, PASSWORD = "assessments", "dagster", "the-password-of-dagsters-database"
CONTEXTS = {
    "containerConfig": "container_config",
    "podSpecConfig": "pod_spec_config",
    "jobSpecConfig": "job_spec_config",
}


def launcher(kubeconfig: Path) -> dict[str, Any]:
    """`run_launcher` of dagster.yaml as the chart makes it of the values; only the way to the API is another one."""
    declared = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
    assert VALUES["runLauncher"]["type"] == "K8sRunLauncher" and declared["loadInclusterConfig"] is True
    return {
        "load_incluster_config": False,
        "kubeconfig_file": str(kubeconfig),
        "job_namespace": NAMESPACE,
        "image_pull_policy": declared["imagePullPolicy"],
        "service_account_name": ACCOUNT,
        "dagster_home": VALUES["global"]["dagsterHome"],
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": VALUES["global"]["postgresqlSecretName"],
        "security_context": declared["securityContext"],
        "run_k8s_config": {CONTEXTS[name]: config for name, config in declared["runK8sConfig"].items()},
    }


def instance_settings(kubeconfig: Path) -> dict[str, Any]:
    """dagster.yaml as the chart makes it of the values, with storage in files."""
    daemon = VALUES["dagsterDaemon"]
    monitoring, retries = daemon["runMonitoring"], daemon["runRetries"]
    return {
        "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": launcher(kubeconfig)},
        "run_monitoring": {
            "enabled": monitoring["enabled"],
            "start_timeout_seconds": monitoring["startTimeoutSeconds"],
            "cancel_timeout_seconds": monitoring["cancelTimeoutSeconds"],
            "max_resume_run_attempts": monitoring["maxResumeRunAttempts"],
            "poll_interval_seconds": monitoring["pollIntervalSeconds"],
            "free_slots_after_run_end_seconds": monitoring["freeSlotsAfterRunEndSeconds"],
        },
        "run_retries": {"enabled": retries["enabled"], "max_retries": retries["maxRetries"]},
        "telemetry": VALUES["telemetry"],
        **VALUES["additionalInstanceConfig"],
    }


def container_context() -> dict[str, Any]:
    """What the code server tells of runs and steps, as the chart makes it of the values."""
    assert DEPLOYMENT["includeConfigInLaunchedRuns"] == {"enabled": True}
    return {
        "k8s": {
            "image_pull_policy": DEPLOYMENT["image"]["pullPolicy"],
            "env_config_maps": ["dagster-assessments-user-env"],
            "env_secrets": [secret["name"] for secret in DEPLOYMENT["envSecrets"]],
            "env": DEPLOYMENT["env"],
            "resources": DEPLOYMENT["resources"],
            "namespace": NAMESPACE,
            "service_account_name": ACCOUNT,
        }
    }


@pytest.fixture
def project(tmp_path: Path, postgres: PostgresServer, postgres_template: str) -> Iterator[Project]:
    """A project with the example's definitions.py, and a landscape that several hosts can reach."""
    name = postgres.create(postgres_template)
    with FaultServer() as provider:
        made = Project(tmp_path / "project", postgres.url(name), provider.base_url)
        for file in ("definitions.py", "steps.yaml"):
            shutil.copy(EXAMPLE / "project" / "assessments" / file, made.folder / "trial" / file)
        made.declare(criteria=[{"name": "clarity"}])
        made.write_rows(rows_of_texts(3))
        yield made
    postgres.drop(name)


@contextmanager
def on_cluster(project: Project) -> Iterator[Cluster]:
    """A cluster with the Secrets that the example asks for; its values' variables give way to the project's."""
    storage = project.home / "storage"
    secrets = {
        "assessments": project.env,
        "dagster-assessments-user-env": {},
        "dagster-postgresql-secret": {"postgresql-password": PASSWORD},
    }
    homes = {
        VALUES["global"]["dagsterHome"]: str(project.home),
        "s3://assessments.example.org/storage": str(storage),
        "s3://anchors.example.org/checkpoints/": f"{project.home / 'anchors'}/",
        "/signing/key": "",
    }
    kubeconfig = project.home / "kubeconfig"
    with served(cluster := Cluster(secrets, homes, project.folder), kubeconfig):
        (project.home / "dagster.yaml").write_text(yaml.safe_dump(instance_settings(kubeconfig)))
        yield cluster


def as_deployed(project: Project) -> Any:
    """The project's job, without its checks, as its code server tells of it: with its image and its context."""
    job = project._reconstructable("trial_job")
    told = job.repository._replace(container_image=IMAGE, container_context=container_context())
    tables = {dg.AssetKey(["trial", name]) for name in ("results", "answers", "failures", "rejections")}
    return job._replace(repository=told).get_subset(asset_selection=tables, asset_check_selection=set())


def pod_of(job: Manifest) -> Manifest:
    """A job's pod, once the client's models have taken the job."""
    k8s_model_from_dict(k8s.V1Job, k8s_snake_case_dict(k8s.V1Job, job))
    spec: Manifest = job["spec"]["template"]["spec"]
    return spec


def check_pod(job: Manifest) -> Manifest:
    """What holds of the pod of every run and step; its container."""
    pod = pod_of(job)
    [container] = pod["containers"]
    assert container["image"] == IMAGE and container["args"][:2] == ["dagster", "api"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert pod["terminationGracePeriodSeconds"] == 90 and pod["serviceAccountName"] == ACCOUNT
    assert {"secretRef": {"name": "assessments"}} in container["envFrom"]
    [copied] = pod["initContainers"]
    assert (copied["command"][:3], copied["command"][-1]) == (["install", "-m", "0400"], "/signing/key")
    assert {"name": "signing", "mountPath": "/signing", "readOnly": True} in container["volumeMounts"]
    assert not {volume["name"] for volume in pod["volumes"]} - {"signing", "signing-secret", "dagster-instance"}
    return container


def test_the_variables_are_settings_and_no_secret_is_among_them() -> None:
    plain = {entry["name"]: entry["value"] for entry in DEPLOYMENT["env"]}
    secret = {"ELSPETH_LANDSCAPE_URL", "ELSPETH_FINGERPRINT_KEY", "ELSPETH_EXPLORER_TOKEN", "ELSPETH_CELERY_BROKER"}
    assert not {name for name in plain if name in secret or name.endswith(("API_KEY", "ACCESS_KEY", "PASSWORD"))}
    assert not [name for name in plain if name.startswith("ELSPETH_") and name not in (settings.__doc__ or "")]
    read = settings.Settings.from_env(
        {**plain, "ELSPETH_LANDSCAPE_URL": "postgresql://db/landscape", "OPENAI_API_KEY": KEY}
    )
    assert (read.provider, read.requests_per_minute, read.max_concurrency) == ("openai", 5000, 64)
    assert (read.storage or "").startswith("s3://")
    written = (EXAMPLE / "values.yaml").read_text()
    assert not re.search(
        r"(?i)(password|token|api_key): *[\"']?[^\s{#]", written.replace("postgresql-password: of", "")
    )


def test_a_run_is_launched_as_a_pod_that_refers_to_its_secrets(project: Project) -> None:
    with on_cluster(project) as cluster, project.in_env(), dg.DagsterInstance.get() as instance:
        cluster.starts = False
        job = as_deployed(project)
        run = instance.create_run_for_job(job.get_definition(), job_code_origin=job.get_python_origin(), run_config={})
        instance.run_launcher.launch_run(LaunchRunContext(run, workspace=None))
    [launched] = cluster.jobs.values()
    container = check_pod(launched)
    named = {entry["name"]: entry for entry in container["env"]}
    assert named["DAGSTER_PG_PASSWORD"]["valueFrom"]["secretKeyRef"] == {
        "name": "dagster-postgresql-secret",
        "key": "postgresql-password",
    }
    assert named["ELSPETH_STORAGE"]["value"].startswith("s3://")
    assert launched["spec"]["ttlSecondsAfterFinished"] == 86400
    written = json.dumps(launched)
    assert not any(secret in written for secret in (KEY, PASSWORD, project.landscape_url))
    assert instance.run_launcher.supports_check_run_worker_health


def test_every_step_of_a_run_is_a_pod_of_its_own(project: Project) -> None:
    in_pod = project.in_env({"HOSTNAME": "the-runs-pod"})
    with on_cluster(project) as cluster, in_pod, dg.DagsterInstance.get() as instance:
        assert dg.execute_job(as_deployed(project), instance=instance).success
    assert project.fact("SELECT count(*) FROM answers WHERE status = 'accepted'") == 6
    assert len(project.table("results")) == 3
    containers = {job["metadata"]["labels"]["dagster/op"]: check_pod(job) for job in cluster.jobs.values()}
    asked = containers["trial.ask_batches-shard_00001"]
    declared = yaml.safe_load((EXAMPLE / "project" / "assessments" / "steps.yaml").read_text())
    assert asked["resources"] == declared["per_step_k8s_config"]["ask_batches"]["container_config"]["resources"]
    assert containers["trial.admit_rows"]["resources"] == declared["step_k8s_config"]["container_config"]["resources"]
    for job in cluster.jobs.values():
        [owner] = job["metadata"]["ownerReferences"]
        assert (owner["name"], owner["uid"]) == ("the-runs-pod", "uid-of-the-runs-pod")
    written = json.dumps(cluster.jobs)
    assert not any(secret in written for secret in (KEY, PASSWORD, project.landscape_url))
    ran_by = project.facts("SELECT DISTINCT pid FROM node_states")
    assert len(ran_by) >= 4
