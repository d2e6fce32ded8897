"""What a person in the UI is told of a step and of the four assets: numbers that plot, and short tables."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.counting import Counts
from elspeth_dagster.describing import table_metadata
from elspeth_dagster.landscape import flushed, installation_log
from elspeth_dagster.landscape.costs import CostLine, costs, total
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.rows import Part
from elspeth_dagster.landscape.states import Execution
from elspeth_dagster.pacing import Paced
from elspeth_dagster.recounting import asked_metadata, failures_metadata
from elspeth_dagster.stages.agreeing import Agreement, agreements
from elspeth_dagster.stages.querying import Question
from elspeth_dagster.stages.reviewing import Judgement, latest_by_question

if TYPE_CHECKING:
    from elspeth_dagster.comparing import Comparison

SPENT = ("reused", "calls", "retries", "repairs", "prompt_tokens", "completion_tokens")
SUMMED = (*SPENT, "cost_nanousd", "unpriced_calls")
HELD_BACK = ("throttled", "waited_seconds")
NANO = 1e9
CHECKPOINT = "checkpoint"


def asking_metadata(counts: Counts, landscape: Landscape, here: Execution, pace: Paced | None = None) -> dict[str, Any]:
    """A step's numbers, and how many requests were in flight."""
    with landscape.read() as connection:
        lines = costs(connection, here.run_id, node_id=here.node_id, step_key=here.step_key)
    return {
        **_spent(counts.__dict__),
        **_money(lines),
        "questions": counts.questions,
        "refused": counts.refused,
        **(_paced(pace) if pace else {}),
    }


def held_back(pace: Paced | None) -> dict[str, Any]:
    """How often the provider refused, and for how long limits or the provider held the step back."""
    if pace is None:
        return dict.fromkeys(HELD_BACK, 0)
    return {"throttled": pace.level.cuts, "waited_seconds": round(pace.waited_seconds, 3)}


def _paced(pace: Paced) -> dict[str, Any]:
    return {
        **held_back(pace),
        "concurrency_max": pace.level.highest,
        "concurrency_final": pace.level.current,
        "concurrency_history": dg.MetadataValue.json(pace.history()),
    }


def _spent(total: Mapping[str, int]) -> dict[str, Any]:
    plain = {name: total[name] for name in SPENT}
    known = total["unpriced_calls"] == 0
    return {**plain, "cost_usd": total["cost_nanousd"] / NANO} if known else plain


def _money(lines: Sequence[CostLine]) -> dict[str, Any]:
    """What reuse saved, and what was spent by question and model."""
    saved = total(lines)["saved_nanousd"] or 0
    return {"saved_usd": saved / NANO, "costs": dg.MetadataValue.md(_cost_table(lines))}


def _cost_table(lines: Sequence[CostLine]) -> str:
    head = "| question | model | calls | cost USD | reused | saved USD |\n|---|---|--:|--:|--:|--:|"
    shown = (
        f"| {_in_a_cell(line.question)} | {_in_a_cell(line.model)} | {line.calls} | {_cost_in_words(line)} "
        f"| {line.reused} | {(line.saved_nanousd or 0) / NANO:.6f} |"
        for line in lines
    )
    return "\n".join([head, *shown])


def _cost_in_words(line: CostLine) -> str:
    known = f"{(line.cost_nanousd or 0) / NANO:.6f}"
    lacking = line.unpriced_calls + line.unknown
    return f"{known} + {lacking} not known" if lacking else known


def _in_a_cell(text: str | None) -> str:
    """A name, which a provider may have made up, as a cell of a table can hold it."""
    return "".join(char if char.isalnum() or char in " -_.:/@" else "?" for char in text or "")


def agreement_check(assessment: str, comparison: "Comparison", least: float) -> dg.AssetCheckResult:
    """Whether enough of a verification's cells came back the same. Fails where none could be compared."""
    rate = comparison.agreement
    return dg.AssetCheckResult(
        passed=rate is not None and rate >= least,
        asset_key=[assessment, "verification"],
        check_name="agreement",
        description=f"At least {least:.0%} of the cells that were asked again must come back the same.",
        metadata=comparison.facts(),
    )


def review_metadata(judgements: Sequence[Judgement], asked: Sequence[Question]) -> dict[str, Any]:
    """How many answers were reviewed, and how far reviewers and the model agree, where that can be told."""
    found = agreements(judgements, asked)
    alphas = {
        f"review_alpha_{line.field}": line.alpha for line in found if line.question is None and line.alpha is not None
    }
    return {"reviewed": len(latest_by_question(judgements)), **alphas, "review_agreement": _agreement_table(found)}


def _agreement_table(found: Sequence[Agreement]) -> dg.MarkdownMetadataValue:
    head = "| field | question | answers | reviewers | alpha |\n|---|---|--:|--:|---|"
    lines = (
        f"| {line.field} | {line.question or 'all'} | {line.answers} | {line.reviewers} "
        f"| {line.why if line.alpha is None else f'{line.alpha:.3f}'} |"
        for line in found
    )
    return dg.MetadataValue.md("\n".join([head, *lines]))


def explorer_link(landscape: Landscape, run_id: str) -> dict[str, Any]:
    """A link to the run's page, where it is known at which address the explorer is reached."""
    if landscape.explorer_url is None:
        return {}
    return {"explorer": dg.MetadataValue.url(f"{landscape.explorer_url}/runs/{run_id}")}


def newest_checkpoint(landscape: Landscape) -> dict[str, Any]:
    """The newest checkpoint of the installation's log, so that Dagster's event log holds it too."""
    with landscape.read() as connection:
        note = installation_log.newest_note(connection)
    return {} if note is None else {CHECKPOINT: dg.MetadataValue.text(note)}


def output_metadata(
    landscape: Landscape,
    run_id: str,
    assessment: Assessment,
    part: Part,
    asked: Sequence[Mapping[str, Any]],
    fates: Mapping[str, object],
) -> dict[str, dict[str, Any]]:
    """The metadata of each of the four outputs, for the only part of a slice or for that of one partition.

    How often a step was held back is no partition's own: of several it is told with the steps alone.
    """
    name = assessment.spec.name
    partition = None if part.span is None else part.partition
    about = flushed.about(run_id, f"{name}.aggregate_rows", partition)
    with landscape.read() as connection:
        lines = costs(connection, run_id, about=about, node_id=f"{name}.ask_batches")
        counted = flushed.counted(connection, run_id, f"{name}.ask_batches", about) if partition else None
    took = {each: sum(shard[each] for shard in asked) for each in SUMMED} if counted is None else counted
    spent = {**_spent(took), **_money(lines)}
    held = {} if partition else {each: sum(shard[each] for shard in asked) for each in HELD_BACK}
    explain = dg.MetadataValue.md(f"`elspeth-dagster explain {run_id} --row KEY`")
    rows = {
        "rows": part.rows,
        "rejected": part.rejected,
        "assessed": fates.get("assessed", 0),
        "partial": fates.get("partial", 0),
        "failed": fates.get("failed", 0),
    }
    of_output = {
        "results": {**rows, **spent, **held, **asked_metadata(landscape, run_id, name, partition), "explain": explain},
        "answers": spent,
        "failures": {"failed": rows["failed"], **failures_metadata(landscape, run_id, name, partition)},
        "rejections": {"rejected": rows["rejected"]},
    }
    tables = table_metadata(assessment)
    return {output: {**facts, **tables[output]} for output, facts in of_output.items()}
