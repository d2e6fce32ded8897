"""What one assessment brings into Dagster: assets, a job, a schedule, and versions that tell when results are stale."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from elspeth_dagster.components import MultiQueryAssessment
from elspeth_dagster_tests.components.loaded import OUTPUTS, code_versions, mistakes
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


ASKED_BY = ("files/system.j2", "files/ask.j2", "criteria")


def test_an_assessment_is_four_assets_and_their_verification_in_its_own_group(project: Project) -> None:
    project.declare()
    graph = project.definitions().resolve_asset_graph()
    made = [*OUTPUTS, "verification"]
    known = {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert known == {f"trial/{asset}" for asset in (*made, *ASKED_BY, "source")}
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
    asked_by = {dg.AssetKey(["trial", *asset.split("/")]) for asset in ASKED_BY}
    assert graph.get(dg.AssetKey(["trial", "results"])).parent_keys == {dg.AssetKey(["team", "table"]), *asked_by}
    assert graph.get(dg.AssetKey(["trial", "rejections"])).parent_keys == {dg.AssetKey(["team", "table"])}
    lineage = graph.get(dg.AssetKey(["trial", "results"])).metadata["dagster/column_lineage"]
    assert lineage.deps_by_column["cs1_depth_score"] == [dg.TableColumnDep(["team", "table"], "cs1_text")]


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


def test_a_changed_template_or_criterion_leaves_the_code_version(project: Project) -> None:
    """It has a data version of its own, so that there is one reason why results are stale."""
    project.declare()
    before = code_versions(project)
    assert len(set(before.values())) == 1 and None not in before.values()
    changed = {**TEMPLATES, "ask.j2": TEMPLATES["ask.j2"] + " Be strict."}
    project.declare(templates=changed, criteria=[{"name": "clarity"}])
    assert code_versions(project) == before


def test_what_is_asked_by_is_observed_and_described_in_the_assessments_group(project: Project) -> None:
    project.declare(owners=["team:admissions"])
    graph = project.definitions().resolve_asset_graph()
    for place in (*ASKED_BY, "source"):
        asset = graph.get(dg.AssetKey(["trial", *place.split("/")]))
        assert asset.is_observable and asset.group_name == "trial" and asset.description
        assert asset.kinds == ({"csv"} if place == "source" else {"yaml"} if place == "criteria" else {"jinja"})
        assert place == "source" or list(asset.owners) == ["team:admissions"]
    assert graph.get(dg.AssetKey(["trial", "results"])).parent_keys == {
        dg.AssetKey(["trial", *place.split("/")]) for place in (*ASKED_BY, "source")
    }


def test_owners_are_those_of_all_that_is_made(project: Project) -> None:
    project.declare(owners=["team:admissions", "ann@example.org"])
    graph = project.definitions().resolve_asset_graph()
    for output in (*OUTPUTS, "verification"):
        assert list(graph.get(dg.AssetKey(["trial", output])).owners) == ["team:admissions", "ann@example.org"]


@pytest.mark.parametrize("owner", ["admissions", "team:", "team:two words", "ann@", "ann@example"])
def test_an_owner_that_is_neither_a_team_nor_an_address_is_refused(project: Project, owner: str) -> None:
    project.declare(owners=[owner])
    [line] = mistakes(project)
    assert f"attributes.owners[0]: {owner!r} is neither an email address nor a team such as team:admissions" in line


def references(definitions: dg.Definitions, asset: str) -> list[str]:
    metadata = definitions.resolve_asset_graph().get(dg.AssetKey(["trial", *asset.split("/")])).metadata
    return [one.source for one in metadata["dagster/code_references"].code_references]


def test_code_references_lead_to_the_declaration_and_the_templates(project: Project) -> None:
    project.declare()
    folder, definitions = project.folder / "trial" / "defs" / "trial", project.definitions()
    declared = f"{folder}/defs.yaml:1"
    assert references(definitions, "results") == [f"{folder}/ask.j2", f"{folder}/system.j2", declared]
    assert references(definitions, "files/ask.j2") == [f"{folder}/ask.j2", declared]
    assert references(definitions, "criteria") == [declared]
    linked = dg.link_code_references_to_git(
        list(definitions.resolve_asset_graph().assets_defs),
        git_url="https://github.com/example/assessments",
        git_branch="main",
        file_path_mapping=dg.AnchorBasedFilePathMapping(project.folder / "pyproject.toml", "pyproject.toml"),
    )
    in_git = "https://github.com/example/assessments/tree/main/trial/defs/trial"
    shown = references(dg.Definitions(assets=linked), "results")
    assert shown[:2] == [f"{in_git}/ask.j2", f"{in_git}/system.j2"] and shown[2].startswith(f"{in_git}/defs.yaml")


def test_files_above_of_one_name_and_with_odd_ones_have_assets_of_their_own(project: Project) -> None:
    names = ("../shared/ask.j2", "my ask.j2", "my_ask.j2")
    shared = project.folder / "trial" / "defs" / "shared"
    shared.mkdir(parents=True)
    (shared / "ask.j2").write_text(TEMPLATES["ask.j2"])
    query = {"inputs": {"text": "cs1_text"}, "answer": {"word": {"type": "string"}}}
    project.declare(
        templates={**TEMPLATES, names[1]: "{{ row.text }}", names[2]: "{{ row.text }}!"},
        prompt={"system": "system.j2", "template": names[0]},
        queries=[{"name": "one", "template": names[1], **query}, {"name": "two", "template": names[2], **query}],
    )
    keys = {key.to_user_string() for key in project.definitions().resolve_all_asset_keys()}
    assert {"trial/files/above/shared/ask.j2", "trial/files/my_ask.j2", "trial/files/my_ask.j2_"} < keys


def test_results_have_a_freshness_policy_where_it_is_declared(project: Project) -> None:
    project.declare(freshness={"fail_hours": 36, "warn_hours": 26})
    graph = project.definitions().resolve_asset_graph()
    policy = graph.get(dg.AssetKey(["trial", "results"])).freshness_policy
    assert policy == dg.FreshnessPolicy.time_window(timedelta(hours=36), timedelta(hours=26))
    assert graph.get(dg.AssetKey(["trial", "answers"])).freshness_policy is None


def test_checks_are_as_declared(project: Project) -> None:
    project.declare(
        checks={"linked": {"blocking": False}, "failure_rate": {"max": 0.2, "severity": "error"}, "drift": None}
    )
    graph = project.definitions().resolve_asset_graph()
    blocking = {key.name: graph.get(key).blocking for key in graph.asset_check_keys if key.name != "agreement"}
    always = {"verified": False}
    assert blocking == {"accounted": True, "linked": False, "within_bounds": True, "failure_rate": False} | always


def test_the_version_is_the_same_for_the_same_assessment(project: Project) -> None:
    project.declare()
    before = code_versions(project)
    (project.folder / "trial" / "defs" / "trial" / "notes.md").write_text("Nothing that is asked.")
    watched = {"checks": {"drift": None}, "owners": ["team:x"], "preview_rows": 0, "freshness": {"fail_hours": 1}}
    project.declare(rows_per_step=7, schedule="0 6 * * *", **watched)
    assert code_versions(project) == before


@pytest.mark.parametrize(
    "change",
    [
        {"llm": {"model_name": "gpt-4o-mini", "temperature": 1}},
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
