"""What an assessment is, as its user declares it in YAML: the fields, their meaning, what is refused.

The descriptions are what `dg utils inspect-component`, the UI's component docs and an editor show.
What one part of the spec can't see (files, templates, names against each other) is judged in `stages.checking`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    field_validator,
    model_validator,
)

from elspeth_dagster.core.checks_spec import ChecksSpec
from elspeth_dagster.core.partitions_spec import PartitionsSpec
from elspeth_dagster.core.settings import LARGEST_LIMIT
from elspeth_dagster.core.source_spec import SourceSpec
from elspeth_dagster.core.spec_model import Name, Owner, SpecModel, Variable
from elspeth_dagster.core.timing_spec import AutomationSpec, FreshnessSpec, SensorSpec

LARGEST_BOUND = 2**53

StructuredOutput = Literal["json_schema", "json_object", "none"]
RowPolicy = Literal["all_or_nothing", "keep_partial"]
OnUnknown = Literal["ask_again", "fail"]
Backfill = Literal["per_partition", "single_run"]
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """A mistake in a spec: the keys that lead to it, and a sentence that says what is wrong and what to do."""

    key_path: KeyPath
    message: str


class AggregateSpec(SpecModel):
    """What makes a batch: the first trigger that fires flushes, the end of the slice flushes the rest."""

    rows: int = Field(default=50, ge=1, description="Flush a batch when it holds this many rows.")
    group_by: list[str] = Field(
        default=[],
        description="Columns: a batch only ever holds rows that agree in them, in source order.",
        examples=[["cohort"]],
    )
    when: str | None = Field(
        default=None,
        description="A Jinja2 expression over `row`: flush after the row for which it is true.",
        examples=["row.priority == 'urgent'"],
    )


class PriceSpec(SpecModel):
    """What a model costs, in US dollars, where the list of genai-prices doesn't know it or says otherwise."""

    input_mtok: float = Field(ge=0, allow_inf_nan=False, description="Per million prompt tokens.", examples=[2.5])
    output_mtok: float = Field(ge=0, allow_inf_nan=False, description="Per million completion tokens.", examples=[10])
    cache_read_mtok: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Per million prompt tokens that the provider read from its cache; default: as `input_mtok`.",
    )
    requests_kcount: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="Per thousand calls, on top."
    )


class PriceList(RootModel[dict[str, PriceSpec]]):
    """What a deployment's models cost, by the `model_name` that assessments give."""


class FromEnvironment(BaseModel):
    """A value that is in a variable of the environment in which steps run: `{env: NAME}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    env: str = Field(min_length=1, description="The variable's name.", examples=["OPENAI_API_KEY_EU"])


def _never_as_text(value: Any) -> Any:
    """A secret is named, never written; what was written instead must not come up in an error."""
    if value is not None and not isinstance(value, FromEnvironment) and not _is_named(value):
        raise ValueError("a secret is given by its variable's name, `{env: NAME}`; what was written is not shown here")
    return value


def _text_or_named(value: Any) -> Any:
    if not isinstance(value, str | FromEnvironment | None) and not _is_named(value):
        raise ValueError("it must be a text, or `{env: NAME}`")
    return value


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["env"] and isinstance(value["env"], str)


Secret = Annotated[FromEnvironment, BeforeValidator(_never_as_text)]
Setting = Annotated[str | FromEnvironment, BeforeValidator(_text_or_named)]


class EndpointSpec(SpecModel):
    """One account or region of a pool: where it is, how to get in, how much of the load it takes, what it bears.

    What is not given is as the deployment's `llm` resource has it; credentials only at the same address.
    """

    name: Annotated[Name, Field(description="What the record calls it.", examples=["sweden"])]
    weight: float = Field(
        default=1, gt=0, le=1000, allow_inf_nan=False, description="Its part of the rows, against those of the others."
    )
    api_key: Secret | None = Field(
        default=None, description="The key, by its variable's name.", examples=[{"env": "AZURE_KEY_SWEDEN"}]
    )
    base_url: Setting | None = Field(default=None, description="Address of a compatible service, with its /v1.")
    azure_endpoint: Setting | None = Field(
        default=None, description="Azure's address: https://<resource>.openai.azure.com."
    )
    azure_deployment: str | None = Field(
        default=None,
        description="The deployment to ask, where it isn't called as `model_name`.",
        examples=["gpt-4o-sweden"],
    )
    azure_ad_token_provider: str | None = Field(
        default=None,
        description="Instead of a key: package.module:function that returns an Entra ID token.",
        examples=["my_project.identity:token"],
    )
    api_version: str | None = Field(default=None, description="Azure's API version.", examples=["2024-10-21"])
    organization: Setting | None = Field(default=None, description="OpenAI organization to bill.")
    headers: dict[str, Setting] | None = Field(
        default=None, description="Further headers of every request.", examples=[{"x-team": "marking"}]
    )
    ca_file: str | None = Field(
        default=None, description="A PEM file of authorities that are trusted as well.", examples=["/etc/ssl/own.pem"]
    )
    timeout_seconds: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="How long one request may take."
    )
    max_concurrency: int | None = Field(default=None, ge=1, le=1000, description="How many are in flight at most.")
    min_concurrency: int | None = Field(default=None, ge=1, le=1000, description="How many are in flight at least.")
    requests_per_minute: int | None = Field(
        default=None, ge=1, le=LARGEST_LIMIT, description="How many requests a minute it is sent, by all together."
    )
    tokens_per_minute: int | None = Field(
        default=None, ge=1, le=LARGEST_LIMIT, description="How many tokens a minute are used of it, by all together."
    )
    price: PriceSpec | None = Field(default=None, description="What the model costs here, before any other price.")

    @model_validator(mode="before")
    @classmethod
    def _of_one_model(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if named := next((key for key in ("model_name", "model") if key in value), None):
            raise ValueError(
                f"take `{named}` out: a pool is several accounts of one model, the assessment's `llm.model_name`. "
                "Where a deployment of Azure is called otherwise, give its name as `azure_deployment`"
            )
        if "provider" in value:
            raise ValueError("take `provider` out: all endpoints of a pool are of one provider, the deployment's")
        return value

    @model_validator(mode="after")
    def _bounds_leave_something(self) -> Self:
        least, most = self.min_concurrency, self.max_concurrency
        if least is not None and most is not None and least > most:
            raise ValueError(f"min_concurrency is {least}, more than max_concurrency, which is {most}")
        return self

    @field_validator("base_url", "azure_endpoint")
    @classmethod
    def _no_secret_in_an_address(cls, value: str | FromEnvironment | None) -> str | FromEnvironment | None:
        if isinstance(value, str) and ("?" in value or "@" in value):
            raise ValueError("an address with a query or a user may hold a secret: give it as `{env: NAME}`")
        return value


def _checked_pool(value: list[EndpointSpec]) -> list[EndpointSpec]:
    if not value:
        raise ValueError("the list is empty: name an endpoint, or take the key out")
    names = [endpoint.name for endpoint in value]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two endpoints are called `{twice}`: the record tells them apart by their names")
    return value


Endpoints = Annotated[list[EndpointSpec], AfterValidator(_checked_pool)]


class EndpointList(RootModel[Endpoints]):
    """A deployment's endpoints of one model."""


class LLMSpec(SpecModel):
    """The model and how it samples; the provider and its secrets belong to the deployment's `llm` resource."""

    model_name: str = Field(
        min_length=1, description="The model, or the name of the Azure deployment.", examples=["gpt-4o-mini"]
    )
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="Sampling temperature, 0 to 2; default: the provider's."
    )
    max_tokens: int | None = Field(
        default=None, ge=1, description="The longest reply, in completion tokens; a reply cut off there is refused."
    )
    seed: int | None = Field(default=None, description="Asks the provider for repeatable sampling.", examples=[7])
    options: dict[str, Any] = Field(
        default={},
        description="Further fields of the request body, sent as they are.",
        examples=[{"max_completion_tokens": 500, "reasoning_effort": "low"}],
    )
    price: PriceSpec | None = Field(
        default=None,
        description="What the model costs. Default: the deployment's price for it, else the list price.",
        examples=[{"input_mtok": 2.5, "output_mtok": 10}],
    )
    endpoints: Endpoints | None = Field(
        default=None,
        description="Several accounts or regions of the model, asked as one. Default: the deployment's, where all "
        "assessments have them in common.",
        examples=[[{"name": "sweden", "azure_endpoint": "https://…", "api_key": {"env": "AZURE_KEY_SWEDEN"}}]],
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

    system: str | None = Field(
        default=None, description="A Jinja2 file: the system message.", examples=["prompts/system.j2"]
    )
    template: str | None = Field(
        default=None,
        description="A Jinja2 file: the user message. It sees `row` (the inputs), `case_study`, `criterion`, `lookup`. "
        "Needed where there are `case_studies` and `criteria`.",
        examples=["prompts/assess.j2"],
    )
    lookup: str | None = Field(
        default=None,
        description="A YAML file of reference data; templates see it as `lookup`.",
        examples=["criteria_lookup.yaml"],
    )


class CaseStudySpec(SpecModel):
    """One case study: which columns its questions are asked about."""

    name: Annotated[Name, Field(description="Begins the names of its result columns.", examples=["cs1"])]
    description: str = Field(default="", description="For the template, as `case_study.description`.")
    inputs: Annotated[
        dict[Variable, str],
        Field(
            min_length=1,
            description="Template name → source column; the template sees `row.<name>`. "
            "A row in which one of them is blank is not asked.",
            examples=[{"background": "cs1_background", "plan": "cs1_plan"}],
        ),
    ]


class CriterionSpec(SpecModel):
    """One criterion: what every case study is judged by."""

    name: Annotated[Name, Field(description="The middle of the names of its result columns.", examples=["safety"])]
    code: str = Field(
        default="",
        description="For the template, as `criterion.code`: often a key into `lookup`.",
        examples=["SAFE"],
    )
    description: str = Field(default="", description="For the template, as `criterion.description`.")
    subcriteria: list[str] = Field(default=[], description="For the template, as `criterion.subcriteria`.")


class AnswerField(SpecModel):
    """One field that an answer must have, with its type and bounds."""

    type: Literal["integer", "number", "string", "boolean", "enum"] = Field(
        description="The field's JSON type; enum is a string out of `values`."
    )
    minimum: float | None = Field(
        default=None, ge=-LARGEST_BOUND, le=LARGEST_BOUND, description="The least value of an integer or number."
    )
    maximum: float | None = Field(
        default=None, ge=-LARGEST_BOUND, le=LARGEST_BOUND, description="The greatest value of an integer or number."
    )
    max_length: int | None = Field(default=None, ge=1, description="The most characters of a string.")
    values: list[str] | None = Field(
        default=None, min_length=1, description="The values of an enum.", examples=[["low", "medium", "high"]]
    )
    description: str = Field(default="", description="Told to the model in the JSON schema.")

    @model_validator(mode="after")
    def _bounds_fit_the_type(self) -> Self:
        numeric = self.type in ("integer", "number")
        if not numeric and (self.minimum is not None or self.maximum is not None):
            raise ValueError(f"`minimum` and `maximum` are for integer and number, not {self.type}")
        if self.type == "integer" and any(b is not None and b % 1 for b in (self.minimum, self.maximum)):
            raise ValueError("the bounds of an integer are whole numbers")
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

    name: Annotated[Name, Field(description="Begins the names of its result columns.", examples=["summary"])]
    system: str | None = Field(default=None, description="A Jinja2 file; default: the assessment's system message.")
    template: Annotated[
        str,
        Field(description="A Jinja2 file; it sees `row` (the inputs) and `lookup`.", examples=["prompts/summary.j2"]),
    ]
    inputs: Annotated[
        dict[Variable, str],
        Field(
            min_length=1,
            description="Template name → source column; the template sees `row.<name>`. "
            "A row in which one of them is blank is not asked.",
            examples=[{"text": "application_text"}],
        ),
    ]
    answer: dict[Name, AnswerField] | None = Field(
        default=None,
        min_length=1,
        description="Its own answer fields; default: the assessment's.",
        examples=[{"language": {"type": "enum", "values": ["de", "en", "fr"]}}],
    )


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
    on_unknown: OnUnknown = Field(
        default="ask_again",
        description="ask_again: a question whose call was sent before a crash and has no reply on record is asked "
        "again; it may be paid twice. fail: it is refused, until somebody decides.",
    )
    max_failures: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Stop when more rows than this have a refused answer: below 1 a share of the slice's rows, else a "
        "number of rows. Default: go on to the end.",
        examples=[0.1, 50],
    )

    @field_validator("max_failures")
    @classmethod
    def _is_a_share_or_a_count(cls, value: float | None) -> float | None:
        if value is not None and value >= 1 and value % 1:
            raise ValueError(f"{value:g} is neither a share of the rows (below 1) nor a whole number of them")
        return value


class BudgetSpec(SpecModel):
    """What asking may take at most; before a call could exceed it, the run stops. A bigger budget lets it go on."""

    max_cost_usd: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="The most money, in US dollars by the known prices.",
        examples=[25],
    )
    max_calls: int | None = Field(
        default=None, gt=0, description="The most calls, retries and repairs included.", examples=[20000]
    )

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.max_cost_usd is None and self.max_calls is None:
            raise ValueError("give `max_cost_usd`, `max_calls` or both, or take it out")
        return self


class AssessmentSpec(SpecModel):
    """An assessment whole: rows × questions, asked of one model."""

    name: Name = Field(
        description="The group of its assets, the start of their keys, and of `{name}_job`.", examples=["case_studies"]
    )
    source: SourceSpec = Field(description="Where the rows come from.")
    partitions: PartitionsSpec | None = Field(
        default=None, description="How the source is cut into partitions; leave it out for an assessment without."
    )
    backfill: Backfill = Field(
        default="per_partition",
        description="How a backfill takes several partitions. per_partition: a run for each. single_run: one run for "
        "all that follow one another, in which a row's key may occur in one partition only.",
    )
    aggregate: AggregateSpec = Field(default=AggregateSpec(), description="What makes a batch.")
    rows_per_step: int | None = Field(
        default=None,
        ge=1,
        description="The most rows that one step asks; default: 1000, or more so that a run has at most some 32 steps.",
    )
    llm: LLMSpec = Field(description="The model and how it samples.")
    prompt: PromptSpec = Field(default=PromptSpec(), description="The template files, beside the defs.yaml.")
    case_studies: list[CaseStudySpec] = Field(
        default=[], description="What is judged: every case study is asked every criterion."
    )
    criteria: list[CriterionSpec] = Field(default=[], description="By what every case study is judged.")
    queries: list[NamedQuerySpec] = Field(
        default=[], description="Further questions, each with its own template; beside or instead of the product."
    )
    answer: dict[Name, AnswerField] = Field(
        default={},
        description="The fields that every answer must have, by name.",
        examples=[{"score": {"type": "integer", "minimum": 0, "maximum": 100}}],
    )
    structured_output: StructuredOutput = Field(
        default="json_schema",
        description="How the reply's form is asked for: json_schema (strict), json_object, or none.",
    )
    errors: ErrorsSpec = Field(default=ErrorsSpec(), description="What a failing question and its row come to.")
    budget: BudgetSpec | None = Field(
        default=None, description="What asking may take at most, over a run and those that go on with it."
    )
    review: bool = Field(
        default=False,
        description="true: `results` has beside each answer what people who reviewed it hold for right, and who. "
        "Reviews come after a run: replay it to have its tables with them.",
    )
    schedule: str | None = Field(
        default=None,
        description="A cron expression (UTC): runs the last complete day, else every partition. Turn it on in the UI.",
        examples=["0 6 * * *"],
    )
    sensor: SensorSpec | None = Field(
        default=None,
        description="Starts a run when files are complete. Turn it on in the UI; leave it out for none.",
    )
    automation: AutomationSpec | None = Field(
        default=None, description="Instead of a schedule: when Dagster asks for the assets by itself."
    )
    owners: list[Owner] = Field(
        default=[],
        description="Who answers for the assets: email addresses, and teams as `team:name`.",
        examples=[["team:admissions", "ann@example.org"]],
    )
    checks: ChecksSpec = Field(default=ChecksSpec(), description="What is checked about the results after each run.")
    freshness: FreshnessSpec | None = Field(
        default=None, description="How old the results may become before Dagster says so."
    )
    preview_rows: int = Field(
        default=20,
        ge=0,
        le=50,
        description="How many results, by key and answers, are kept in Dagster's own database as a preview.",
    )
