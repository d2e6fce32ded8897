"""What one assessment brings into Dagster: assets, a job, a schedule, and versions that tell when results are stale."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from elspeth_dagster.components import MultiQueryAssessment
from elspeth_dagster_tests.components.loaded import OUTPUTS, code_versions
from elspeth_dagster_tests.project import ATTRIBUTES, TEMPLATES, Project

IN_PYTHON = """
import dagster as dg
from elspeth_dagster import MultiQueryAssessment

@dg.component_instance
def load(context: dg.ComponentLoadContext) -> MultiQueryAssessment:
    return MultiQueryAssessment(**{attributes})
"""
UPSTREAM = """
import dagster as dg
import pandas as pd

@dg.asset(key=["team", "table"])
def table() -> pd.DataFrame: ...
"""


def test_an_assessment_is_four_assets_and_their_verification_in_its_own_group(project: Project) -> None:
    project.declare()
    graph = project.definitions().resolve_asset_graph()
    made = [*OUTPUTS, "verification"]
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == {f"trial/{output}" for output in made}
    for output in made:
        asset = graph.get(dg.AssetKey(["trial", output]))
        assert asset.group_name == "trial"
        assert asset.description and asset.description.startswith("A row per ")
        assert "parquet" in asset.kinds
        assert ("llm" in asset.kinds) == (output in ("results", "answers", "verification"))


def test_its_job_makes_them_all_and_is_retried_from_what_failed(project: Project) -> None:
    project.declare()
    job = project.definitions().resolve_job_def("trial_job")
    assert {key.to_user_string() for key in job.asset_layer.selected_asset_keys} == {f"trial/{o}" for o in OUTPUTS}
    assert job.tags["dagster/retry_strategy"] == "FROM_ASSET_FAILURE"


def test_an_upstream_asset_is_its_source(project: Project) -> None:
    source = {key: value for key, value in ATTRIBUTES["source"].items() if key != "path"}
    project.declare(source={**source, "asset": "team/table"})
    (project.folder / "trial" / "defs" / "team.py").write_text(UPSTREAM)
    graph = project.definitions().resolve_asset_graph()
    assert graph.get(dg.AssetKey(["trial", "results"])).parent_keys == {dg.AssetKey(["team", "table"])}


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"daily": "2026-01-05"}, dg.DailyPartitionsDefinition("2026-01-05")),
        ({"static": ["north", "south"]}, dg.StaticPartitionsDefinition(["north", "south"])),
        ({"dynamic": "tenders"}, dg.DynamicPartitionsDefinition(name="tenders")),
        (None, None),
    ],
)
def test_partitions_are_as_declared(
    project: Project, declared: dict[str, object] | None, expected: dg.PartitionsDefinition | None
) -> None:
    source = {**ATTRIBUTES["source"], "path": "data/{partition}.csv" if declared else "data/rows.csv"}
    project.declare(source=source, partitions=declared)
    graph = project.definitions().resolve_asset_graph()
    assert {graph.get(dg.AssetKey(["trial", output])).partitions_def for output in OUTPUTS} == {expected}


def test_a_changed_template_gives_the_four_assets_another_version_and_no_other_asset(project: Project) -> None:
    project.declare()
    project.declare("other")
    before, other = code_versions(project), code_versions(project, "other")
    assert len(set(before.values())) == 1 and None not in before.values()
    project.declare(templates={**TEMPLATES, "ask.j2": TEMPLATES["ask.j2"] + " Be strict."})
    after = code_versions(project)
    assert all(after[output] != before[output] for output in OUTPUTS)
    assert code_versions(project, "other") == other


def test_the_version_is_the_same_for_the_same_assessment(project: Project) -> None:
    project.declare()
    before = code_versions(project)
    (project.folder / "trial" / "defs" / "trial" / "notes.md").write_text("Nothing that is asked.")
    project.declare(rows_per_step=7, schedule="0 6 * * *")
    assert code_versions(project) == before


@pytest.mark.parametrize(
    "change",
    [
        {"llm": {"model_name": "gpt-4o-mini", "temperature": 1}},
        {"criteria": [{"name": "clarity"}]},
        {"answer": {"score": {"type": "integer"}}},
        {"structured_output": "none"},
        {"errors": {"row": "keep_partial"}},
    ],
)
def test_what_decides_an_answer_gives_another_version(project: Project, change: dict[str, Any]) -> None:
    project.declare()
    before = code_versions(project)
    project.declare(**change)
    assert code_versions(project) != before


def test_an_assessment_can_be_declared_in_python(project: Project) -> None:
    project.declare()
    in_yaml = code_versions(project)
    folder = project.folder / "trial" / "defs" / "trial"
    (folder / "defs.yaml").unlink()
    (folder / "component.py").write_text(IN_PYTHON.replace("{attributes}", repr(ATTRIBUTES)))
    assert code_versions(project) == in_yaml


def test_a_mistake_in_python_names_the_file_and_the_key(project: Project) -> None:
    project.declare()
    folder = project.folder / "trial" / "defs" / "trial"
    (folder / "defs.yaml").unlink()
    wrong = repr({**ATTRIBUTES, "schedule": "daily"})
    (folder / "component.py").write_text(IN_PYTHON.replace("{attributes}", wrong))
    with pytest.raises(Exception, match="Error while") as raised:
        project.definitions()
    expected = "trial/defs/trial/component.py attributes.schedule: 'daily' is not a cron expression."
    assert expected in str(raised.value.__cause__)


def test_attributes_in_a_test_are_judged_too() -> None:
    with pytest.raises(Exception, match=r"attributes\.source: It is missing\. Add it\."):
        MultiQueryAssessment.from_attributes_dict(attributes={"name": "trial", "llm": {"model_name": "m"}})
