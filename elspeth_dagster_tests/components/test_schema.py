"""What editors, `dg check yaml` and the UI's component pages are told about the keys of an assessment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from elspeth_dagster.components import MultiQueryAssessment
from elspeth_dagster.core.spec import AssessmentSpec
from elspeth_dagster_tests.project import ATTRIBUTES
from elspeth_dagster_tests.stages.declared import QUERY, changed

SCHEMA = MultiQueryAssessment.get_model_cls().model_json_schema()  # type: ignore[union-attr]
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def keys(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key that a schema knows, nested ones too, with what it says of it."""
    [alternative] = [one for one in schema.get("anyOf", []) if "$ref" in one] or [schema]
    if "$ref" in alternative:
        schema = SCHEMA["$defs"][alternative["$ref"].rsplit("/", 1)[1]]
    for name, declared in schema.get("properties", {}).items():
        yield f"{path}{name}", declared
        yield from keys(declared, f"{path}{name}.")
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            yield from keys(schema[inner], path)


def test_every_key_has_a_description_that_is_a_sentence() -> None:
    described = dict(keys(SCHEMA))
    assert {"name", "source.columns", "case_studies.inputs", "answer.maximum", "queries.answer.type"} < set(described)
    for name, declared in described.items():
        assert declared.get("description", "").endswith("."), name


def test_whoever_writes_text_or_a_mapping_sees_an_example_or_the_choices() -> None:
    speaks_for_itself = {"description", "subcriteria", "system", "options"}
    for name, declared in keys(SCHEMA):
        kinds = declared.get("type", [])
        free = "$ref" not in declared and "enum" not in declared and kinds in ("string", "object", ["string", "null"])
        if free and name.rsplit(".", 1)[-1] not in speaks_for_itself:
            assert declared.get("examples"), name


def test_every_example_is_valid() -> None:
    for name, declared in keys(SCHEMA):
        for example in declared.get("examples", []):
            jsonschema.Draft202012Validator({**declared, "$defs": SCHEMA["$defs"]}).validate(example), name


def test_the_schema_is_that_of_the_spec_whole() -> None:
    assert set(SCHEMA["properties"]) == set(AssessmentSpec.model_fields)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("attributes", [ATTRIBUTES, changed({"queries": [QUERY], "aggregate": {"when": None}})])
def test_good_attributes_are_valid(attributes: dict[str, Any]) -> None:
    VALIDATOR.validate(attributes)


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        ({"rows_per_step": 0}, "rows_per_step", "0 is less than the minimum of 1"),
        ({"llm.temperature": 3}, "llm.temperature", "3 is greater than the maximum of 2"),
        ({"partitions": {"daly": "2026-01-01"}}, "partitions", "'daly' was unexpected"),
        ({"answer.score.type": "int"}, "answer.score.type", "'int' is not one of"),
        ({"case_studies.0.inputs": {}}, "case_studies.0.inputs", "{} should be non-empty"),
        ({"queries": [{**QUERY, "answer": {"language": {}}}]}, "queries.0.answer.language", "'type' is a required"),
        ({"source.format": "xlsx"}, "source.format", "'xlsx' is not one of"),
    ],
)
def test_what_the_schema_refuses_is_pointed_at_exactly(changes: dict[str, Any], path: str, words: str) -> None:
    [error] = VALIDATOR.iter_errors(changed(changes))
    assert ".".join(map(str, error.absolute_path)) == path
    assert words in error.message


def test_a_check_may_be_left_out_by_null() -> None:
    VALIDATOR.validate(changed({"checks": {"drift": None, "failure_rate": None}}))
    assert not VALIDATOR.is_valid(changed({"checks": {"drift": {"window": 0}}}))
    assert not VALIDATOR.is_valid(changed({"checks": {"linked": None}}))


def test_a_number_may_be_filled_in_by_dagster() -> None:
    VALIDATOR.validate(yaml.safe_load(yaml.safe_dump(changed({"llm.max_tokens": "{{ env.MAX_TOKENS }}"}))))
    assert not VALIDATOR.is_valid(changed({"llm.max_tokens": "many"}))
