"""What every part of a spec is: unknown keys are refused, names are checked, and editors are told so."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
TEAM = re.compile(r"team:\S+")
EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}")
LONGEST_NAME = 100
TEMPLATED = r"\{\{"


def _checked_name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(f"{value!r} must start with a letter and hold only ASCII letters, digits and _")
    if len(value) > LONGEST_NAME:
        raise ValueError(f"it has {len(value)} characters; a name has at most {LONGEST_NAME}")
    return value


def _checked_variable(value: str) -> str:
    if not value.isidentifier():
        raise ValueError(f"{value!r} is no name that a template can use: letters, digits and _, no digit first")
    return value


def _checked_owner(value: str) -> str:
    if not (TEAM.fullmatch(value) or EMAIL.fullmatch(value)):
        raise ValueError(f"{value!r} is neither an email address nor a team such as team:admissions")
    return value


Name = Annotated[str, AfterValidator(_checked_name)]
Owner = Annotated[str, AfterValidator(_checked_owner)]
Variable = Annotated[str, AfterValidator(_checked_variable)]


class SpecModel(BaseModel):
    """A part of the spec: unknown keys are refused, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The JSON schema that editors and `dg check yaml` use: what it refuses is pointed at exactly."""
        schema = handler(core_schema)
        for declared in handler.resolve_ref_schema(schema).get("properties", {}).values():
            _let_be_null(declared)
            _let_be_templated(declared)
        return schema


def _let_be_null(declared: JsonSchemaValue) -> None:
    """Null as one more type, not as an alternative: `anyOf` only says that no alternative fits.

    Where null is not the default it means something, and stays an alternative to what is declared elsewhere.
    """
    match declared.get("anyOf"):
        case [{"$ref": _}, {"type": "null"}] if declared.get("default") is not None:
            return
        case [kind, {"type": "null"}]:
            del declared["anyOf"]
            declared.update(kind)
            if "type" in kind:
                declared["type"] = [kind["type"], "null"]
            if "enum" in kind:
                declared["enum"] = [*kind["enum"], None]


def _let_be_templated(declared: JsonSchemaValue) -> None:
    """A number may be text as long as Dagster has to fill in a `{{ … }}`."""
    kinds = declared.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if {"integer", "number"} & set(kinds) and "string" not in kinds:
        declared.update(type=[*kinds, "string"], pattern=TEMPLATED)
