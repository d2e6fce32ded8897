"""The check `verified`: whether what a run left on record is whole, unchanged and sealed.

It runs after the results were written, when the run is sealed. Run by itself later, it looks at the assessment's last
run once more. The log is held to the checkpoints in Dagster's own event log as well: weak evidence, since others can
delete from it, but it is there without any setting, and notices a database that was put back by accident. How grave a
finding is, and whether it blocks, is declared; that no anchor was reached only ever warns.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import sqlalchemy as sa

from elspeth_dagster.components.asset_checks import SEVERITIES
from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.landscape import auditing, installation_log
from elspeth_dagster.landscape.anchoring import notes_in
from elspeth_dagster.landscape.checking_log import Outside
from elspeth_dagster.landscape.findings import Report
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.schema import nodes, runs
from elspeth_dagster.reporting import CHECKPOINT, newest_checkpoint

SHOWN = 20
LOOKED_AT = 100  # materializations: each checkpoint covers those before it


def verified_check(assessment: Assessment) -> dg.AssetChecksDefinition:
    """The check of an assessment's results."""
    name, declared = assessment.spec.name, assessment.spec.checks.verified

    @dg.asset_check(
        asset=dg.AssetKey([name, "results"]),
        name="verified",
        blocking=declared.blocking,
        description="Whether the record of the run is whole and as it was sealed: every hash, reference and signature, "
        "and the installation's log against its checkpoints. Warns when none of these reached an anchor for a day.",
    )
    def verified(context: dg.AssetCheckExecutionContext, landscape: dg.ResourceParam[Landscape]) -> dg.AssetCheckResult:
        with landscape.read() as connection:
            run_id = _run_to_verify(connection, name, context.run.run_id)
            late = auditing.overdue(connection) if landscape.anchors else []
        if run_id is None:
            return dg.AssetCheckResult(passed=False, description="No run of this assessment is on record.")
        report = auditing.verify(landscape, [run_id], beside=_in_the_event_log(context, name, landscape))
        severity = SEVERITIES["warn" if report.is_sound and late else declared.severity]
        return _result(report, severity, late, {"run": run_id, **newest_checkpoint(landscape)})

    return verified


def _in_the_event_log(context: dg.AssetCheckExecutionContext, name: str, landscape: Landscape) -> list[Outside]:
    """The checkpoints of this installation that the last materializations of the results have."""
    with landscape.read() as connection:
        whose = installation_log.origin(connection)
    made = context.instance.fetch_materializations(dg.AssetKey([name, "results"]), limit=LOOKED_AT).records
    metadata = (record.asset_materialization.metadata for record in made if record.asset_materialization)
    texts = {str(told[CHECKPOINT].value) for told in metadata if CHECKPOINT in told}
    notes = (note for text in texts for note in notes_in(text))
    return [Outside("Dagster's event log", note) for note in notes if note.startswith(f"{whose}/log\n")]


def _run_to_verify(connection: sa.Connection, assessment: str, run_id: str) -> str | None:
    """This run, if it is on record; else the last one of the assessment."""
    of_it = sa.select(runs.c.run_id).where(
        sa.exists().where(nodes.c.run_id == runs.c.run_id, nodes.c.assessment == assessment)
    )
    this_first = of_it.order_by((runs.c.run_id == run_id).desc(), runs.c.started_at.desc())
    found: str | None = connection.scalar(this_first.limit(1))
    return found


def _result(
    report: Report, severity: dg.AssetCheckSeverity, late: list[str], about: Mapping[str, Any]
) -> dg.AssetCheckResult:
    told: dict[str, Any] = {
        **about,
        "records": report.records,
        "payloads": report.payloads,
        "erased": report.erased,
        "findings": report.found,
        "found": dg.MetadataValue.json([str(finding) for finding in report.findings[:SHOWN]]),
        "remarks": dg.MetadataValue.json(report.remarks),
    }
    return dg.AssetCheckResult(
        passed=report.is_sound and not late,
        severity=severity,
        description=f"`elspeth-dagster verify {about['run']}` tells more."
        if not report.is_sound
        else " ".join(late) or None,
        metadata=told,
    )
