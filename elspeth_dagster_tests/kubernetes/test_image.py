"""The image recipe and the manifests beside the chart, as far as they can be tried without a cluster."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kubernetes.client as k8s
import pytest
import yaml
from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict

from elspeth_dagster_tests.conftest import PostgresServer

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "kubernetes"
RECIPE = (EXAMPLE / "Dockerfile").read_text().replace("\\\n", " ")
LINES = [line for line in RECIPE.splitlines() if line and not line.startswith("#")]
PINNED = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^]]*\])?==([^ ;]+)", re.MULTILINE)
MODELS = {
    "Deployment": k8s.V1Deployment,
    "Service": k8s.V1Service,
    "Ingress": k8s.V1Ingress,
    "Job": k8s.V1Job,
}
MANIFESTS: list[dict[str, Any]] = [
    document
    for name in ("explorer", "upgrade")
    for document in yaml.safe_load_all((EXAMPLE / f"{name}.yaml").read_text())
]
TOKEN = "a-token-that-is-long-enough"


def instructions(word: str) -> list[str]:
    return [line.removeprefix(word).strip() for line in LINES if line.startswith(f"{word} ")]


def pins(lock: Path) -> dict[str, set[str]]:
    """The versions that a lock file names of each package: several, where they depend on the platform."""
    found: dict[str, set[str]] = {}
    for name, version in PINNED.findall(lock.read_text()):
        found.setdefault(name, set()).add(version)
    return found


def test_the_image_has_what_the_tests_have_and_nothing_of_theirs() -> None:
    image, tested = pins(EXAMPLE / "requirements.lock"), pins(ROOT / "requirements.lock")
    assert {name: versions for name, versions in image.items() if not versions <= tested.get(name, set())} == {}
    assert {"dagster", "dagster-k8s", "dagster-postgres", "s3fs", "adlfs", "setuptools"} <= image.keys()
    assert not {"pytest", "playwright", "moto", "ruff"} & image.keys()
    unhashed = re.findall(r"^[a-z0-9_.-]+(?:\[[^]]*\])?==[^\\\n]*$", (EXAMPLE / "requirements.lock").read_text(), re.M)
    assert unhashed == []


def test_the_image_is_made_of_named_files_and_run_by_nobody_in_particular() -> None:
    copied = [line.split()[:-1] for line in instructions("COPY") if not line.startswith("--from")]
    paths = [path for line in copied for path in line]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert not {".", "./", "*"} & set(paths) and instructions("ARG") == [] and instructions("ADD") == []
    assert instructions("USER") == ["10001:10001"] and LINES.index("USER 10001:10001") > LINES.index(
        "WORKDIR /srv/project"
    )
    assert not re.search(r"(KEY|TOKEN|PASSWORD|SECRET|_URL)=", " ".join(instructions("ENV")))
    assert "--require-hashes" in " ".join(instructions("RUN"))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def started(command: list[str], folder: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A command of the image, from this environment's commands."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    process = subprocess.Popen(
        command, cwd=folder, env={"PATH": path, "PYTHONPATH": str(ROOT), **env}, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_the_code_server_starts_in_what_is_copied(tmp_path: Path) -> None:
    for line in instructions("COPY"):
        *sources, target = line.split()
        if target.startswith("/srv/project"):
            shutil.copytree(ROOT / sources[0], tmp_path / target.lstrip("/"), dirs_exist_ok=True)
    [command] = [yaml.safe_load(line) for line in instructions("CMD")]
    port = str(free_port())
    command = [{"0.0.0.0": "127.0.0.1", "4000": port}.get(word, word) for word in command]
    home = tmp_path / "home"
    home.mkdir()
    env = {"DAGSTER_HOME": str(home), "HOME": str(tmp_path)}
    with started(command, tmp_path / "srv" / "project", env) as server:
        health = [str(Path(sys.executable).parent / "dagster"), "api", "grpc-health-check", "-p", port]
        until = time.monotonic() + 60
        while subprocess.run(health, capture_output=True, check=False).returncode != 0:
            assert server.poll() is None and time.monotonic() < until
            time.sleep(0.2)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda document: document["kind"])
def test_the_manifests_are_ones_that_kubernetes_knows(manifest: dict[str, Any]) -> None:
    model = MODELS[manifest["kind"]]
    k8s_model_from_dict(model, k8s_snake_case_dict(model, manifest))
    if "template" not in manifest["spec"]:
        return
    pod = manifest["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert "env" not in container and [list(source) for source in container["envFrom"]] == [["secretRef"]]


def arguments_of(kind: str) -> list[str]:
    [manifest] = [document for document in MANIFESTS if document["kind"] == kind]
    return list(manifest["spec"]["template"]["spec"]["containers"][0]["args"])


def test_the_manifests_commands_work_with_their_secrets_alone(tmp_path: Path, postgres: PostgresServer) -> None:
    name = postgres.create()
    env = {"ELSPETH_LANDSCAPE_URL": postgres.url(name)}
    with started(arguments_of("Job"), tmp_path, env) as upgrade:
        assert upgrade.wait(60) == 0
    port = free_port()
    replaced = {"--port=3001": f"--port={port}", "--host=0.0.0.0": "--host=127.0.0.1"}
    command = [replaced.get(word, word) for word in arguments_of("Deployment")]
    with started(command, tmp_path, {**env, "ELSPETH_EXPLORER_TOKEN": TOKEN}) as explorer:
        assert explorer.stderr is not None
        said = explorer.stderr.readline()
        assert f"http://127.0.0.1:{port}/ " in said and TOKEN not in said
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
    postgres.drop(name)


def test_what_readers_are_told_to_type_names_what_there_is() -> None:
    readme = (EXAMPLE / "README.md").read_text().replace("\\\n", " ")
    for line in readme.splitlines():
        if line.startswith(("kubectl", "docker", "helm")):
            for word in shlex.split(line, comments=True):
                if word.endswith(".yaml") or word.endswith("Dockerfile"):
                    assert (ROOT / word).exists() or (EXAMPLE / word).exists(), word
    keys = set(re.findall(r"--from-literal=([A-Za-z_-]+)=", readme))
    assert {"ELSPETH_LANDSCAPE_URL", "ELSPETH_FINGERPRINT_KEY", "OPENAI_API_KEY", "postgresql-password"} <= keys
