"""What hosts share, or are refused for not sharing: storage on S3, one landscape, one package, one folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from upath import UPath

from elspeth_dagster.core.errors import SettingsError
from elspeth_dagster.core.settings import Settings
from elspeth_dagster.hosting import LANDSCAPE_TAG, PACKAGE_TAG, tags_of_run
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.resources.references import MARKER, STORAGE_TAG
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project, load_definitions, rows_of_texts
from elspeth_dagster_tests.test_examples import free_port

ON_HOSTS = {
    "ELSPETH_EXECUTOR": "celery",
    "ELSPETH_LANDSCAPE_URL": "postgresql://assessor:s3cret@db/landscape",
    "ELSPETH_STORAGE": "s3://bucket/assessments",
    "ELSPETH_CELERY_BROKER": "redis://:s3cret@broker:6379/0",
}


@pytest.fixture(scope="module")
def one_server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, one_server: FaultServer, sqlite_url: str) -> Project:
    one_server.reset()
    project = Project(tmp_path / "project", sqlite_url, one_server.base_url)
    project.declare()
    project.write_rows(rows_of_texts(2))
    return project


@pytest.fixture
def s3() -> Iterator[dict[str, str]]:
    """The environment in which s3:// is a real moto server."""
    port = free_port()
    server = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _make_bucket(f"{url}/assessments")
            keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
            yield {**keys, "AWS_ENDPOINT_URL": url, "ELSPETH_STORAGE": "s3://assessments/of/us"}
        finally:
            process.kill()


def _make_bucket(url: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5).close()
            return
        except OSError:
            import time

            time.sleep(0.1)
    raise TimeoutError("moto did not come up")


def run_with(project: Project, **tags: str) -> dg.ExecuteInProcessResult:
    with project.in_env(), dg.DagsterInstance.get() as instance:
        job = load_definitions(project.folder).resolve_job_def("trial_job")
        return job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)


def why_it_failed(result: dg.ExecuteInProcessResult) -> str:
    [failure] = [event for event in result.all_events if event.is_step_failure]
    return f"{failure.step_failure_data.error_display_string}"


def requests_of(project: Project) -> int:
    return int(project.fact("SELECT count(*) FROM calls"))


def test_tables_and_references_are_in_s3_and_nothing_of_a_run_is_local(project: Project, s3: dict[str, str]) -> None:
    project.env |= s3
    result = run_with(project)
    assert result.success, why_it_failed(result)
    options = {"endpoint_url": s3["AWS_ENDPOINT_URL"], "key": "a", "secret": "b"}
    base = UPath(s3["ELSPETH_STORAGE"], **options)
    with (base / "trial" / "results.parquet").open("rb") as file:
        assert len(pd.read_parquet(file)) == 2
    names = [path.name for path in base.rglob("*") if path.is_file()]
    assert not [name for name in names if name.startswith(".") or not name.endswith((".json", ".parquet"))]
    told = [json.loads(path.read_text()) for path in base.rglob("*.json")]
    assert told and "text one of row" not in json.dumps(told)
    assert not list((project.home / "storage").rglob("trial*")), "a step left something on its host"
    uri = project.fact("SELECT uri FROM artifacts WHERE asset_key = 'trial/results'")
    assert uri == "s3://assessments/of/us/trial/results.parquet"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ELSPETH_LANDSCAPE_URL": "sqlite:////data/l.sqlite"}, "Set ELSPETH_LANDSCAPE_URL to a PostgreSQL database"),
        ({"ELSPETH_LANDSCAPE_URL": ""}, "Set ELSPETH_LANDSCAPE_URL to a PostgreSQL database"),
        ({"ELSPETH_STORAGE": ""}, "Set it to a folder that all hosts share"),
        ({"ELSPETH_STORAGE": "tables"}, "ELSPETH_STORAGE must be the full path"),
        ({"ELSPETH_CELERY_BROKER": ""}, "ELSPETH_CELERY_BROKER is not the url of a Redis"),
        ({"ELSPETH_EXECUTOR": "selery"}, "ELSPETH_EXECUTOR is 'selery'; it can be celery"),
        ({"ELSPETH_HOST_LOST_SECONDS": "5"}, "it must be 30 at least"),
    ],
)
def test_settings_that_hosts_can_t_share_are_refused_when_they_are_loaded(change: dict[str, str], said: str) -> None:
    assert Settings.from_env(ON_HOSTS).executor == "celery"
    with pytest.raises(SettingsError) as refused:
        Settings.from_env({**ON_HOSTS, **change})
    assert said in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_sqlite_landscape_is_refused_before_a_run_over_hosts(sqlite_url: str, tmp_path: Path) -> None:
    with Landscape.open(sqlite_url) as landscape, pytest.raises(SettingsError, match="PostgreSQL"):
        tags_of_run(landscape, str(tmp_path))


def test_a_step_whose_host_has_another_landscape_is_refused(project: Project) -> None:
    result = run_with(project, **{LANDSCAPE_TAG: "elspeth-dagster/another"})
    assert not result.success
    assert "Set ELSPETH_LANDSCAPE_URL to the same database on all hosts" in why_it_failed(result)
    assert project.fact("SELECT count(*) FROM runs") == 0


def test_a_step_whose_host_has_another_package_is_refused(project: Project) -> None:
    result = run_with(project, **{PACKAGE_TAG: "0.0.9, code 123456789abc"})
    assert not result.success
    assert "Install the same one on all hosts" in why_it_failed(result)
    assert "0.0.9, code 123456789abc" in why_it_failed(result)


def test_a_storage_that_is_another_folder_on_each_host_is_refused(project: Project) -> None:
    storage = project.folder / "local"
    project.env["ELSPETH_STORAGE"] = str(storage)
    result = run_with(project, **{STORAGE_TAG: "01ANOTHER"})
    assert not result.success
    assert f"{storage} on host" in why_it_failed(result)
    assert "ELSPETH_STORAGE must be a folder that all hosts share" in why_it_failed(result)
    assert requests_of(project) == 0
    assert not (storage / MARKER).exists()


def test_the_same_settings_on_all_hosts_agree(postgresql_url: str, tmp_path: Path) -> None:
    with Landscape.open(postgresql_url) as landscape:
        first, second = (tags_of_run(landscape, str(tmp_path)) for _ in range(2))
    assert first == second
    assert first[STORAGE_TAG] == (tmp_path / MARKER).read_text()


def test_a_worker_refuses_to_start_where_it_can_t_work(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "celery", "-A", "elspeth_dagster.celery_app", "worker"]
    env = {**os.environ, **ON_HOSTS, "ELSPETH_STORAGE": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    env |= {"ELSPETH_LANDSCAPE_URL": "postgresql://nobody@127.0.0.1:9/none"}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "This host can't take steps: the landscape at postgresql" in done.stderr


def test_azure_is_taken_for_an_url_and_nothing_more_is_known() -> None:
    """What a machine without Azure can tell: the url is accepted, and there is a filesystem for it."""
    assert Settings.from_env({**ON_HOSTS, "ELSPETH_STORAGE": "az://tables/us/"}).storage == "az://tables/us"
    pytest.importorskip("adlfs", reason="pip install 'elspeth-dagster[azure]'")
    assert type(UPath("az://tables/us", account_name="contoso", anon=True).fs).__name__ == "AzureBlobFileSystem"
