"""One assessment: a defs.yaml into four assets, the job that makes them, its schedule and its sensors."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Self

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.definitions.utils import is_valid_name
from pydantic import BaseModel

from elspeth_dagster.components.affording import budget_problems, deployment_settings
from elspeth_dagster.components.asset_checks import results_checks
from elspeth_dagster.components.automating import automation_problems
from elspeth_dagster.components.certifying import verified_check
from elspeth_dagster.components.declaring import Attributes, declared_spec
from elspeth_dagster.components.emptying import inbox_sensor
from elspeth_dagster.components.ending import run_ends_sensor
from elspeth_dagster.components.ingredients import edits_sensor, ingredient_assets, source_asset
from elspeth_dagster.components.partitioning import partitions_definition
from elspeth_dagster.components.pointing import Place
from elspeth_dagster.components.presenting import assessment_assets
from elspeth_dagster.components.scaffolding import StarterScaffolder
from elspeth_dagster.components.scheduling import assessment_schedule, schedule_problems
from elspeth_dagster.components.watching import files_sensor
from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.checks_spec import ChecksSpec
from elspeth_dagster.core.pricing import with_deployment_price
from elspeth_dagster.core.spec import AssessmentSpec, Problem
from elspeth_dagster.graphs import verification_graph
from elspeth_dagster.identity import RETRY_WHOLE, VERIFICATION
from elspeth_dagster.stages.checking import check, named_files
from elspeth_dagster.stages.versioning import declared_alone


@dg.scaffold_with(StarterScaffolder)
class MultiQueryAssessment(dg.Component, dg.Resolvable, AssessmentSpec):
    """Asks an LLM case studies × criteria questions about every row of a source, and puts everything on record.

    Makes the assets {name}/results, {name}/answers, {name}/failures and {name}/rejections with their checks, the job
    {name}_job, the sensors {name}_run_ends and {name}_edits; where `schedule` is given {name}_schedule, where `sensor`
    is {name}_files or {name}_inbox; and {name}/verification with {name}_verify_job, which asks some of the recorded
    questions again. What it reads and asks by is observed as {name}/source, {name}/criteria and {name}/files/…. Needs
    the resources `landscape`, `llm`, `parquet_io_manager` and `reference_io_manager`, which
    `resources_from_env()` gives.
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
        partitions = partitions_definition(self.partitions)
        folder, root = _folder(context), Path(context.project_root)
        reread = self._reread(folder, assessment)
        asked_by = ingredient_assets(assessment, folder, reread)
        assets = assessment_assets(assessment, root, folder, partitions, code_version(assessment))
        job = dg.define_asset_job(
            f"{self.name}_job",
            description=f"Assesses {self.name}: reads its rows, asks every question of each, writes four tables.",
            selection=dg.AssetSelection.assets(*assets.keys),
            tags=RETRY_WHOLE,
        )
        verification = _verification(assessment, partitions)
        verify_job = dg.define_asset_job(
            f"{self.name}_verify_job",
            description=f"Asks some recorded questions of {self.name} again, and compares the answers.",
            selection=dg.AssetSelection.assets(*verification.keys),
            tags=RETRY_WHOLE,
        )
        sensors = [run_ends_sensor(self.name), *self._files_sensors(context.project_root, job, partitions)]
        schedules = [assessment_schedule(self.name, self.schedule, job, partitions)] if self.schedule else []
        return dg.Definitions(
            assets=[assets, verification, asked_by, *source_asset(assessment, root, partitions)],
            asset_checks=[results_checks(assessment, partitions), verified_check(assessment)],
            jobs=[job, verify_job],
            schedules=schedules,
            sensors=[*sensors, edits_sensor(self.name, reread)],
        )

    def _files_sensors(
        self, root: Path, job: UnresolvedAssetJobDefinition, partitions: dg.PartitionsDefinition | None
    ) -> list[dg.SensorDefinition]:
        if self.sensor is None:
            return []
        spec = AssessmentSpec(**dict(self))
        return [files_sensor(spec, root, job, partitions) if spec.source.path else inbox_sensor(spec, root, job)]

    def _checked(self, context: dg.ComponentLoadContext) -> Assessment:
        deployment = deployment_settings()
        spec = with_deployment_price(AssessmentSpec(**dict(self)), deployment.prices_path)
        checked = check(spec, _contents(spec, _folder(context)))
        problems = [*self._name_problems(context), *checked.problems, *schedule_problems(spec)]
        problems += automation_problems(spec)
        problems = problems or list(budget_problems(checked.assessment, deployment))
        if problems:
            raise Place.of_component(context).refusal(problems)
        return checked.assessment

    def _reread(self, folder: Path, assessment: Assessment) -> Callable[[], Assessment | str]:
        """How the files of an assessment are read anew, while its declaration stays as it was loaded."""
        spec = assessment.spec

        def reread() -> Assessment | str:
            checked = check(spec, _contents(spec, folder))
            if checked.problems:
                return f"The files of {self.name} can't be used as they are: {checked.problems[0].message}"
            return checked.assessment

        return reread

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


def _folder(context: dg.ComponentLoadContext) -> Path:
    """The folder of the defs.yaml, at which the paths of templates start."""
    return context.path if context.path.is_dir() else context.path.parent


def _contents(spec: AssessmentSpec, folder: Path) -> dict[str, bytes | OSError]:
    return {file: _content(folder / file) for file in named_files(spec)}


def _content(path: Path) -> bytes | OSError:
    try:
        return path.read_bytes()
    except OSError as error:
        return error


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
        owners_by_output_name={"verification": assessment.spec.owners},
        partitions_def=partitions,
        descriptions_by_output_name={
            "verification": "A row per field of each recorded answer that was asked again: what it was, what it is now."
        },
        tags_by_output_name={"verification": {"dagster/kind/llm": "", "dagster/kind/parquet": ""}},
        check_specs=[agreement],
    )


NOT_IN_THE_CODE = ("schedule", "sensor", "rows_per_step", "budget", "automation", "freshness")


def code_version(assessment: Assessment) -> str:
    """What decides an assessment's answers beside its ingredients, and this package's version.

    A change marks what was made before as stale. An ingredient's change does so by its own data version. When it runs,
    for how many partitions at once, how many rows a step takes, what it costs, how far it may go, who owns it and how
    it is watched decide no answer.
    """
    declared = assessment.spec
    watched = {"checks": ChecksSpec(), "owners": [], "preview_rows": 0}
    spec = declared.model_copy(
        update={
            **dict.fromkeys(NOT_IN_THE_CODE),
            **watched,
            "backfill": "per_partition",
            "source": declared.source.model_copy(update={"missing": "fail"}),
            "llm": declared.llm.model_copy(update={"price": None, "endpoints": None}),
            "errors": declared.errors.model_copy(update={"max_failures": None}),
        }
    )
    asked = declared_alone(Assessment(spec, assessment.templates, assessment.lookup)).version
    return f"{version('elspeth-dagster')} {asked}"
