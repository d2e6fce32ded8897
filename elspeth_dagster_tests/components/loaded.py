"""What a project's definitions hold, and why they can't be loaded."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData

from elspeth_dagster.core.errors import SpecError
from elspeth_dagster_tests.project import Project

OUTPUTS = ("results", "answers", "failures", "rejections")


def mistakes(project: Project) -> list[str]:
    """The lines that tell the mistakes which keep the project from loading."""
    with pytest.raises(Exception, match="Error while") as raised:
        project.definitions()
    assert isinstance(raised.value.__cause__, SpecError)
    count, *lines = str(raised.value.__cause__).splitlines()
    assert count == ("1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes") + " in this assessment:"
    return lines


def assessment_of(project: Project, name: str = "trial") -> dict[str, Any]:
    """The assessment that a run would work by, as the run's first op is told it."""
    nodes = project.definitions().resolve_job_def(f"{name}_job").nodes
    [node] = [node for node in nodes if isinstance(node.definition, dg.GraphDefinition)]
    assert isinstance(node.definition, dg.GraphDefinition)
    assert node.definition.config_mapping is not None
    config = node.definition.config_mapping.resolve_from_unvalidated_config({})
    document: dict[str, Any] = config["admit_rows"]["config"]["assessment"]
    return document


def code_versions(project: Project, name: str = "trial") -> dict[str, str | None]:
    """The code version of each of an assessment's assets."""
    graph = project.definitions().resolve_asset_graph()
    return {output: graph.get(dg.AssetKey([name, output])).code_version for output in OUTPUTS}


def tick_of(project: Project, instance: dg.DagsterInstance, sensor: str, cursor: str | None) -> SensorExecutionData:
    """What a tick of a sensor comes to, evaluated as Dagster's daemon has it done."""
    repository = project.definitions().get_repository_def()
    with (
        project.in_env(),
        dg.SensorEvaluationContext(
            instance.get_ref(), None, None, cursor, None, repository.name, repository, sensor_name=sensor
        ) as context,
    ):
        return repository.get_sensor_def(sensor).evaluate_tick(context)


class Ticked:
    """A project's sensor, ticked at times of the test's choosing."""

    module: ModuleType
    """Whose clock it goes by."""
    sensor: str

    def __init__(self, project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
        self._project = project
        self._instance = instance
        self._monkeypatch = monkeypatch
        self._now = 1_800_000_000.0
        self.cursor: str | None = None
        self.told = ""

    def _ticked(self, after: float) -> SensorExecutionData:
        """What a tick comes to, so many seconds after the last one."""
        self._now += after
        self._monkeypatch.setattr(self.module, "time", SimpleNamespace(time=lambda: self._now))
        result = tick_of(self._project, self._instance, self.sensor, self.cursor)
        self.cursor, self.told = result.cursor, result.skip_message or ""
        return result
