"""A real `dagster dev` beside a test, driven over GraphQL as its pages drive it.

    with DagsterDev(project) as dev:
        run = dev.launch("trial_job", "north")
        assert dev.finished(run) == "SUCCESS"
        assert dev.numbers("trial/results")["north"]["rows"] == 10

What it reads back comes as plain Python: numbers that plot by partition and name, column lineage by column, checks by
name.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from elspeth_dagster_tests.project import DAGSTER, Project

T = TypeVar("T")
INSTANCE = """
telemetry: {enabled: false}
nux: {enabled: false}
run_queue: {dequeue_interval_seconds: 1}
concurrency: {runs: {max_concurrent_runs: 3}, pools: {granularity: op, default_limit: 2}}
compute_logs: {module: dagster._core.storage.noop_compute_log_manager, class: NoOpComputeLogManager}
"""
"""Without compute logs: a run that is stopped would wait for their processes half a minute, twice."""
IMPATIENT = """
import sys

if "dagster._daemon" in sys.orig_argv:
    from dagster._daemon import controller, sensor

    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 2
    sensor.MIN_INTERVAL_LOOP_TIME = 1
"""
"""Dagster's daemon looks after backfills every 30 seconds, and offers no setting for that."""
PATIENCE = 300
"""How many seconds anything is waited for: on a busy machine a run takes long to begin."""
OVER = ("SUCCESS", "FAILURE", "CANCELED")
REPOSITORY = "__repository__"


class DagsterDev:
    """A `dagster dev` of a project, with its pages, code server and daemon."""

    def __init__(self, project: Project, *, impatient: bool = True, instance: str = INSTANCE) -> None:
        self.project = project
        (project.home / "dagster.yaml").write_text(instance)
        (project.folder / "early").mkdir(exist_ok=True)
        (project.folder / "early" / "sitecustomize.py").write_text(IMPATIENT if impatient else "")
        self._port = _free_port()
        self._log = project.folder / "dagster_dev.log"
        self._location = ""

    def __enter__(self) -> Self:
        early = [str(self.project.folder / "early"), *sys.path]
        env = {**os.environ, **self.project.env, "PYTHONPATH": os.pathsep.join(early)}
        command = [*DAGSTER, "dev", "-f", "trial/definitions.py", "-h", "127.0.0.1", "-p", str(self._port)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, cwd=self.project.folder, env=env, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._location = self.wait_for(self._loaded, 120)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in (signal.SIGINT, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(timeout=20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue

    def _loaded(self) -> str | None:
        """The name of the code location, when it is loaded."""
        if self._process.poll() is not None:
            raise RuntimeError(f"dagster dev ended: {self.log()}")
        try:
            found = self.ask("{ repositoriesOrError { ... on RepositoryConnection { nodes { location { name } } } } }")
        except (OSError, urllib.error.URLError):
            return None
        nodes = found["repositoriesOrError"].get("nodes")
        return str(nodes[0]["location"]["name"]) if nodes else None

    def log(self) -> str:
        """The end of what it printed."""
        return self._log.read_text()[-6000:]

    # Asking ------------------------------------------------------------------------------------------------------

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of a GraphQL query or mutation."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        url = f"http://127.0.0.1:{self._port}/graphql"
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            answer = json.load(reply)
        assert "errors" not in answer, answer["errors"]
        return dict(answer["data"])

    def wait_for(self, look: Callable[[], T | None], seconds: float = PATIENCE) -> T:
        """The first answer of `look` that is something."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := look():
                return found
            time.sleep(0.25)
        raise TimeoutError(f"nothing came of it in {seconds} seconds. {self.log()}")

    def _selector(self, **more: Any) -> dict[str, Any]:
        return {"repositoryLocationName": self._location, "repositoryName": REPOSITORY, **more}

    # Runs --------------------------------------------------------------------------------------------------------

    def launch(self, job: str, partition: str | None = None, config: Mapping[str, Any] | None = None) -> str:
        """The id of a run that is launched."""
        params = {
            "selector": self._selector(pipelineName=job),
            "runConfigData": config or {},
            "mode": "default",
            "executionMetadata": {"tags": _tags({"dagster/partition": partition} if partition else {})},
        }
        return _launched(self.ask(LAUNCH, params=params)["launchRun"])

    def backfill(self, assets: Sequence[str], partitions: Sequence[str]) -> str:
        """The id of a backfill of some assets' partitions."""
        params = {
            "assetSelection": [{"path": asset.split("/")} for asset in assets],
            "partitionNames": list(partitions),
            "tags": [],
        }
        launched = self.ask(BACKFILL, params=params)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return str(launched["backfillId"])

    def backfilled(self, backfill: str, seconds: float = PATIENCE) -> tuple[str, dict[str, str]]:
        """How a backfill ended, and how each of its runs did, by partition or `first...last`."""

        def look() -> tuple[str, dict[str, str]] | None:
            told = self.ask(OF_BACKFILL, id=backfill)["partitionBackfillOrError"]
            if told["status"] in ("REQUESTED", "CANCELING"):
                return None
            return told["status"], {_partitions(run): run["status"] for run in told["runs"]}

        return self.wait_for(look, seconds)

    def terminate(self, run: str) -> None:
        """Tell a run to stop, as the button does."""
        told = self.ask(TERMINATE, id=run)["terminateRun"]
        assert told["__typename"] == "TerminateRunSuccess", told

    def execute_again(self, run: str, strategy: str) -> str:
        """The id of a run that executes another again: ALL_STEPS, FROM_FAILURE or FROM_ASSET_FAILURE."""
        params = {"parentRunId": run, "strategy": strategy}
        return _launched(self.ask(AGAIN, params=params)["launchRunReexecution"])

    def status(self, run: str) -> str:
        """How it stands with a run."""
        return str(self.ask(STATUS, id=run)["runOrError"]["status"])

    def finished(self, run: str, seconds: float = PATIENCE) -> str:
        """How a run ended."""
        return self.wait_for(lambda: status if (status := self.status(run)) in OVER else None, seconds)

    def runs(self, **tags: str) -> list[dict[str, Any]]:
        """The runs with these tags, the last one first: id, status, tags."""
        wanted = {"tags": _tags({name.replace("__", "/"): value for name, value in tags.items()})}
        found = self.ask(RUNS, filter=wanted)["runsOrError"]["results"]
        return [{**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]

    def messages(self, run: str) -> list[tuple[str, str]]:
        """The type of each event of a run, and its message."""
        events = self.ask(EVENTS, id=run)["logsForRun"]["events"]
        return [(event["__typename"], event.get("message") or "") for event in events]

    def failure(self, run: str) -> str:
        """The messages of a run's failed steps, with those of what caused them."""
        events = self.ask(EVENTS, id=run)["logsForRun"]["events"]
        return " ".join(event["error"]["message"] for event in events if event.get("error"))

    # Sensors -----------------------------------------------------------------------------------------------------

    def start_sensor(self, name: str) -> None:
        """Turn a sensor on."""
        told = self.ask(START_SENSOR, selector=self._selector(sensorName=name))["startSensor"]
        assert told["__typename"] == "Sensor", told

    def ticks(self, name: str) -> list[dict[str, Any]]:
        """The last ticks of a sensor: status, run keys, why it was skipped, what failed."""
        found = self.ask(TICKS, selector=self._selector(sensorName=name))["sensorOrError"]
        return list(found["sensorState"]["ticks"])

    # Assets ------------------------------------------------------------------------------------------------------

    def materializations(self, asset: str) -> list[dict[str, Any]]:
        """What an asset's materializations say, the last one first: run id, partition, metadata entries."""
        node = self.ask(MATERIALIZATIONS, key={"path": asset.split("/")})["assetNodeOrError"]
        return list(node["assetMaterializations"])

    def numbers(self, asset: str) -> dict[str | None, dict[str, float]]:
        """What plots: the numbers of the last materialization of each partition, by their names."""
        last_wins = reversed(self.materializations(asset))
        return {each["partition"]: _numbers(each["metadataEntries"]) for each in last_wins}

    def column_lineage(self, asset: str) -> dict[str, set[tuple[str, str]]]:
        """The (asset, column) pairs that each column of the last materialization comes from; none where it has none."""
        entries = next(iter(self.materializations(asset)))["metadataEntries"]
        return {
            column["columnName"]: {
                ("/".join(dep["assetKey"]["path"]), dep["columnName"]) for dep in column["columnDeps"]
            }
            for entry in entries
            if entry["__typename"] == "TableColumnLineageMetadataEntry"
            for column in entry["lineage"]
        }

    def checks(self, asset: str) -> dict[str, list[dict[str, Any]]]:
        """The executions of each check of an asset, the last one first: status, run id, partition, evaluation."""
        found = self.ask(CHECKS, key={"path": asset.split("/")})["assetNodeOrError"]["assetChecksOrError"]
        names = [check["name"] for check in found.get("checks", [])]
        return {name: self._executions(asset, name) for name in names}

    def latest_checks(self, asset: str) -> dict[str, dict[str, Any] | None]:
        """How each check of an asset's last materialization came out: success, severity, description; None: not yet."""
        found = self.ask(CHECKS, key={"path": asset.split("/")})["assetNodeOrError"]["assetChecksOrError"]
        latest = {check["name"]: check["executionForLatestMaterialization"] for check in found.get("checks", [])}
        return {name: execution and execution["evaluation"] for name, execution in latest.items()}

    def stale(self, asset: str, partition: str) -> tuple[str, set[str]]:
        """Whether a partition is FRESH, STALE or MISSING, and the assets that are the causes."""
        node = self.ask(STALE, key={"path": asset.split("/")}, partition=partition)["assetNodeOrError"]
        causes = [cause["dependency"] or cause["key"] for cause in node["staleCauses"]]
        return node["staleStatus"], {"/".join(key["path"]) for key in causes}

    def _executions(self, asset: str, check: str) -> list[dict[str, Any]]:
        return list(self.ask(EXECUTIONS, key={"path": asset.split("/")}, check=check)["assetCheckExecutions"])

    def partitions(self, asset: str) -> dict[str, int]:
        """How many partitions of an asset are materialized, failed, and there at all."""
        stats = self.ask(PARTITIONS, key={"path": asset.split("/")})["assetNodeOrError"]["partitionStats"]
        return {"materialized": stats["numMaterialized"], "failed": stats["numFailed"], "all": stats["numPartitions"]}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _tag(run: Mapping[str, Any], key: str) -> str:
    return next((tag["value"] for tag in run["tags"] if tag["key"] == key), "")


def _partitions(run: Mapping[str, Any]) -> str:
    """The partition of a run, or the first and the last one of its range."""
    first, last = (_tag(run, f"dagster/asset_partition_range_{end}") for end in ("start", "end"))
    return f"{first}...{last}" if first else _tag(run, "dagster/partition")


def _launched(told: Mapping[str, Any]) -> str:
    assert told["__typename"] == "LaunchRunSuccess", told
    return str(told["run"]["runId"])


def _numbers(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Integer and float entries by name; an integer beyond 32 bits comes as text."""
    numbers = {}
    for entry in entries:
        if entry["__typename"] == "IntMetadataEntry":
            numbers[entry["label"]] = int(entry["intRepr"])
        elif entry["__typename"] == "FloatMetadataEntry" and entry["floatValue"] is not None:
            numbers[entry["label"]] = entry["floatValue"]
    return numbers


LAUNCH = """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
  ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""
BACKFILL = """mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) { __typename
  ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
OF_BACKFILL = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) {
  ... on PartitionBackfill { status runs(limit: 100) { runId status tags { key value } } } } }"""
TERMINATE = """mutation ($id: String!) { terminateRun(runId: $id) { __typename
  ... on TerminateRunFailure { message } ... on PythonError { message } } }"""
AGAIN = """mutation ($params: ReexecutionParams) { launchRunReexecution(reexecutionParams: $params) { __typename
  ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
STATUS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
RUNS = """query ($filter: RunsFilter!) { runsOrError(filter: $filter) {
  ... on Runs { results { runId status jobName tags { key value } } } } }"""
EVENTS = """query ($id: ID!) { logsForRun(runId: $id, limit: 1000) { ... on EventConnection { events { __typename
  ... on MessageEvent { message } ... on ExecutionStepFailureEvent { error { message } } } } } }"""
START_SENSOR = """mutation ($selector: SensorSelector!) { startSensor(sensorSelector: $selector) { __typename
  ... on PythonError { message } } }"""
TICKS = """query ($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) { ... on Sensor {
  sensorState { ticks(limit: 50) { status runKeys skipReason error { message } } } } } }"""
MATERIALIZATIONS = """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  assetMaterializations(limit: 100) { runId partition metadataEntries { __typename label
    ... on IntMetadataEntry { intRepr } ... on FloatMetadataEntry { floatValue }
    ... on TextMetadataEntry { text } ... on MarkdownMetadataEntry { mdStr } ... on UrlMetadataEntry { url }
    ... on TableColumnLineageMetadataEntry { lineage { columnName
      columnDeps { assetKey { path } columnName } } } } } } } }"""
CHECKS = """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization {
    evaluation { success severity description } } } } } } } }"""
STALE = """query ($key: AssetKeyInput!, $partition: String!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  staleStatus(partition: $partition) staleCauses(partition: $partition) { key { path } dependency { path } } } } }"""
EXECUTIONS = """query ($key: AssetKeyInput!, $check: String!) {
  assetCheckExecutions(assetKey: $key, checkName: $check, limit: 100) { status runId partition
    evaluation { success severity description metadataEntries { label __typename } } } }"""
PARTITIONS = """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  partitionStats { numMaterialized numFailed numPartitions } } } }"""
