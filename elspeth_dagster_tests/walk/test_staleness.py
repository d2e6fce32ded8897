"""An edited prompt marks what was made by it as stale, for that one reason; nothing else, and nothing of others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
import pytest

from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import ATTRIBUTES, TEMPLATES, Project, rows_of_texts
from elspeth_dagster_tests.walk.staleness import causes

PARTITIONED: dict[str, Any] = {
    "source": {**ATTRIBUTES["source"], "path": "data/{partition}.csv"},
    "partitions": {"static": ["north", "south"]},
}
STRICTER = TEMPLATES["ask.j2"] + " Be strict."
OUTPUTS = ("results", "answers", "failures", "rejections")


def tick(project: Project, sensor: str = "trial_edits") -> Sequence[dg.AssetObservation]:
    """What an evaluation of the sensor tells, kept in the instance as Dagster's daemon keeps it."""
    repository = project.definitions().get_repository_def()
    with project.in_env(), dg.DagsterInstance.get() as instance:
        context = dg.build_sensor_context(instance, repository_def=repository)
        told = repository.get_sensor_def(sensor)(context)
        found = list(told.asset_events) if isinstance(told, dg.SensorResult) else []  # type: ignore[arg-type]
        for event in found:
            instance.report_runless_asset_event(event)
        return found  # type: ignore[return-value]


def observe(project: Project, asset: str) -> None:
    """What the button `Observe` does."""
    whole = project.definitions().get_implicit_global_asset_job_def()
    with project.in_env(), dg.DagsterInstance.get() as instance:
        observing = whole.get_subset(asset_selection={dg.AssetKey(asset.split("/"))})
        assert observing.execute_in_process(instance=instance).success


def edit(project: Project, file: str, text: str, name: str = "trial") -> None:
    (project.folder / "trial" / "defs" / name / file).write_text(text)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory, one_server: FaultServer) -> Project:
    """Two assessments, all made: one of two partitions, one of one of them."""
    folder = tmp_path_factory.mktemp("stale") / "project"
    project = Project(folder, f"sqlite:///{folder}/landscape.sqlite", one_server.base_url)
    one_server.reset()
    one_server.configure()
    for name in ("trial", "other"):
        project.declare(name, **PARTITIONED)
    for key in ("north", "south"):
        project.write_rows(rows_of_texts(1), f"data/{key}.csv")
        assert project.run(partition=key).success
    assert project.run("other_job", partition="north").success
    return project


@pytest.fixture
def two(made_once: Project) -> Iterator[Project]:
    """The same, whatever a test has edited put back."""
    yield made_once
    edit(made_once, "ask.j2", TEMPLATES["ask.j2"])
    tick(made_once)


def test_an_edited_template_marks_what_was_made_by_it_for_one_reason(two: Project) -> None:
    assert [causes(two, f"trial/{asset}", "north") for asset in OUTPUTS] == [[], [], [], []]
    edit(two, "ask.j2", STRICTER)
    assert [event.asset_key.to_user_string() for event in tick(two)] == ["trial/files/ask.j2"]
    why = ["has a new dependency data version: trial/files/ask.j2"]
    for partition in ("north", "south"):
        assert [causes(two, f"trial/{asset}", partition) for asset in OUTPUTS] == [why, why, why, []]
    assert causes(two, "other/results", "north") == []
    assert tick(two) == [] and tick(two, "other_edits") == []
    edit(two, "ask.j2", TEMPLATES["ask.j2"])
    assert len(tick(two)) == 1 and causes(two, "trial/results", "north") == []


def test_other_criteria_and_another_lookup_mark_too_and_a_comment_or_a_line_end_does_not(
    sqlite_project: Project, server: FaultServer
) -> None:
    project, template = sqlite_project, "Strictly.\n" + TEMPLATES["ask.j2"] + " {{ lookup.MARKS }}"
    prompt = {**ATTRIBUTES["prompt"], "lookup": "lookup.yaml"}
    files = {**TEMPLATES, "ask.j2": template, "lookup.yaml": "MARKS: some\n"}
    project.write_rows(rows_of_texts(1))
    project.declare(templates=files, prompt=prompt)
    assert project.run().success and causes(project, "trial/results") == []
    edit(project, "lookup.yaml", "# a comment\nMARKS: some\n")
    (project.folder / "trial" / "defs" / "trial" / "ask.j2").write_bytes(template.replace("\n", "\r\n").encode())
    assert tick(project) == []
    changed = {**files, "lookup.yaml": "MARKS: others\n"}
    project.declare(templates=changed, prompt=prompt, criteria=[{"name": "depth"}])
    tick(project)
    assert sorted(causes(project, "trial/results")) == [
        "has a new dependency data version: trial/criteria",
        "has a new dependency data version: trial/files/lookup.yaml",
    ]
    assert project.run().success and causes(project, "trial/results") == []


def test_another_source_file_marks_its_partition_alone(two: Project) -> None:
    two.write_rows(rows_of_texts(2), "data/south.csv")
    observe(two, "trial/source")
    why = ["has a new dependency data version: trial/source"]
    assert causes(two, "trial/results", "south") == causes(two, "trial/rejections", "south") == why
    assert causes(two, "trial/results", "north") == []
    assert two.run(partition="south").success
    assert causes(two, "trial/results", "south") == []


def test_a_template_can_be_observed_by_hand(two: Project) -> None:
    edit(two, "ask.j2", STRICTER)
    observe(two, "trial/files/ask.j2")
    assert causes(two, "trial/results", "north") == ["has a new dependency data version: trial/files/ask.j2"]


def test_what_is_edited_while_a_run_goes_on_does_not_count_as_used(two: Project) -> None:
    """The run works by the text that it was launched with, and says so; what it made is stale at the next look."""
    job = two.definitions().resolve_job_def("trial_job")
    edit(two, "ask.j2", STRICTER)
    tick(two)
    with two.in_env(), dg.DagsterInstance.get() as instance:
        assert job.execute_in_process(instance=instance, partition_key="north").success
    assert [event.asset_key.to_user_string() for event in tick(two)] == ["trial/files/ask.j2"]
    assert causes(two, "trial/results", "north") == ["has a new dependency data version: trial/files/ask.j2"]


def test_a_file_that_can_not_be_used_is_told_by_the_sensor(two: Project) -> None:
    repository = two.definitions().get_repository_def()
    edit(two, "ask.j2", "{{ row.")
    with two.in_env(), dg.DagsterInstance.get() as instance:
        told = repository.get_sensor_def("trial_edits")(dg.build_sensor_context(instance, repository_def=repository))
    assert isinstance(told, dg.SkipReason) and told.skip_message
    assert told.skip_message.startswith("The files of trial can't be used as they are: ask.j2:1 is not Jinja2")
