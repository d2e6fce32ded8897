"""`dg scaffold defs` makes a starter that works at once and shows every key."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import dagster as dg
import pytest
import yaml
from dagster.components.scaffold.scaffold import NoParams

from elspeth_dagster.components import MultiQueryAssessment
from elspeth_dagster.components.scaffolding import STARTER, StarterScaffolder, assessment_name
from elspeth_dagster.core.spec import AssessmentSpec
from elspeth_dagster.stages.reading import Record, read_records
from elspeth_dagster_tests.components.loaded import assessment_of
from elspeth_dagster_tests.components.test_schema import SCHEMA, keys
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.project import Project

ROOT = Path(__file__).parents[2]
DECLARED = [f"{{name}}/{asset}" for asset in ("answers", "failures", "rejections", "results", "verification")]
TYPE = "elspeth_dagster.components.MultiQueryAssessment"


@pytest.fixture
def asking_project(project: Project) -> Iterator[Project]:
    """A project whose provider answers."""
    with FaultServer() as server:
        project.env["OPENAI_BASE_URL"] = server.base_url
        yield project


def run_dg(
    project: Project, *words: str, folder: Path | None = None, env: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    """A command of Dagster's own, in the project's folder or another one."""
    command = [str(Path(sys.executable).with_name("dg")), *words]
    there = folder or project.folder
    with project.in_env(env):
        return subprocess.run(command, cwd=there, capture_output=True, text=True, timeout=240, check=False)


def scaffold(project: Project, name: str, scaffold_format: Literal["yaml", "python"] = "yaml") -> Path:
    folder = project.folder / "trial" / "defs" / name
    folder.mkdir(parents=True, exist_ok=True)
    request = dg.ScaffoldRequest(TYPE, folder, scaffold_format, project.folder, NoParams())
    StarterScaffolder().scaffold(request)
    return folder


def listed_defs(project: Project, folder: Path | None = None) -> dict[str, list[str]]:
    """What `dg list defs` tells, by kind of definition."""
    listed = run_dg(project, "list", "defs", "--json", folder=folder)
    assert listed.returncode == 0, listed.stderr
    told = json.loads(listed.stdout)
    return {kind: sorted(one.get("asset_key") or one.get("key") or one["name"] for one in told[kind]) for kind in told}


def launched(project: Project, *words: str, folder: Path | None = None) -> None:
    """Launch a job by `dg`, in one process."""
    config = project.folder / "one_process.yaml"
    config.write_text("execution: {config: {in_process: {}}}\n")
    done = run_dg(project, "launch", *words, "--config", str(config), folder=folder)
    assert done.returncode == 0, done.stderr[-3000:]


def fates(project: Project) -> dict[str, int]:
    found = project.facts("SELECT outcome, count(*) AS n FROM token_outcomes JOIN tokens USING (token_id) "
                          "WHERE kind = 'row' GROUP BY outcome")  # fmt: skip
    return {fate["outcome"]: fate["n"] for fate in found}


def test_the_starter_is_listed_checked_and_launched_by_dg_and_then_every_mistake_is_shown(
    asking_project: Project,
) -> None:
    project = asking_project
    (project.folder / "trial" / "defs").mkdir()
    made = run_dg(project, "scaffold", "defs", TYPE, "my_assessment")
    assert made.returncode == 0, made.stdout + made.stderr
    assert "resources_from_env()" in made.stdout
    form = run_dg(project, "check", "yaml")
    assert (form.returncode, form.stdout.splitlines()[-1]) == (0, "All component YAML validated successfully.")
    good = run_dg(project, "check", "defs")
    assert (good.returncode, good.stdout.splitlines()[-1]) == (0, "All definitions loaded successfully.")
    listed = listed_defs(project)
    assert set(DECLARED) <= {name.replace("my_assessment", "{name}") for name in listed["assets"]}
    assert "my_assessment_job" in listed["jobs"] and "my_assessment_run_ends" in listed["sensors"]
    launched(project, "--job", "my_assessment_job")
    assert fates(project) == {"assessed": 2}
    defs = project.folder / "trial" / "defs" / "my_assessment" / "defs.yaml"
    defs.write_text(defs.read_text().replace("text: cs1_text", "text: cs1_txt"))
    bad = run_dg(project, "check", "defs")
    assert bad.returncode == 1
    line = next(n for n, text in enumerate(defs.read_text().splitlines(), 1) if "cs1_txt" in text)
    assert (
        f"trial/defs/my_assessment/defs.yaml:{line} attributes.case_studies[0].inputs.text: " in bad.stdout + bad.stderr
    )


def test_the_sample_is_listed_checked_and_launched_by_dg(asking_project: Project) -> None:
    checked = run_dg(asking_project, "check", "defs", folder=ROOT)
    assert (checked.returncode, checked.stdout.splitlines()) == (
        0, ["All component YAML validated successfully.", "All definitions loaded successfully."],
    )  # fmt: skip
    listed = listed_defs(asking_project, ROOT)
    assert set(DECLARED) <= {name.replace("case_studies", "{name}") for name in listed["assets"]}
    assert "case_studies_job" in listed["jobs"] and "case_studies_schedule" in listed["schedules"]
    launched(asking_project, "--job", "case_studies_job", "--partition", "2026-01-06", folder=ROOT)
    assert fates(asking_project) == {"assessed": 5}


def test_the_component_is_listed_with_its_description(project: Project) -> None:
    listed = run_dg(project, "list", "components", "--json")
    summaries = {item["key"]: item["summary"] for item in json.loads(listed.stdout)["items"]}
    assert summaries[TYPE].startswith("Asks an LLM case studies × criteria questions about every row")


def test_the_source_of_the_starter_can_be_read(project: Project) -> None:
    scaffold(project, "my_assessment")
    spec = AssessmentSpec.model_validate(assessment_of(project, "my_assessment")["spec"])
    assert spec.source.path is not None
    with (project.folder / spec.source.path).open("rb") as stream:
        records = list(read_records(stream, "sample", spec.source))
    assert len(records) == 2 and all(isinstance(record, Record) for record in records)


def test_the_starter_shows_every_key() -> None:
    text = (STARTER / "defs.yaml").read_text()
    for name in {path.rsplit(".", 1)[-1] for path, _ in keys(SCHEMA)}:
        assert re.search(rf"\b{name}: ?", text), name


def test_what_the_starter_shows_as_defaults_are_the_defaults() -> None:
    text = (STARTER / "defs.yaml").read_text()
    shown = re.findall(r"^  # {1,3}(rows|row|repair|retry_seconds|structured_output): (\S+)", text, re.MULTILINE)
    defaults = {path.rsplit(".", 1)[-1]: declared.get("default") for path, declared in keys(SCHEMA)}
    assert len(shown) == 5
    assert {name: yaml.safe_load(value) for name, value in shown} == {name: defaults[name] for name, _ in shown}


def test_two_starters_load_together(project: Project) -> None:
    scaffold(project, "my_assessment")
    scaffold(project, "tenders")
    names = {key.path[0] for key in project.definitions().resolve_all_asset_keys()}
    assert names == {"my_assessment", "tenders"}


def test_what_is_there_already_stays(project: Project) -> None:
    source = project.folder / "data" / "my_assessment.csv"
    source.parent.mkdir()
    source.write_text("mine")
    folder = scaffold(project, "my_assessment")
    (folder / "prompts" / "assess.j2").write_text("mine {{ row.text }}")
    scaffold(project, "my_assessment")
    assert source.read_text() == "mine"
    assert (folder / "prompts" / "assess.j2").read_text() == "mine {{ row.text }}"


def test_a_python_scaffold_is_dagsters_own(project: Project) -> None:
    folder = scaffold(project, "my_assessment", "python")
    assert [path.name for path in folder.iterdir()] == ["component.py"]
    assert f"-> {MultiQueryAssessment.__name__}" in (folder / "component.py").read_text()


@pytest.mark.parametrize(
    ("folder", "name"),
    [("tenders", "tenders"), ("2026-tenders", "a_2026_tenders"), ("Größe", "Gr_e"), ("--", "assessment")],
)
def test_a_folder_with_any_name_gives_the_assessment_a_valid_one(folder: str, name: str) -> None:
    assert assessment_name(Path("defs") / folder) == name
