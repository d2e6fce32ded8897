"""What `erase`, `hold` and `roles` print: what would go, what stays and why, and where else the same texts lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from elspeth_dagster.cli.printing import facts, to_the_second
from elspeth_dagster.landscape import holding
from elspeth_dagster.landscape.erasing import Erased, Plan
from elspeth_dagster.landscape.records import LegalHold, LegalHoldRelease

ELSEWHERE = (
    "Not reached by this: the source itself; files listed above; Dagster's own storage, whose event log shows previews "
    "of results (delete those runs there); backups, replicas and exports that were made before; the provider."
)


def plan_lines(plan: Plan) -> Iterator[str]:
    """A plan for a person."""
    told: dict[str, object] = {
        "payloads": f"{plan.payloads:,} with {plan.size:,} bytes, which take {plan.stored:,} in the database",
        "of": f"{plan.rows:,} rows and {plan.rejections:,} rejected records, in {plan.runs:,} runs",
        "kept, shared": f"{plan.shared:,}, since a record that stays refers to them" if plan.shared else None,
        "packed anew": f"{plan.leaning:,} that stay and lean on one that goes" if plan.leaning else None,
        "rejected records": f"{plan.mentioning:,} that hold the key stay" if plan.mentioning else None,
    }
    yield from facts(told)
    for run_id in plan.unfinished:
        yield f"not touched: run {run_id}, which has not ended"
    for held in plan.holds:
        since = f"held since {held.held_at:%Y-%m-%d} by {held.held_by}: {held.reason}"
        yield f"not touched: {holding.subject_of(held)}, {since}"
    for carrier in plan.carriers:
        yield (
            f"holds the same texts: {carrier.uri} ({carrier.asset_key}, {carrier.row_count} rows): "
            "delete it, or materialize it again from a source without them"
        )
    yield ELSEWHERE


def erased_document(erased: Erased) -> dict[str, Any]:
    """An erasure that was done, as JSON."""
    erasure = erased.erasure
    counts = {"payloads": erased.payloads, "scopes": erased.scopes, "repacked": erased.repacked}
    return {**erasure._asdict(), "at": erasure.at.isoformat(), **counts}


def hold_line(held: LegalHold, released: LegalHoldRelease | None) -> tuple[object, ...]:
    """A hold as a line of a table."""
    return (
        held.kind.value,
        held.subject,
        held.assessment,
        held.reason,
        held.held_by,
        to_the_second(held.held_at),
        released and to_the_second(released.released_at),
        released and f"{released.reason} ({released.released_by})",
    )
