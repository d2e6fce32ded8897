"""One assessment: a defs.yaml into four assets, the job that makes them, its schedule, and the sensor of its ends."""

from datetime import date, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Self

import dagster as dg
from dagster._core.definitions.utils import is_valid_name
from pydantic import BaseModel

from elspeth_dagster.components.affording import budget_problems, deployment_settings
from elspeth_dagster.components.certifying import verified_check
from elspeth_dagster.components.declaring import Attributes, declared_spec
from elspeth_dagster.components.ending import run_ends_sensor
from elspeth_dagster.components.pointing import Place
from elspeth_dagster.components.scaffolding import StarterScaffolder
from elspeth_dagster.components.scheduling import assessment_schedule, schedule_problems
from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.pricing import with_deployment_price
from elspeth_dagster.core.spec import AssessmentSpec, PartitionsSpec, Problem
from elspeth_dagster.graphs import ASSETS, assessment_graph, verification_graph
from elspeth_dagster.identity import VERIFICATION
from elspeth_dagster.stages.checking import check, named_files

DESCRIPTIONS = {
    "results": "A row per source row that has a result: its columns, then {question}_{field}.",
    "answers": "A row per source row and question: the answer or its refusal, the calls it took, usage and cost.",
    "failures": "A row per source row without all its answers, with each question's own reason.",
    "rejections": "A row per source record that could not become a row, with the reason and its raw text.",
}
KINDS = {
    "results": ("llm", "parquet"),
    "answers": ("llm", "parquet"),
    "failures": ("parquet",),
    "rejections": ("parquet",),
}


@dg.scaffold_with(StarterScaffolder)
class MultiQueryAssessment(dg.Component, dg.Resolvable, AssessmentSpec):
    """Asks an LLM case studies × criteria questions about every row of a source, and puts everything on record.

    Makes the assets {name}/results, {name}/answers, {name}/failures and {name}/rejections, the job {name}_job, the
    sensor {name}_run_ends and, where `schedule` is given, {name}_schedule; and {name}/verification with
    {name}_verify_job, which asks some of the recorded questions again. Needs the resources `landscape`, `llm` and
    `parquet_io_manager`, which `resources_from_env()` gives.
    """

    @classmethod
    def model(cls) -> type[BaseModel]:
        """What Dagster reads the attributes into: anything, with the spec's schema; `declared_spec` judges it."""
        return Attributes

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Self:
        """The assessment that attributes declare. Raises SpecError with every mistake in their form."""
        assert isinstance(model, Attributes)
        load_context = dg.ComponentLoadContext.from_resolution_context(context)
        return cls(**dict(declared_spec(model.root, context, load_context.project_root)))

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """What lists of components show beside the description."""
        return dg.ComponentTypeSpec(tags=["llm", "audit"], produces=["asset", "job", "schedule", "sensor"])

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions of this assessment. Raises SpecError with everything that can be known not to work."""
        assessment = self._checked(context)
        partitions = _partitions_definition(self.partitions)
        assets = _assets(assessment, str(context.project_root), partitions)
        job = dg.define_asset_job(
            f"{self.name}_job",
            description=f"Assesses {self.name}: reads its rows, asks every question of each, writes four tables.",
            selection=dg.AssetSelection.assets(*assets.keys),
            tags={"dagster/retry_strategy": "FROM_ASSET_FAILURE"},
        )
        verification = _verification(assessment, partitions)
        verify_job = dg.define_asset_job(
            f"{self.name}_verify_job",
            description=f"Asks some recorded questions of {self.name} again, and compares the answers.",
            selection=dg.AssetSelection.assets(*verification.keys),
            tags={"dagster/retry_strategy": "FROM_ASSET_FAILURE"},
        )
        schedules = [assessment_schedule(self.name, self.schedule, job, partitions)] if self.schedule else []
        return dg.Definitions(
            assets=[assets, verification],
            jobs=[job, verify_job],
            schedules=schedules,
            sensors=[run_ends_sensor(self.name)],
            asset_checks=[verified_check(self.name)],
        )

    def _checked(self, context: dg.ComponentLoadContext) -> Assessment:
        deployment = deployment_settings()
        spec = with_deployment_price(AssessmentSpec(**dict(self)), deployment.prices_path)
        folder = context.path if context.path.is_dir() else context.path.parent
        checked = check(spec, {file: _content(folder / file) for file in named_files(spec)})
        problems = [*self._name_problems(context), *checked.problems, *schedule_problems(spec)]
        problems = problems or list(budget_problems(checked.assessment, deployment.provider))
        if problems:
            raise Place.of_component(context).refusal(problems)
        return checked.assessment

    def _name_problems(self, context: dg.ComponentLoadContext) -> list[Problem]:
        known = [one.name for one in context.component_tree.get_all_components(MultiQueryAssessment)]
        if known.count(self.name) > 1:
            return [Problem(("name",), f"Another assessment of this project is called `{self.name}`. Rename one.")]
        for other in known:
            if self.name == f"{other}{VERIFICATION}":
                taken = f"Assessment `{other}` calls the walk that verifies it `{self.name}`. Rename one."
                return [Problem(("name",), taken)]
        if not is_valid_name(self.name):
            return [Problem(("name",), f"Dagster or Python keeps the word `{self.name}` for itself. Choose another.")]
        return []


def _content(path: Path) -> bytes | OSError:
    try:
        return path.read_bytes()
    except OSError as error:
        return error


def _partitions_definition(spec: PartitionsSpec | None) -> dg.PartitionsDefinition | None:
    if spec is None:
        return None
    if spec.daily is not None:
        end = spec.until and (date.fromisoformat(spec.until) + timedelta(days=1)).isoformat()
        return dg.DailyPartitionsDefinition(start_date=spec.daily, end_date=end)
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
        tags_by_output_name={output: {f"dagster/kind/{kind}": "" for kind in KINDS[output]} for output in ASSETS},
        code_versions_by_output_name=dict.fromkeys(ASSETS, code_version(assessment)),
    )


def _verification(assessment: Assessment, partitions: dg.PartitionsDefinition | None) -> dg.AssetsDefinition:
    name = assessment.spec.name
    key = dg.AssetKey([name, "verification"])
    agreement = dg.AssetCheckSpec(
        "agreement", asset=key, description="Whether enough of the answers that were asked again came back the same."
    )
    return dg.AssetsDefinition.from_graph(
        verification_graph(name),
        keys_by_input_name={"results": dg.AssetKey([name, "results"])},
        keys_by_output_name={"verification": key},
        group_name=name,
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.multi_run(1) if partitions else None,
        descriptions_by_output_name={
            "verification": "A row per field of each recorded answer that was asked again: what it was, what it is now."
        },
        tags_by_output_name={"verification": {"dagster/kind/llm": "", "dagster/kind/parquet": ""}},
        check_specs=[agreement],
    )


def code_version(assessment: Assessment) -> str:
    """What decides an assessment's answers, and this package's version; a change marks what was made before as stale.

    When it runs, how many rows a step takes, what it costs, and how far it may go decide no answer.
    """
    declared = assessment.spec
    spec = declared.model_copy(
        update={
            "schedule": None,
            "rows_per_step": None,
            "budget": None,
            "llm": declared.llm.model_copy(update={"price": None}),
            "errors": declared.errors.model_copy(update={"max_failures": None}),
        }
    )
    asked = Assessment(spec, assessment.templates, assessment.lookup).version
    return f"{version('elspeth-dagster')} {asked}"
