"""What an assessment is, as its user declares it in YAML: the fields, their meaning, what is refused.

The descriptions are what `dg list components`, the UI's component docs and an editor show.
What needs files to be judged (templates, lookups, columns against templates) is judged in `stages.querying`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

ColumnType = Literal["str", "int", "float", "bool", "date", "datetime"]
SourceFormat = Literal["csv", "jsonl", "json", "parquet"]
StructuredOutput = Literal["json_schema", "json_object", "none"]
RowPolicy = Literal["all_or_nothing", "keep_partial"]


def _checked_name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(f"{value!r} must start with a letter and hold only ASCII letters, digits and _")
    return value


class SpecModel(BaseModel):
    """A part of the spec: unknown keys are refused, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceSpec(SpecModel):
    """Where the rows come from: a file per partition, or an upstream asset."""

    path: str | None = Field(
        default=None,
        description="A file, or an fsspec url; `{partition}` stands for the partition key. "
        "A relative path starts at the project's root.",
        examples=["data/case_studies/{partition}.csv"],
    )
    asset: str | None = Field(
        default=None,
        description="Instead of `path`: the key of an upstream asset that is a pandas DataFrame "
        "(parts of the key joined by `/`).",
    )
    format: SourceFormat | None = Field(
        default=None, description="csv, jsonl, json (a list of objects) or parquet; default: by the path's ending."
    )
    key: Annotated[
        list[str],
        Field(min_length=1, description="The columns that identify a row across runs; a repeated key is rejected."),
    ]
    columns: Annotated[
        dict[str, ColumnType],
        Field(
            min_length=1,
            description="Every column of the source with its type: str, int, float, bool, date or datetime. "
            "A value that does not coerce rejects its record; a column that is not declared refuses the source.",
        ),
    ]

    @field_validator("columns")
    @classmethod
    def _columns_have_names(cls, value: dict[str, ColumnType]) -> dict[str, ColumnType]:
        if any(not name.strip() for name in value):
            raise ValueError("a column needs a name")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.asset is None):
            raise ValueError("give either `path` or `asset`")
        if self.path is not None and self.effective_format is None:
            raise ValueError(f"the format of {self.path!r} is not clear from its ending; give `format`")
        if self.asset is not None and self.format is not None:
            raise ValueError("`format` belongs to `path`, an asset is a DataFrame already")
        if missing := [name for name in self.key if name not in self.columns]:
            raise ValueError(f"key column {missing[0]!r} is not declared in `columns`")
        if len(set(self.key)) != len(self.key):
            raise ValueError("a key column is named twice")
        return self

    @property
    def effective_format(self) -> SourceFormat | None:
        """The format given, or the one the path's ending tells."""
        if self.format is not None or self.path is None:
            return self.format
        endings: dict[str, SourceFormat] = {
            ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet",
        }  # fmt: skip
        return next((found for ending, found in endings.items() if self.path.lower().endswith(ending)), None)


class PartitionsSpec(SpecModel):
    """How the source is cut into partitions; leave `partitions` out for an assessment without."""

    daily: str | None = Field(
        default=None, description="One partition a day, from this first day on.", examples=["2026-01-01"]
    )
    static: list[str] | None = Field(default=None, min_length=1, description="A fixed list of partition keys.")
    dynamic: str | None = Field(
        default=None, description="The name of a dynamic partitions definition; keys are added while you work."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(kind is not None for kind in (self.daily, self.static, self.dynamic)) != 1:
            raise ValueError("give exactly one of `daily`, `static`, `dynamic`")
        return self


class AggregateSpec(SpecModel):
    """What makes a batch: the first trigger that fires flushes, the end of the slice flushes the rest."""

    rows: int = Field(default=50, ge=1, description="Flush a batch when it holds this many rows.")
    group_by: list[str] = Field(
        default=[], description="Columns: a batch only ever holds rows that agree in them, in source order."
    )
    when: str | None = Field(
        default=None,
        description="A Jinja2 expression over `row`: flush after the row for which it is true.",
        examples=["row.priority == 'urgent'"],
    )


class LLMSpec(SpecModel):
    """The model and how it samples; the provider and its secrets belong to the deployment's `llm` resource."""

    model_name: str = Field(min_length=1, description="The model, or the name of the Azure deployment.")
    temperature: float | None = Field(default=None, ge=0, le=2, description="Sampling temperature, 0 to 2.")
    max_tokens: int | None = Field(default=None, ge=1, description="The longest reply, in completion tokens.")
    seed: int | None = Field(default=None, description="Asks the provider for repeatable sampling.")
    options: dict[str, Any] = Field(
        default={},
        description="Further fields of the request body, sent as they are.",
        examples=[{"max_completion_tokens": 500, "reasoning_effort": "low"}],
    )

    @field_validator("options")
    @classmethod
    def _options_do_not_collide(cls, value: dict[str, Any]) -> dict[str, Any]:
        ours = {"model", "messages", "response_format", "stream", "n", "temperature", "max_tokens", "seed"}
        if taken := sorted(ours & set(value)):
            raise ValueError(f"`{taken[0]}` is set by the assessment itself")
        return value


class PromptSpec(SpecModel):
    """The template files of the case studies × criteria questions; paths start beside the defs.yaml."""

    system: str | None = Field(default=None, description="A Jinja2 file: the system message.")
    template: str | None = Field(
        default=None,
        description="A Jinja2 file: the user message. It sees `row` (the inputs), `case_study`, `criterion`, `lookup`. "
        "Needed where there are `case_studies` and `criteria`.",
    )
    lookup: str | None = Field(default=None, description="A YAML file of reference data; templates see it as `lookup`.")


class CaseStudySpec(SpecModel):
    """One case study: which columns its questions are asked about."""

    name: Annotated[str, Field(description="Begins the names of its result columns.")]
    description: str = Field(default="", description="For the template, as `case_study.description`.")
    inputs: Annotated[
        dict[str, str],
        Field(min_length=1, description="Template name → source column; the template sees `row.<name>`."),
    ]

    _name = field_validator("name")(_checked_name)


class CriterionSpec(SpecModel):
    """One criterion: what every case study is judged by."""

    name: Annotated[str, Field(description="The middle of the names of its result columns.")]
    code: str = Field(default="", description="For the template and as a key into `lookup`.")
    description: str = Field(default="", description="For the template, as `criterion.description`.")
    subcriteria: list[str] = Field(default=[], description="For the template, as `criterion.subcriteria`.")

    _name = field_validator("name")(_checked_name)


class AnswerField(SpecModel):
    """One field that an answer must have, with its type and bounds."""

    type: Literal["integer", "number", "string", "boolean", "enum"] = Field(description="The field's JSON type.")
    minimum: float | None = Field(default=None, description="The least value of an integer or number.")
    maximum: float | None = Field(default=None, description="The greatest value of an integer or number.")
    max_length: int | None = Field(default=None, ge=1, description="The most characters of a string.")
    values: list[str] | None = Field(default=None, min_length=1, description="The values of an enum.")
    description: str = Field(default="", description="Told to the model in the JSON schema.")

    @model_validator(mode="after")
    def _bounds_fit_the_type(self) -> Self:
        numeric = self.type in ("integer", "number")
        if not numeric and (self.minimum is not None or self.maximum is not None):
            raise ValueError(f"`minimum` and `maximum` are for integer and number, not {self.type}")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"`minimum` {self.minimum:g} is above `maximum` {self.maximum:g}")
        if self.type != "string" and self.max_length is not None:
            raise ValueError(f"`max_length` is for string, not {self.type}")
        if (self.type == "enum") != (self.values is not None):
            raise ValueError("`values` goes with type enum, and an enum needs it")
        if self.values is not None and len(set(self.values)) != len(self.values):
            raise ValueError("an enum value is named twice")
        return self


class NamedQuerySpec(SpecModel):
    """A question of its own, beside or instead of case studies × criteria."""

    name: Annotated[str, Field(description="Begins the names of its result columns.")]
    system: str | None = Field(default=None, description="A Jinja2 file; default: the assessment's system message.")
    template: Annotated[str, Field(description="A Jinja2 file; it sees `row` (the inputs) and `lookup`.")]
    inputs: Annotated[dict[str, str], Field(min_length=1, description="Template name → source column.")]
    answer: dict[str, AnswerField] | None = Field(
        default=None, min_length=1, description="Its own answer fields; default: the assessment's."
    )

    _name = field_validator("name")(_checked_name)


class ErrorsSpec(SpecModel):
    """What happens to a question that gets no good reply, and to its row."""

    row: RowPolicy = Field(
        default="all_or_nothing",
        description="all_or_nothing: a row with a refused answer is a failure, not a result. "
        "keep_partial: it stays in the results with empty cells, and in the failures with the reasons.",
    )
    repair: int = Field(
        default=0, ge=0, le=5, description="How often a refused reply is asked again, the model being told why."
    )
    retry_seconds: int = Field(
        default=120, ge=0, description="How long a question's transient errors (429, 5xx, connection) are retried."
    )


class AssessmentSpec(SpecModel):
    """An assessment whole: rows × questions, asked of one model."""

    name: str
    source: SourceSpec
    partitions: PartitionsSpec | None = None
    aggregate: AggregateSpec = AggregateSpec()
    rows_per_step: int | None = None
    llm: LLMSpec
    prompt: PromptSpec = PromptSpec()
    case_studies: list[CaseStudySpec] = []
    criteria: list[CriterionSpec] = []
    queries: list[NamedQuerySpec] = []
    answer: dict[str, AnswerField] = {}
    structured_output: StructuredOutput = "json_schema"
    errors: ErrorsSpec = ErrorsSpec()
    schedule: str | None = None
