"""The checks of an assessment's results as Dagster's asset checks: one op takes them all, and any of them alone.

They look at the record and at the table that was written, for the partitions they are run for, and load no other. Of
a run with several partitions each has its own finding.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluation,
    AssetCheckEvaluationTargetMaterializationData,
)

from elspeth_dagster.auditing import Audit, Finding
from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.checks_spec import CheckSpec, DriftSpec, FailureRateSpec
from elspeth_dagster.core.errors import ElspethError, NotOnRecordError
from elspeth_dagster.identity import partitions as partitions_of
from elspeth_dagster.landscape import artifacts
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.previewing import table

Declared = CheckSpec | FailureRateSpec | DriftSpec
Evaluated = dg.AssetCheckResult | AssetCheckEvaluation | dg.Output[None]
OF_THE_RECORD = ("accounted", "linked")
OF_ALL_THAT_IS_SEALED = "verified"  # made in `certifying`
SEVERITIES = {"warn": dg.AssetCheckSeverity.WARN, "error": dg.AssetCheckSeverity.ERROR}
DESCRIPTIONS = {
    "accounted": "Nothing has disappeared: every record is a row or a rejection, every row has one outcome and is in a "
    "table, every call has its reply.",
    "linked": "Every call and answer belongs to its state, its row and its question.",
    "within_bounds": "Every answer in the table is of its declared type and within its bounds.",
    "failure_rate": "At most {max:.1%} of the rows are without all their answers.",
    "drift": "Each numeric answer is distributed as in the {window} partitions before (Kolmogorov-Smirnov test).",
}


def results_checks(assessment: Assessment, partitions: dg.PartitionsDefinition | None) -> dg.AssetChecksDefinition:
    """The checks that an assessment declares about its results."""
    declared, key = _declared(assessment), dg.AssetKey([assessment.spec.name, "results"])
    specs = [
        dg.AssetCheckSpec(
            name,
            asset=key,
            description=DESCRIPTIONS[name].format(**check.model_dump()),
            blocking=check.blocking,
            partitions_def=partitions,
        )
        for name, check in declared.items()
    ]

    @dg.multi_asset_check(
        name=f"{assessment.spec.name}_checks",
        specs=specs,
        can_subset=True,
        required_resource_keys={"landscape"},
        description="Holds the record and the table of results to what they promise. Asks nobody anything.",
    )
    def check_results(context: dg.AssetCheckExecutionContext) -> Iterator[Evaluated]:
        try:
            keys: Sequence[str | None] = partitions_of(context) or [None]
            audits = {key: _audit(context, assessment, partitions, key) for key in keys}
            of_run: dict[tuple[str, str], Finding] = {}
            for check in sorted(context.selected_asset_check_keys, key=lambda one: one.name):
                taken = {key: _taken(audit, check.name, declared[check.name], of_run) for key, audit in audits.items()}
                yield from _evaluated(context, check, taken, declared[check.name])
        except ElspethError as error:
            raise dg.Failure(str(error), allow_retries=False) from error

    return check_results


def _declared(assessment: Assessment) -> dict[str, Declared]:
    checks = assessment.spec.checks
    named = {name: getattr(checks, name) for name in type(checks).model_fields if name != OF_ALL_THAT_IS_SEALED}
    return {name: check for name, check in named.items() if check is not None}


def _taken(audit: Audit, name: str, declared: Declared, of_run: dict[tuple[str, str], Finding]) -> Finding:
    """A finding; that of a check of the record is the same for all partitions of a run, and kept in `of_run`."""
    match declared:
        case FailureRateSpec():
            return audit.failure_rate(declared)
        case DriftSpec():
            return audit.drift(declared)
        case CheckSpec():
            plain: Callable[[], Finding] = getattr(audit, name)
            if name not in OF_THE_RECORD:
                return plain()
            if (name, audit.run_id) not in of_run:
                of_run[name, audit.run_id] = plain()
            return of_run[name, audit.run_id]


def _audit(
    context: dg.AssetCheckExecutionContext,
    assessment: Assessment,
    partitions: dg.PartitionsDefinition | None,
    partition: str | None,
) -> Audit:
    """Of this run's results of a partition; where it made none, of the last that were made of it, or of any."""
    landscape: Landscape = context.resources.landscape
    key = f"{assessment.spec.name}/results"
    with landscape.read() as connection:
        own = artifacts.of_run(connection, context.run.run_id, key, partition)
        written = own or artifacts.latest(connection, key, partition)
    if written is None:
        raise NotOnRecordError("There are no results to check yet. Materialize the assets of this partition first.")
    here = written.partition_key
    return Audit(landscape, assessment, written.run_id, here, lambda known: earlier(known, here, partitions))


def earlier(known: Sequence[str], here: str | None, partitions: dg.PartitionsDefinition | None) -> Sequence[str]:
    """Of the known partitions, in the order of writing, those before this one.

    By time where partitions are times, or have a time beside other dimensions that must agree; else by writing.
    """
    if here is None or not _has_time(partitions):
        return list(known[: known.index(here)]) if here in known else list(known)
    others, began = _place(partitions, here)
    places = {key: _place(partitions, key) for key in known}
    before = [key for key, (of_key, start) in places.items() if of_key == others and start < began]
    return sorted(before, key=lambda key: places[key][1])


def _has_time(partitions: dg.PartitionsDefinition | None) -> bool:
    if isinstance(partitions, dg.MultiPartitionsDefinition):
        return partitions.has_time_window_dimension
    return isinstance(partitions, dg.TimeWindowPartitionsDefinition)


def _place(partitions: Any, key: str) -> tuple[Mapping[str, str], datetime]:
    """A partition's keys of other dimensions than time, and when its time begins."""
    if isinstance(partitions, dg.TimeWindowPartitionsDefinition):
        return {}, partitions.time_window_for_partition_key(key).start
    keys = dict(partitions.get_partition_key_from_str(key).keys_by_dimension)
    time = partitions.time_window_dimension
    return keys, time.partitions_def.time_window_for_partition_key(keys.pop(time.name)).start


def _evaluated(
    context: dg.AssetCheckExecutionContext,
    check: dg.AssetCheckKey,
    taken: Mapping[str | None, Finding],
    declared: Declared,
) -> Iterator[Evaluated]:
    """A check's findings as Dagster keeps them: one, or for a range one for each of its partitions."""
    if not context.has_partition_key and None not in taken:
        yield dg.Output(None, context.job_def.asset_layer.get_op_output_name(check))
        for partition, finding in taken.items():
            target = _checked(context, check.asset_key, str(partition))
            yield AssetCheckEvaluation(
                **_told(check, finding, declared),
                blocking=declared.blocking,
                target_materialization_data=target,
                partition=partition,
            )
        return
    for finding in taken.values():
        yield dg.AssetCheckResult(**_told(check, finding, declared))


def _told(check: dg.AssetCheckKey, finding: Finding, declared: Declared) -> dict[str, Any]:
    return {
        "passed": finding.passed,
        "asset_key": check.asset_key,
        "check_name": check.name,
        "severity": SEVERITIES[declared.severity],
        "description": finding.told,
        "metadata": _metadata(finding.facts),
    }


def _checked(
    context: dg.AssetCheckExecutionContext, asset_key: dg.AssetKey, partition: str
) -> AssetCheckEvaluationTargetMaterializationData | None:
    """The materialization that is checked; Dagster's own look-up knows none of a range."""
    of_partition = dg.AssetRecordsFilter(asset_key=asset_key, asset_partitions=[partition])
    for record in context.instance.fetch_materializations(of_partition, limit=1).records:
        return AssetCheckEvaluationTargetMaterializationData(
            run_id=record.run_id, storage_id=record.storage_id, timestamp=record.timestamp
        )
    return None


def _metadata(facts: Mapping[str, Any]) -> dict[str, Any]:
    told = dict(facts)
    if compared := told.pop("compared", None):
        lines = ([one.column, *(round(number, 4) for number in one[1:])] for one in compared)
        told["compared"] = dg.MetadataValue.md(table(compared[0]._fields, lines))
    return told
