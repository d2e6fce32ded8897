"""The check `verified`: whether what a run left on record is whole, unchanged and sealed.

It runs after the results were written, when the run is sealed. Run by itself later, it looks at the assessment's last
run once more.
"""

from typing import Any

import dagster as dg
import sqlalchemy as sa

from elspeth_dagster.landscape import auditing
from elspeth_dagster.landscape.findings import Report
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.schema import checkpoints, nodes, runs

SHOWN = 20


def verified_check(assessment: str) -> dg.AssetChecksDefinition:
    """The check of an assessment's results."""

    @dg.asset_check(
        asset=dg.AssetKey([assessment, "results"]),
        name="verified",
        description="Whether the record of the run is whole and as it was sealed: every hash, reference and signature, "
        "and the installation's log against its checkpoints. Warns when none of these reached an anchor for a day.",
    )
    def verified(context: dg.AssetCheckExecutionContext, landscape: dg.ResourceParam[Landscape]) -> dg.AssetCheckResult:
        with landscape.read() as connection:
            run_id = _run_to_verify(connection, assessment, context.run.run_id)
            last = connection.scalar(sa.select(checkpoints.c.note).order_by(checkpoints.c.log_size.desc()).limit(1))
            late = auditing.overdue(connection) if landscape.anchors else []
        if run_id is None:
            return dg.AssetCheckResult(passed=False, description="No run of this assessment is on record.")
        return _result(auditing.verify(landscape, [run_id]), late, run_id, last)

    return verified


def _run_to_verify(connection: sa.Connection, assessment: str, run_id: str) -> str | None:
    """This run, if it is on record; else the last one of the assessment."""
    of_it = sa.select(runs.c.run_id).where(
        sa.exists().where(nodes.c.run_id == runs.c.run_id, nodes.c.assessment == assessment)
    )
    this_first = of_it.order_by((runs.c.run_id == run_id).desc(), runs.c.started_at.desc())
    found: str | None = connection.scalar(this_first.limit(1))
    return found


def _result(report: Report, late: list[str], run_id: str, checkpoint: str | None) -> dg.AssetCheckResult:
    told: dict[str, Any] = {
        "run": run_id,
        "records": report.records,
        "payloads": report.payloads,
        "erased": report.erased,
        "findings": report.found,
        "found": dg.MetadataValue.json([str(finding) for finding in report.findings[:SHOWN]]),
        "remarks": dg.MetadataValue.json(report.remarks),
    }
    if checkpoint is not None:
        told["checkpoint"] = dg.MetadataValue.text(checkpoint)
    return dg.AssetCheckResult(
        passed=report.is_sound and not late,
        severity=dg.AssetCheckSeverity.WARN if report.is_sound else dg.AssetCheckSeverity.ERROR,
        description=f"`elspeth-dagster verify {run_id}` tells more." if not report.is_sound else " ".join(late) or None,
        metadata=told,
    )
