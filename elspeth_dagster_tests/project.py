"""A user's own Dagster project in a folder: defs.yaml, templates, sources, and a definitions.py of ten lines.

Runs in it are real: a real instance, the real landscape, a real HTTP server as the provider.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from copy import deepcopy
from importlib import util
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dagster as dg
import pandas as pd
import sqlalchemy as sa
import yaml

from elspeth_dagster.core.canonical import sha256
from elspeth_dagster.core.errors import LandscapeError
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.landscape import payloads
from elspeth_dagster.landscape.database import Database
from elspeth_dagster.landscape.schema import calls

KEY = "sk-canary-8f3a61c05d"
DEFINITIONS = """
from pathlib import Path
import dagster as dg
from elspeth_dagster import executor_from_env, resources_from_env

@dg.definitions
def defs():
    return dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=Path(__file__).parent),
        dg.Definitions(resources=resources_from_env(), executor=executor_from_env()),
    )
"""
HEARING = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
sys.argv[0] = "dagster"
runpy.run_module("dagster", run_name="__main__", alter_sys=True)
"""
DAGSTER = [sys.executable, "-c", HEARING]
"""Dagster's command, which hears signals also where it is started in the background, with SIGINT ignored."""
PYPROJECT = """
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "trial"
"""
FORKED = {"forkserver": {"preload_modules": ["elspeth_dagster", "elspeth_dagster.ops", "elspeth_dagster.llm.wire"]}}
"""How a step's process is started: what it imports is there already."""
ENV = ".env"
"""The ending of a file beside a project's folder: in the run itself, Dagster would keep the key."""
INSTANCE = """
telemetry: {enabled: false}
compute_logs: {module: dagster._core.storage.noop_compute_log_manager, class: NoOpComputeLogManager}
"""
"""Without compute logs, which start four processes for each run or step and wait for them at its end."""
ATTRIBUTES: dict[str, Any] = {
    "name": "trial",
    "source": {
        "path": "data/rows.csv",
        "key": ["id"],
        "columns": {"id": "str", "cs1_text": "str", "cs2_text": "str"},
    },
    "llm": {"model_name": "gpt-4o-mini", "temperature": 0},
    "prompt": {"system": "system.j2", "template": "ask.j2"},
    "case_studies": [
        {"name": "cs1", "inputs": {"text": "cs1_text"}},
        {"name": "cs2", "inputs": {"text": "cs2_text"}},
    ],
    "criteria": [{"name": "clarity"}, {"name": "depth"}],
    "answer": {
        "score": {"type": "integer", "minimum": 0, "maximum": 100},
        "rationale": {"type": "string", "max_length": 200},
    },
    "errors": {"retry_seconds": 10},
    "checks": {"failure_rate": None, "drift": None},  # few runs are about them, and each check is three events
}
TEMPLATES = {
    "system.j2": "You judge texts. Reply with JSON.",
    "ask.j2": "Judge the {{ criterion.name }} of {{ case_study.name }}: {{ row.text }}",
}


class Project:
    """A project in `folder`, with an instance and a landscape of its own."""

    def __init__(self, folder: Path, landscape_url: str, base_url: str) -> None:
        self.folder = folder
        self.landscape_url = landscape_url
        self.home = folder / "home"
        self.env = {
            "DAGSTER_HOME": str(self.home),
            "ELSPETH_LANDSCAPE_URL": landscape_url,
            "ELSPETH_LLM": "openai",
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": base_url,
            "ELSPETH_MAX_CONCURRENCY": "32",
        }
        self.home.mkdir(parents=True)
        (self.home / "dagster.yaml").write_text(INSTANCE)
        (folder / "pyproject.toml").write_text(PYPROJECT)
        package = folder / "trial"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "definitions.py").write_text(DEFINITIONS)

    def keep_compute_logs(self) -> None:
        """Have Dagster keep what steps write to stdout and stderr, in files of its home."""
        (self.home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")

    def declare(
        self, name: str = "trial", *, templates: Mapping[str, str] = TEMPLATES, **changes: Any
    ) -> dict[str, Any]:
        """Write an assessment's defs.yaml and templates; `changes` replace attributes, None takes one away."""
        attributes = {**deepcopy(ATTRIBUTES), "name": name, **changes}
        attributes = {key: value for key, value in attributes.items() if value is not None}
        defs = self.folder / "trial" / "defs" / name
        defs.mkdir(parents=True, exist_ok=True)
        for file, text in templates.items():
            (defs / file).write_text(text)
        component = {"type": "elspeth_dagster.components.MultiQueryAssessment", "attributes": attributes}
        (defs / "defs.yaml").write_text(yaml.safe_dump(component, sort_keys=False, allow_unicode=True))
        return attributes

    def write_rows(self, rows: Sequence[Mapping[str, Any]], name: str = "data/rows.csv") -> None:
        """Write a CSV source."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def definitions(self) -> dg.Definitions:
        """The project's definitions, loaded anew."""
        with self.in_env():
            return load_definitions(self.folder)

    @contextmanager
    def in_env(self, more: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
        """The environment of the project for the time of a block."""
        before = dict(os.environ)
        os.environ.update({**self.env, **more})
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def run(self, job: str = "trial_job", partition: str | None = None, **launch: Any) -> dg.ExecuteInProcessResult:
        """A run in this process, recorded in the project's instance; `launch` are the choices for its assessment."""
        config = {"ops": {"trial": {"config": launch}}} if launch else {}
        if job.endswith("_verify_job"):
            config = {"ops": {"trial_verification": {"ops": {"verify_answers": {"config": launch}}}}}
        with self.in_env(), dg.DagsterInstance.get() as instance:
            resolved = load_definitions(self.folder).resolve_job_def(job)
            return resolved.execute_in_process(
                instance=instance, partition_key=partition, run_config=config, raise_on_error=False
            )

    def run_range(self, first: str, last: str, job: str = "trial_job", **launch: Any) -> dg.ExecuteInProcessResult:
        """A run of several partitions at once, as 'single run' launches it."""
        config = {"ops": {"trial": {"config": launch}}} if launch else {}
        with self.in_env(), dg.DagsterInstance.get() as instance:
            resolved = load_definitions(self.folder).resolve_job_def(job)
            return resolved.execute_in_process(
                instance=instance, tags=range_tags(first, last), run_config=config, raise_on_error=False
            )

    def run_again(
        self, run_id: str, steps: Sequence[str] = (), tags: Mapping[str, str] = MappingProxyType({}), **launch: str
    ) -> dg.JobExecutionResult:
        """Re-execute a run, all its steps or some, in this process."""
        config = {"ops": {"trial": {"config": launch}}} if launch else {}
        again = dg.ReexecutionOptions(parent_run_id=run_id, step_selection=list(steps))
        with self.in_env(), dg.DagsterInstance.get() as instance:
            return dg.execute_job(
                self._reconstructable("trial_job"),
                instance=instance,
                run_config={"execution": {"config": {"in_process": {}}}, **config},
                reexecution_options=again,
                tags=dict(tags),
            )

    def _reconstructable(self, job: str) -> Any:
        """The job as a step's process makes it again; Dagster keeps one for equal arguments, so no two are equal."""
        self.folder.with_suffix(ENV).write_text(json.dumps(self.env))
        arguments = (str(self.folder), job, new_id())
        return dg.build_reconstructable_job(__name__, "job_of_folder", arguments, {}, str(Path(__file__).parents[1]))

    def launch(self, job: str = "trial_job") -> subprocess.Popen[str]:
        """A run in a process of its own, and of a process group of its own."""
        command = [*DAGSTER, "job", "execute", "-f", "trial/definitions.py", "-j", job]
        env = {**os.environ, **self.env, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=env,
            start_new_session=True,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, query: str, wanted: int, seconds: float = 120) -> None:
        """Wait until a count on record is at least `wanted`; the landscape need not be there yet."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(LandscapeError):
                if self.fact(query) >= wanted:
                    return
            time.sleep(0.05)
        raise TimeoutError(f"{query} did not reach {wanted}")

    def run_in_processes(self, job: str = "trial_job", max_concurrent: int = 2) -> dg.JobExecutionResult:
        """A run with a process per step."""
        multiprocess = {"max_concurrent": max_concurrent, "start_method": FORKED}
        with self.in_env(), dg.DagsterInstance.get() as instance:
            return dg.execute_job(
                self._reconstructable(job),
                instance=instance,
                run_config={"execution": {"config": {"multiprocess": multiprocess}}},
            )

    def table(self, name: str, assessment: str = "trial", partition: str | None = None) -> pd.DataFrame:
        """One of the four tables, as its file holds it."""
        path = self.home / "storage" / assessment / name
        return pd.read_parquet(path / f"{partition}.parquet" if partition else path.with_suffix(".parquet"))

    def facts(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """Rows of the landscape by plain SQL."""
        database = Database.open(self.landscape_url, create=False)
        try:
            with database.read() as connection:
                return [dict(row) for row in connection.execute(sa.text(query), parameters).mappings()]
        finally:
            database.close()

    def fact(self, query: str, **parameters: Any) -> Any:
        """The single value of a query."""
        [row] = self.facts(query, **parameters)
        [value] = row.values()
        return value


def load_definitions(folder: Path) -> dg.Definitions:
    """The definitions of the project in a folder, its modules imported anew."""
    for name in [name for name in sys.modules if name == "trial" or name.startswith("trial.")]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    try:
        spec = util.spec_from_file_location("trial.definitions", folder / "trial" / "definitions.py")
        assert spec is not None and spec.loader is not None
        module = util.module_from_spec(spec)
        spec.loader.exec_module(module)
        definitions = module.defs()
        assert isinstance(definitions, dg.Definitions)
        return definitions
    finally:
        sys.path.remove(str(folder))


def job_of_folder(folder: str, job: str, _nonce: str) -> dg.JobDefinition:
    """The job that a step's process makes again, in the project's environment: its fork server may have another's."""
    env = Path(folder).with_suffix(ENV)
    os.environ.update(json.loads(env.read_text()) if env.exists() else {})
    return load_definitions(Path(folder)).resolve_job_def(job)


def range_tags(first: str, last: str) -> dict[str, str]:
    """By which a run takes all partitions from the first to the last."""
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


def rows_of_texts(count: int, *, start: int = 0) -> list[dict[str, str]]:
    """Rows whose texts tell their row and case study."""
    return [
        {"id": f"R{n}", "cs1_text": f"text one of row {n}.", "cs2_text": f"text two of row {n}."}
        for n in range(start, start + count)
    ]


def request_of(project: Project, call_id: str) -> dict[str, Any]:
    """The request body of a call, as it is on record."""
    body: dict[str, Any] = json.loads(bodies(project, sa.select(calls.c.call_id, calls.c.request_ref))[call_id])
    return body


def sent(project: Project) -> dict[str, str]:
    """The hash of each call's request, as a server would see it."""
    found = bodies(project, sa.select(calls.c.call_id, calls.c.request_ref))
    return {call_id: sha256(body) for call_id, body in found.items()}


def bodies(project: Project, which: sa.Select[Any]) -> dict[str, bytes]:
    """The bytes of payloads, by a key, as pairs of key and name are selected."""
    with closing(Database.open(project.landscape_url, create=False)) as database, database.read() as connection:
        named = {key: ref for key, ref in connection.execute(which) if ref is not None}
        read = payloads.read_many(connection, named.values())
        return {key: read[ref] for key, ref in named.items()}
