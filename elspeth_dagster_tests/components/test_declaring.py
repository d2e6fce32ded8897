"""What a user is told about a mistake in a defs.yaml: file, line, key, and what to do; everything at once."""

from __future__ import annotations

import pytest

from elspeth_dagster_tests.components.loaded import assessment_of, mistakes
from elspeth_dagster_tests.project import Project

GOOD = """\
type: elspeth_dagster.components.MultiQueryAssessment
attributes:
  name: trial
  source:
    path: data/rows.csv
    key: [id]
    columns: {id: str, text: str}
  llm: {model_name: m}
  prompt: {template: ask.j2}
  case_studies:
    - name: cs1
      inputs:
        text: text
  criteria:
    - name: clarity
  answer:
    score: {type: integer}
"""
HERE = "trial/defs/trial/defs.yaml"


def write(project: Project, text: str, folder: str = "trial", template: str = "{{ row.text }}") -> None:
    defs = project.folder / "trial" / "defs" / folder
    defs.mkdir(parents=True, exist_ok=True)
    (defs / "defs.yaml").write_text(text)
    (defs / "ask.j2").write_text(template)


def test_every_mistake_in_the_form_is_told_with_file_line_and_key(project: Project) -> None:
    text = GOOD.replace("key: [id]", "key: [nr]").replace("model_name: m", "model: m, temperature: hot")
    write(project, text.replace("type: integer", "type: integr"))
    assert mistakes(project) == [
        f"{HERE}:4 attributes.source: Key column 'nr' is not declared in `columns`.",
        f"{HERE}:8 attributes.llm.model_name: It is missing. Add it.",
        f"{HERE}:8 attributes.llm.temperature: Input should be a valid number, unable to parse string "
        "as a number, not 'hot'.",
        f"{HERE}:8 attributes.llm.model: There is no such key. Take it out, or correct its name.",
        f"{HERE}:17 attributes.answer.score.type: Input should be 'integer', 'number', 'string', "
        "'boolean' or 'enum', not 'integr'.",
    ]


def test_every_mistake_in_what_it_means_is_told_with_file_line_and_key(project: Project) -> None:
    text = GOOD.replace("path: data/rows.csv", "path: data/{partition}.csv").replace("text: text\n", "text: txt\n")
    write(project, text + '  schedule: "0 25 * * *"\n', template="\n\n{{ row.tetx }}")
    assert mistakes(project) == [
        f"{HERE}:5 attributes.source.path: `{{partition}}` stands for nothing without `partitions`. "
        "Declare them, or name one file.",
        f"{HERE}:9 attributes.prompt.template: ask.j2:3: `row.tetx` is not an input of case study cs1. "
        "Did you mean `text`?",
        f"{HERE}:13 attributes.case_studies[0].inputs.text: The column `txt` is not among "
        "`source.columns`. Did you mean `text`?",
        f"{HERE}:13 attributes.case_studies[0].inputs.text: None of its templates takes `row.text`. "
        "Use it there, or take it out here.",
        f"{HERE}:18 attributes.schedule: '0 25 * * *' is not a cron expression. Write minute, hour, "
        'day, month and weekday, such as "0 6 * * *" for six every morning.',
    ]


def test_a_key_that_stands_twice_is_told(project: Project) -> None:
    write(project, GOOD + "    score: {type: number}\n    score: {type: string}\n")
    assert mistakes(project) == [f"{HERE}:19 attributes.answer.score: The key is there twice. Take one out."]


@pytest.mark.parametrize("name", ["1st", "my trial", "a" * 101, "config", "class"])
def test_a_name_that_dagster_cant_use_is_told(project: Project, name: str) -> None:
    write(project, GOOD.replace("name: trial", f"name: {name!r}"))
    [line] = mistakes(project)
    assert line.startswith(f"{HERE}:3 attributes.name: ")


def test_a_mistake_in_the_second_document_has_its_own_line(project: Project) -> None:
    write(project, GOOD + "---\n" + GOOD.replace("name: trial", "name: other").replace("[id]", "[nr]"))
    assert mistakes(project) == [f"{HERE}:22 attributes.source: Key column 'nr' is not declared in `columns`."]


def test_a_mistake_in_the_second_folder_is_found(project: Project) -> None:
    write(project, GOOD)
    write(project, GOOD.replace("name: trial", "name: other").replace("template: ask.j2", "template: aks.j2"), "other")
    assert mistakes(project) == [
        "trial/defs/other/defs.yaml:9 attributes.prompt.template: There is no file aks.j2. "
        "Paths start beside the defs.yaml."
    ]


def test_two_assessments_of_one_name_are_refused(project: Project) -> None:
    write(project, GOOD)
    write(project, GOOD, "other")
    [line] = mistakes(project)
    assert line.endswith(":3 attributes.name: Another assessment of this project is called `trial`. Rename one.")


def test_two_assessments_load_together(project: Project) -> None:
    write(project, GOOD + "---\n" + GOOD.replace("name: trial", "name: other"))
    write(project, GOOD.replace("name: trial", "name: third"), "third")
    keys = {key.to_user_string() for key in project.definitions().resolve_all_asset_keys()}
    assert {f"{name}/results" for name in ("trial", "other", "third")} < keys


def test_what_dagster_cant_fill_in_is_told(project: Project) -> None:
    write(project, GOOD + "  aggregate:\n    when: '{{ row.text }}'\n")
    assert mistakes(project) == [
        f"{HERE}:19 attributes.aggregate.when: Dagster fills in `{{{{ … }}}}` in a defs.yaml itself, and "
        "can't here: UndefinedError: 'row' not found in scope. Templates are files, and `when` has no braces."
    ]


def test_what_cant_be_filled_in_is_told_once(project: Project) -> None:
    write(project, GOOD + "  rows_per_step: '{{ env(\"NOT_SET_ANYWHERE\") }}'\n")
    [line] = mistakes(project)
    assert line.startswith(f"{HERE}:18 attributes.rows_per_step: Dagster fills in")
    assert "NOT_SET_ANYWHERE is not set" in line


def test_variables_of_the_environment_are_filled_in_anywhere(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIAL_MODEL", "gpt-7")
    monkeypatch.setenv("TRIAL_ROWS", "7")
    text = GOOD.replace("model_name: m", "model_name: '{{ env.TRIAL_MODEL }}'")
    write(project, text + "  rows_per_step: '{{ env.TRIAL_ROWS }}'\n")
    spec = assessment_of(project)["spec"]
    assert spec["llm"]["model_name"] == "gpt-7"
    assert spec["rows_per_step"] == 7


def test_a_filled_in_value_is_not_repeated_in_a_message(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIAL_SECRET", "sk-8841")
    write(project, GOOD + "  rows_per_step: '{{ env.TRIAL_SECRET }}'\n")
    [line] = mistakes(project)
    assert line.startswith(f"{HERE}:18 attributes.rows_per_step: ")
    assert "sk-8841" not in line


def test_text_that_looks_like_python_stays_text(project: Project) -> None:
    more = 'partitions: {static: ["2026", "007"]}\n  structured_output: json_schema\n'
    text = GOOD.replace("data/rows.csv", "data/{partition}.csv").replace(
        "name: clarity", 'name: clarity\n      code: "7"'
    )
    write(project, text + "  " + more)
    spec = assessment_of(project)["spec"]
    assert spec["partitions"]["static"] == ["2026", "007"]
    assert spec["criteria"][0]["code"] == "7"
