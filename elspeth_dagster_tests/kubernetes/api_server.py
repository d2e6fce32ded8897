"""Kubernetes' API as far as Dagster uses it, over HTTP: it keeps each Job that it is sent, and its pod is a process.

It is no cluster: nothing is scheduled, pulled or isolated. What a pod would get, its process gets: the arguments of its
container, and of the environment what the manifest says and nothing else, read from the Secrets that it refers to.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

JOBS = re.compile(r"/apis/batch/v1/namespaces/([^/]+)/jobs(?:/([^/?]+))?")
PODS = re.compile(r"/api/v1/namespaces/([^/]+)/pods/([^/?]+)")
Manifest = dict[str, Any]


class Cluster:
    """The jobs that were created, by name, and the processes of their pods.

    `secrets` are the Secrets and ConfigMaps that there are; `homes` maps paths in a container to paths of this machine.
    Only what `starts` says is started.
    """

    def __init__(self, secrets: Mapping[str, Mapping[str, str]], homes: Mapping[str, str], folder: Path) -> None:
        self.secrets, self.homes, self.folder = secrets, homes, folder
        self.jobs: dict[str, Manifest] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.starts = True

    def create(self, job: Manifest) -> None:
        """Keep a job, and start its pod."""
        self.jobs[job["metadata"]["name"]] = job
        if self.starts:
            [container] = job["spec"]["template"]["spec"]["containers"]
            self.processes[job["metadata"]["name"]] = self._start(container)

    def _start(self, container: Manifest) -> subprocess.Popen[bytes]:
        env = {**self.environment(container), "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
        env = {name: self.homes.get(value, value) for name, value in env.items()}
        command, *arguments = container["args"]
        assert command == "dagster"
        return subprocess.Popen([sys.executable, "-m", "dagster", *arguments], env=env, cwd=self.folder)

    def environment(self, container: Manifest) -> dict[str, str]:
        """What a container finds in its environment."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            [reference] = source.values()
            found |= self.secrets[reference["name"]]
        for entry in container.get("env", []):
            if "value" in entry:
                found[entry["name"]] = entry["value"]
            else:
                reference = entry["valueFrom"]["secretKeyRef"]
                found[entry["name"]] = self.secrets[reference["name"]][reference["key"]]
        return found

    def status(self, name: str) -> Manifest:
        """A job as the API tells of it."""
        code = self.processes[name].poll()
        told = {"active": 1} if code is None else {"succeeded": 1} if code == 0 else {"failed": 1}
        return {**self.jobs[name], "status": told}


@contextmanager
def served(cluster: Cluster, kubeconfig: Path) -> Iterator[None]:
    """The API of a cluster, and the file by which clients find it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            cluster.create(job)
            self._answer(job)

        def do_GET(self) -> None:
            if (job := JOBS.match(self.path)) and job[2] in cluster.jobs:
                self._answer(cluster.status(job[2]))
            elif pod := PODS.match(self.path):
                self._answer({"kind": "Pod", "metadata": {"name": pod[2], "uid": f"uid-of-{pod[2]}"}})
            else:
                self.send_error(404)

        def _answer(self, document: Manifest) -> None:
            body = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kubeconfig.write_text(yaml.safe_dump(_kubeconfig(f"http://127.0.0.1:{server.server_port}")))
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        for process in cluster.processes.values():
            process.kill()
            process.wait()


def _kubeconfig(address: str) -> Manifest:
    return {
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": address}}],
        "users": [{"name": "nobody", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "nobody", "namespace": "assessments"}}],
    }
