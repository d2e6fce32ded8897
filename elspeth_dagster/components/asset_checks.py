"""The checks of an assessment's results as Dagster's asset checks: one op takes them all, and any of them alone.

They look at the record and at the table that was written, for the partition they are run for, and load no other.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg

from elspeth_dagster.auditing import Audit, Finding
from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.errors import ElspethError, NotOnRecordError
from elspeth_dagster.core.spec import CheckSpec, DriftSpec, FailureRateSpec
from elspeth_dagster.landscape import artifacts
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.previewing import table

Declared = CheckSpec | FailureRateSpec | DriftSpec
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
    def check_results(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        try:
            audit = _audit(context, assessment, partitions)
            for check in sorted(context.selected_asset_check_keys, key=lambda one: one.name):
                finding = _taken(audit, check.name, declared[check.name])
                yield _result(check, finding, SEVERITIES[declared[check.name].severity])
        except ElspethError as error:
            raise dg.Failure(str(error), allow_retries=False) from error

    return check_results


def _declared(assessment: Assessment) -> dict[str, Declared]:
    checks = assessment.spec.checks
    named = {name: getattr(checks, name) for name in type(checks).model_fields}
    return {name: check for name, check in named.items() if check is not None}


def _taken(audit: Audit, name: str, declared: Declared) -> Finding:
    match declared:
        case FailureRateSpec():
            return audit.failure_rate(declared)
        case DriftSpec():
            return audit.drift(declared)
        case CheckSpec():
            plain: Callable[[], Finding] = getattr(audit, name)
            return plain()


def _audit(
    context: dg.AssetCheckExecutionContext, assessment: Assessment, partitions: dg.PartitionsDefinition | None
) -> Audit:
    """Of this run's results; where it made none, of the last that were made of its partition, or of any."""
    landscape: Landscape = context.resources.landscape
    key, partition = f"{assessment.spec.name}/results", context.partition_key if context.has_partition_key else None
    with landscape.read() as connection:
        own = artifacts.of_run(connection, context.run.run_id, key)
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


def _result(check: dg.AssetCheckKey, finding: Finding, severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=finding.passed,
        asset_key=check.asset_key,
        check_name=check.name,
        severity=severity,
        description=finding.told,
        metadata=_metadata(finding.facts),
    )


def _metadata(facts: Mapping[str, Any]) -> dict[str, Any]:
    told = dict(facts)
    if compared := told.pop("compared", None):
        lines = ([one.column, *(round(number, 4) for number in one[1:])] for one in compared)
        told["compared"] = dg.MetadataValue.md(table(compared[0]._fields, lines))
    return told
