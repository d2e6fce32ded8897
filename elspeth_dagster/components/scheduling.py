"""When an assessment runs by itself: a cron expression, and which partitions a tick stands for."""

from collections.abc import Iterator
from datetime import UTC, timedelta
from itertools import product

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._utils.schedules import is_valid_cron_schedule

from elspeth_dagster.core.spec import AssessmentSpec, Problem


def schedule_problems(spec: AssessmentSpec) -> list[Problem]:
    """What is wrong with the cron expression."""
    if spec.schedule is None or is_valid_cron_schedule(spec.schedule):
        return []
    example = 'Write minute, hour, day, month and weekday, such as "0 6 * * *" for six every morning'
    return [Problem(("schedule",), f"{spec.schedule!r} is not a cron expression. {example}.")]


def assessment_schedule(
    name: str, cron: str, job: UnresolvedAssetJobDefinition, partitions: dg.PartitionsDefinition | None
) -> dg.ScheduleDefinition:
    """The schedule of an assessment's job; switched off until somebody turns it on.

    A tick asks for the day before it, for each key of static or dynamic partitions (of two dimensions, for each pair
    of these), or for a plain run.
    """

    def runs_of_tick(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        if partitions is None:
            yield dg.RunRequest()
            return
        keys = _keys_of_tick(partitions, context)
        # Of a schedule, run keys count within a tick: one that is evaluated again after a crash starts no run twice.
        yield from (dg.RunRequest(run_key=key, partition_key=key) for key in keys)
        if not keys:
            yield dg.SkipReason("There is no partition to run.")

    return dg.ScheduleDefinition(
        name=f"{name}_schedule",
        job=job,
        cron_schedule=cron,
        execution_fn=runs_of_tick,
        execution_timezone="UTC",
        description=f"Assesses {name}: the last complete day, or every partition.",
    )


def _keys_of_tick(partitions: dg.PartitionsDefinition, context: dg.ScheduleEvaluationContext) -> list[str]:
    if isinstance(partitions, dg.MultiPartitionsDefinition):
        of_dimension = {one.name: _keys_of_tick(one.partitions_def, context) for one in partitions.partitions_defs}
        chosen = (dict(zip(of_dimension, keys, strict=True)) for keys in product(*of_dimension.values()))
        return [str(dg.MultiPartitionKey(keys)) for keys in chosen]
    if isinstance(partitions, dg.TimeWindowPartitionsDefinition):
        time = context.scheduled_execution_time
        yesterday = (time.astimezone(UTC) - timedelta(days=1)).date().isoformat()
        with dg.partition_loading_context(time):
            return [yesterday] if partitions.has_partition_key(yesterday) else []
    if isinstance(partitions, dg.DynamicPartitionsDefinition):
        return list(partitions.get_partition_keys(dynamic_partitions_store=context.instance))
    return list(partitions.get_partition_keys())
