"""One assessment: a defs.yaml into four assets, the job that makes them, and its schedule."""

from pathlib import Path
from typing import Annotated, Any

import dagster as dg
import yaml
from pydantic import Field, TypeAdapter

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.spec import (
    AggregateSpec,
    AnswerField,
    AssessmentSpec,
    CaseStudySpec,
    CriterionSpec,
    ErrorsSpec,
    LLMSpec,
    NamedQuerySpec,
    PartitionsSpec,
    PromptSpec,
    RowPolicy,
    SourceSpec,
    StructuredOutput,
)
from elspeth_dagster.graphs import ASSETS, assessment_graph

DESCRIPTIONS = {
    "results": "A row per source row that has a result: its columns, then {question}_{field}.",
    "answers": "A row per source row and question: the answer or its refusal, the calls it took, usage and cost.",
    "failures": "A row per source row without all its answers, with each question's own reason.",
    "rejections": "A row per source record that could not become a row, with the reason and its raw text.",
}


def _declared(kind: Any) -> dg.Resolver:
    """How a part that is a plain pydantic model is read: Dagster's `{{ … }}` filled in, then validated."""
    adapter = TypeAdapter(kind)

    def resolve(context: dg.ResolutionContext, value: Any) -> Any:
        return adapter.validate_python(context.resolve_value(adapter.dump_python(value, exclude_unset=True)))

    return dg.Resolver(resolve, model_field_type=kind)


class MultiQueryAssessment(dg.Component, dg.Model, dg.Resolvable):
    """Asks an LLM case studies × criteria questions about every row of a source, and puts everything on record.

    Makes the assets {name}/results, {name}/answers, {name}/failures and {name}/rejections, the job {name}_job and,
    where `schedule` is given, its schedule. Needs the resources `landscape`, `llm` and `parquet_io_manager`, which
    `resources_from_env()` gives.
    """

    name: str = Field(description="The assessment's name: group and key prefix of its assets.")
    source: Annotated[Any, _declared(SourceSpec)] = Field(description="Where the rows come from.")
    partitions: Annotated[Any, _declared(PartitionsSpec | None)] = Field(
        default=None, description="How the source is cut into partitions; leave it out for an assessment without."
    )
    aggregate: Annotated[Any, _declared(AggregateSpec)] = Field(
        default=AggregateSpec(), description="What makes a batch."
    )
    rows_per_step: int | None = Field(
        default=None,
        description="The most rows that one step asks; default: 1000, or more so that a run has at most some 32 steps.",
    )
    llm: Annotated[Any, _declared(LLMSpec)] = Field(description="The model and how it samples.")
    prompt: Annotated[Any, _declared(PromptSpec)] = Field(default=PromptSpec(), description="The template files.")
    case_studies: Annotated[Any, _declared(list[CaseStudySpec])] = Field(
        default=[], description="What is judged: every case study is asked every criterion."
    )
    criteria: Annotated[Any, _declared(list[CriterionSpec])] = Field(
        default=[], description="By what every case study is judged."
    )
    queries: Annotated[Any, _declared(list[NamedQuerySpec])] = Field(
        default=[], description="Further questions, each with its own template."
    )
    answer: Annotated[Any, _declared(dict[str, AnswerField])] = Field(
        default={}, description="The fields that every answer must have."
    )
    structured_output: StructuredOutput = Field(
        default="json_schema",
        description="How the reply's form is asked for: json_schema (strict), json_object, or none.",
    )
    errors: Annotated[Any, _declared(ErrorsSpec)] = Field(
        default=ErrorsSpec(), description="What a failing question and its row come to."
    )
    schedule: str | None = Field(default=None, description="A cron expression: when the job runs.")

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions of this assessment. Raises SpecError for what can be known not to work."""
        assessment = self._with_files(Path(context.path))
        partitions = _partitions_definition(assessment.spec.partitions)
        assets = _assets(assessment, str(context.project_root), partitions)
        job = dg.define_asset_job(
            f"{self.name}_job",
            selection=dg.AssetSelection.assets(*assets.keys),
            tags={"dagster/retry_strategy": "FROM_ASSET_FAILURE"},
        )
        return dg.Definitions(assets=[assets], jobs=[job])

    def _with_files(self, folder: Path) -> Assessment:
        spec = AssessmentSpec(**{name: getattr(self, name) for name in AssessmentSpec.model_fields})
        names = {spec.prompt.template, spec.prompt.system}
        names |= {name for query in spec.queries for name in (query.template, query.system)}
        templates = {name: (folder / name).read_text("utf-8") for name in sorted(filter(None, names))}
        lookup = yaml.safe_load((folder / spec.prompt.lookup).read_text("utf-8")) if spec.prompt.lookup else None
        return Assessment(spec, templates, lookup)


def _partitions_definition(spec: PartitionsSpec | None) -> dg.PartitionsDefinition | None:
    if spec is None:
        return None
    if spec.daily is not None:
        return dg.DailyPartitionsDefinition(start_date=spec.daily)
    if spec.static is not None:
        return dg.StaticPartitionsDefinition(spec.static)
    return dg.DynamicPartitionsDefinition(name=spec.dynamic)


def _assets(
    assessment: Assessment, project_root: str, partitions: dg.PartitionsDefinition | None
) -> dg.AssetsDefinition:
    name, source = assessment.spec.name, assessment.spec.source
    upstream = {} if source.asset is None else {"source_rows": dg.AssetKey(source.asset.split("/"))}
    return dg.AssetsDefinition.from_graph(
        assessment_graph(assessment, project_root, f"Asks every question of assessment {name} about every row."),
        keys_by_input_name=upstream,
        keys_by_output_name={output: dg.AssetKey([name, output]) for output in ASSETS},
        group_name=name,
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.multi_run(1) if partitions else None,
        descriptions_by_output_name=DESCRIPTIONS,
        code_versions_by_output_name=dict.fromkeys(ASSETS, assessment.version),
    )
