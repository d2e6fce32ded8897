"""What an assessment asks by and reads, as assets of their own: templates, criteria, lookup, and the source file.

Dagster doesn't make them; it observes their version. When one changes, exactly what was made by it becomes stale. A
sensor looks at the small ones, each run tells of all that it used, and anybody can observe them in the UI.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.errors import SourceError
from elspeth_dagster.describing import SOURCE
from elspeth_dagster.observing import ingredient_versions, news
from elspeth_dagster.resources.source import hash_of
from elspeth_dagster.stages.heading import SOURCE_KINDS
from elspeth_dagster.stages.versioning import CRITERIA, ingredients, places

EVERY_SECONDS = 30
Reread = Callable[[], Assessment | str]
"""Reads the files of an assessment anew; a sentence where they can't be used as they are."""


def ingredient_assets(assessment: Assessment, folder: Path, reread: Reread) -> dg.AssetsDefinition:
    """The templates, the lookup and the criteria of an assessment, which are observed together."""
    versions = ingredients(assessment)
    name = assessment.spec.name
    file_of = {place: file for file, place in places(assessment.spec).items()}
    specs = [
        dg.AssetSpec(
            [name, *place],
            description=_description(assessment, file_of.get(place)),
            group_name=name,
            owners=assessment.spec.owners,
            kinds={"jinja" if place != CRITERIA and file_of[place] != assessment.spec.prompt.lookup else "yaml"},
            metadata=_references(folder, [file_of[place]]) if place in file_of else {},
        )
        for place in sorted(versions)
    ]

    observed_together = dg.multi_observable_source_asset(
        name=f"{name}_ingredients",
        specs=specs,
        can_subset=True,
        description="Reads the templates and the lookup, and tells the version of each, and of the criteria.",
    )

    def observe(context: dg.AssetExecutionContext) -> Iterator[dg.ObserveResult]:
        read = reread()
        if isinstance(read, str):
            raise dg.Failure(read, allow_retries=False)
        for key, version in ingredient_versions(read).items():
            if key in context.selected_asset_keys:
                yield dg.ObserveResult(asset_key=key, data_version=dg.DataVersion(version))

    observed: dg.AssetsDefinition = observed_together(observe)
    return observed


def _description(assessment: Assessment, file: str | None) -> str:
    spec = assessment.spec
    if file is None:
        names = ", ".join(one.name for one in spec.criteria)
        return f"By what every case study is judged: {names}. They stand in the defs.yaml."
    if file == spec.prompt.lookup:
        return f"`{file}`: the reference data that templates see as `lookup`."
    if file == spec.prompt.system:
        return f"`{file}`: the system message."
    asked_by = [query.name for query in spec.queries if file in (query.template, query.system)]
    if file == spec.prompt.template:
        return f"`{file}`: how each case study is judged by each criterion."
    return f"`{file}`: asks {', '.join(asked_by)}."


def _references(folder: Path, files: Iterable[str]) -> Mapping[str, Any]:
    """Files as the code of an asset; Dagster itself adds the defs.yaml."""
    references = [dg.LocalFileCodeReference(file_path=str(folder / file), label=file) for file in files]
    return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[*references])}


def code_references(assessment: Assessment, folder: Path) -> Mapping[str, Any]:
    """The template and lookup files as the code of the assets that are made by them."""
    return _references(folder, places(assessment.spec))


def source_asset(
    assessment: Assessment, project_root: Path, partitions: dg.PartitionsDefinition | None
) -> list[dg.SourceAsset | dg.AssetSpec]:
    """The file that the rows are read from, with a version per partition, if it is no upstream asset."""
    source, name = assessment.spec.source, assessment.spec.name
    if source.inbox is not None:
        return [_inbox(assessment, source.inbox, partitions)]
    if source.path is None:
        return []
    path, values_of = source.path, assessment.spec.partitions.values_of if assessment.spec.partitions else None

    def observe(context: dg.OpExecutionContext) -> dg.DataVersion | dg.DataVersionsByPartition:
        if partitions is None:
            return dg.DataVersion(hash_of(path, project_root, None))
        keys = partitions.get_partition_keys(dynamic_partitions_store=context.instance)
        return dg.DataVersionsByPartition(dict(_hashes(path, project_root, keys, values_of)))

    columns = [dg.TableColumn(column, SOURCE_KINDS[kind]) for column, kind in source.columns.items()]
    observed = dg.observable_source_asset(
        key=[name, SOURCE],
        description=f"`{path}`: a record per row. Observing reads each file; a partition without one has no version.",
        group_name=name,
        partitions_def=partitions,
        tags={f"dagster/kind/{source.effective_format}": ""},
        metadata={"dagster/column_schema": dg.TableSchema(columns), "path": path},
    )
    return [observed(observe)]


def _inbox(assessment: Assessment, inbox: str, partitions: dg.PartitionsDefinition | None) -> dg.AssetSpec:
    """The files of an inbox: each run tells which version it read, nothing else looks."""
    source, name = assessment.spec.source, assessment.spec.name
    columns = [dg.TableColumn(column, SOURCE_KINDS[kind]) for column, kind in source.columns.items()]
    return dg.AssetSpec(
        [name, SOURCE],
        description=f"`{inbox}`: the files that the sensor {name}_inbox took into each partition.",
        group_name=name,
        partitions_def=partitions,
        kinds={source.effective_format or "files"},
        metadata={"dagster/column_schema": dg.TableSchema(columns), "inbox": inbox},
    )


ValuesOf = Callable[[str], Mapping[str, str]]


def _hashes(path: str, root: Path, keys: Sequence[str], values_of: ValuesOf | None) -> Iterator[tuple[str, str]]:
    for key in keys:
        try:
            yield key, hash_of(path, root, key, values_of(key) if values_of else {})
        except SourceError:  # there is none yet
            continue


def edits_sensor(assessment: str, reread: Reread) -> dg.SensorDefinition:
    """The sensor that tells Dagster of edited templates, lookups and criteria."""

    def tell_of_edits(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        read = reread()
        if isinstance(read, str):
            return dg.SkipReason(read)
        found = news(context.instance, ingredient_versions(read))
        if not found:
            return dg.SkipReason("Nothing has been edited.")
        for observation in found:
            context.log.info(f"{observation.asset_key.to_user_string()} has changed.")
        return dg.SensorResult(asset_events=found)

    return dg.SensorDefinition(
        name=f"{assessment}_edits",
        evaluation_fn=tell_of_edits,
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Looks whether a template, the lookup or the criteria of {assessment} have been edited, so that "
        "Dagster marks what was made by them as stale. Starts no run.",
    )
