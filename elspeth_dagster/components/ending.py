"""A run that Dagster has ended is ended on record too, and sealed, by a sensor that holds the two beside each other.

It listens to no event, so none can be missed: each tick asks Dagster about every run on record that has no end. A run
that Dagster still calls started is left alone, also when its worker is gone: that is not to be known from here.
"""

from collections.abc import Iterator, Mapping

import dagster as dg

from elspeth_dagster.components.opening import opened_landscape
from elspeth_dagster.core.errors import ElspethError
from elspeth_dagster.identity import VERIFICATION
from elspeth_dagster.landscape import runs, sealing
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Run
from elspeth_dagster.landscape.words import RunStatus

EVERY_SECONDS = 30
NAMED = 5
ENDS = {
    dg.DagsterRunStatus.FAILURE: (RunStatus.FAILED, "Dagster says it failed"),
    dg.DagsterRunStatus.CANCELED: (RunStatus.INTERRUPTED, "it was terminated in Dagster"),
    dg.DagsterRunStatus.SUCCESS: (RunStatus.INTERRUPTED, "Dagster says it succeeded, without collecting all results"),
}


def run_ends_sensor(assessment: str) -> dg.SensorDefinition:
    """The sensor that ends an assessment's failed and terminated runs on record, those that verify it too."""

    def end_what_dagster_has_ended(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        try:
            with opened_landscape(context) as landscape:
                told = " ".join(_reconciled(context, landscape, assessment))
                _seal(context, landscape)
        except ElspethError as error:
            return dg.SkipReason(f"The record can't be looked at: {error}")
        return dg.SkipReason(told or "Every run on record has its end, or goes on.")

    return dg.SensorDefinition(
        name=f"{assessment}_run_ends",
        evaluation_fn=end_what_dagster_has_ended,
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Puts the end of {assessment}'s failed and terminated runs on record, so that nothing of them "
        "stays open, and seals what ended. Starts no run.",
    )


def _reconciled(context: dg.SensorEvaluationContext, landscape: Landscape, assessment: str) -> Iterator[str]:
    with landscape.read() as connection:
        open_runs = runs.not_ended(connection, assessment, f"{assessment}{VERIFICATION}")
    known = _as_dagster_knows(context.instance, open_runs)
    for run in known.values():
        if run.status in ENDS and (ended := _end(context.instance, landscape, run)):
            context.log.info(ended)
            yield ended
    if strangers := [run.run_id for run in open_runs if run.run_id not in known]:
        yield _unknown(strangers)


def _seal(context: dg.SensorEvaluationContext, landscape: Landscape) -> None:
    """Seal what ended; mostly there is nothing to do."""
    sealed = sealing.seal_ended(landscape)
    for warning in sealed.warnings:
        context.log.warning(warning)
    if sealed.run_ids:
        context.log.info(f"Sealed {_some(sealed.run_ids)}.")


def _as_dagster_knows(instance: dg.DagsterInstance, open_runs: list[Run]) -> Mapping[str, dg.DagsterRun]:
    if not open_runs:
        return {}
    found = instance.get_runs(dg.RunsFilter(run_ids=[run.run_id for run in open_runs]))
    return {run.run_id: run for run in found}


def _end(instance: dg.DagsterInstance, landscape: Landscape, run: dg.DagsterRun) -> str | None:
    """What was put on record of a run that is over in Dagster; None when its end was there already."""
    runs.end_if_all_collected(landscape, run.run_id)
    status, why = ENDS[run.status]
    if run.status is dg.DagsterRunStatus.FAILURE:
        why += _where_it_failed(instance, run.run_id)
    if not runs.end(landscape, run.run_id, status, why):
        return None
    return f"Run {run.run_id} ended as {status.value}: {why}."


def _where_it_failed(instance: dg.DagsterInstance, run_id: str) -> str:
    failures = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE, limit=NAMED + 1)
    steps = [record.event_log_entry.step_key or "" for record in failures.records]
    return f" in {_some(steps)}" if steps else ""


def _unknown(run_ids: list[str]) -> str:
    return (
        f"Dagster does not know {_some(run_ids)}. A run that was deleted there is ended by `elspeth-dagster reclaim`; "
        "one of another deployment is not for this one to end."
    )


def _some(names: list[str]) -> str:
    return ", ".join([*names[:NAMED], *(["…"] if len(names) > NAMED else [])])
