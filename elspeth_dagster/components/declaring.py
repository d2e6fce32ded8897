"""The `attributes` of a defs.yaml into a spec: what Dagster fills in, what YAML drops, what no key may hold.

Dagster evaluates `{{ … }}` in every text of a defs.yaml. It takes the outcome for Python, so only texts that hold
such an expression are evaluated: a criterion's code "007" or a partition key "2026" stays the text that it is.
"""

import re
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster_shared.yaml_utils.source_position import SourcePositionTree
from pydantic import GetJsonSchemaHandler, RootModel, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails

from elspeth_dagster.components.pointing import Place
from elspeth_dagster.core.spec import AssessmentSpec, KeyPath, Problem
from elspeth_dagster.stages.checking_files import repeated_keys

FILLS_IN = "Dagster fills in `{{ … }}` in a defs.yaml itself, and can't here"
EXPRESSION = re.compile(r"\{\{|\{%|\{#")


class Attributes(RootModel[Any]):
    """The attributes as they stand in a defs.yaml; editors and `dg check yaml` see the schema of the spec."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        spec = AssessmentSpec.__get_pydantic_json_schema__(AssessmentSpec.__pydantic_core_schema__, handler)
        return handler.resolve_ref_schema(spec)


def declared_spec(attributes: Any, context: dg.ResolutionContext, project_root: Path) -> AssessmentSpec:
    """The spec that attributes declare. Raises SpecError with every mistake in their form."""
    problems: list[Problem] = []
    lines = context.source_position_tree
    if lines is not None:
        problems += _repeated(lines)
    filled_in = _filled_in(attributes, context, (), problems)
    try:
        spec = AssessmentSpec.model_validate(filled_in)
    except ValidationError as error:
        known = {problem.key_path for problem in problems}
        found = (_as_problem(detail, attributes) for detail in error.errors())
        problems += [problem for problem in found if problem.key_path not in known]
    if problems:
        place = Place(Path("defs.yaml"), project_root) if lines is None else Place.of_document(lines, project_root)
        raise place.refusal(problems)
    return spec


def _repeated(lines: SourcePositionTree) -> list[Problem]:
    """The keys that stand twice in the document at these lines; YAML has dropped the first."""
    file = Path(lines.position.filename)
    if not file.is_file():
        return []
    documents = yaml.compose_all(file.read_text("utf-8"), Loader=yaml.SafeLoader)
    here = (node for node in documents if node and node.start_mark.line + 1 == lines.position.start.line)
    found = [path for node in here for path, _ in repeated_keys(node)]
    return [Problem(path[1:], "The key is there twice. Take one out.") for path in found if path[0] == "attributes"]


def _filled_in(value: Any, context: dg.ResolutionContext, path: KeyPath, problems: list[Problem]) -> Any:
    if isinstance(value, dict):
        return {key: _filled_in(part, context, (*path, key), problems) for key, part in value.items()}
    if isinstance(value, list):
        return [_filled_in(part, context, (*path, i), problems) for i, part in enumerate(value)]
    if not (isinstance(value, str) and EXPRESSION.search(value)):
        return value
    try:
        return context.resolve_value(value)
    except Exception as error:  # whatever the expression's author called
        why = (str(error).strip() or type(error).__name__).splitlines()[-1].split(", available scope")[0]
        problems.append(Problem(path, f"{FILLS_IN}: {why}. Templates are files, and `when` has no braces."))
        return value


def _as_problem(detail: ErrorDetails, attributes: Any) -> Problem:
    path = tuple(part for part in detail["loc"] if part != "[key]")
    match detail["type"]:
        case "missing":
            message = "It is missing. Add it."
        case "extra_forbidden":
            message = "There is no such key. Take it out, or correct its name."
        case "value_error":
            message = str(detail["ctx"]["error"])
        case _:
            message = detail["msg"] + _shown(attributes, path)
    return Problem(path, message[0].upper() + message[1:].rstrip(".") + ".")


def _shown(attributes: Any, path: KeyPath) -> str:
    """The value as it was written: what a variable of the environment filled in is not for a message."""
    value = attributes
    try:
        for key in path:
            value = value[key]
    except (LookupError, TypeError):
        return ""
    return "" if isinstance(value, dict | list) else f", not {value!r}"
