"""An estimate whole: how runs are cut, the load of their rows, what earlier replies teach, prices and limits.

The rules are `stages.planning` and `stages.estimating`. A source is read once, record by record, and none is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.errors import SourceError, SourceMissingError
from elspeth_dagster.core.pooling import prices
from elspeth_dagster.core.spec import EndpointSpec
from elspeth_dagster.landscape import rows
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.llm.prices import NANO, bound_nanousd, cost_nanousd, listing_of
from elspeth_dagster.resources.source import open_source
from elspeth_dagster.stages.calling import Usage
from elspeth_dagster.stages.estimating import (
    Experience,
    Load,
    Tokens,
    load_of,
    scaled,
    seconds_at_limits,
    seconds_of,
    tokens_of,
)
from elspeth_dagster.stages.planning import Rejected, RunPlan, Slice, run_plan, slice_of
from elspeth_dagster.stages.querying import most_tokens, questions
from elspeth_dagster.stages.reading import Record, read_records

SAMPLED_ROWS = 200


@dataclass(frozen=True)
class Deployment:
    """Who is asked, how many requests are in flight at once, and what may be sent in a minute; None: no limit.

    Of several `endpoints` the numbers are those of all together.
    """

    provider: str
    max_concurrency: int
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    endpoints: Sequence[EndpointSpec] = ()


@dataclass(frozen=True)
class Estimate:
    """What asking will take; None is what nobody can know yet. `bound_nanousd`: the most that the first calls can cost.

    The words behind `prompt_tokens_are` and `completion_tokens_are`: learnt, or assumed. `seconds_at_limits`: the least
    that the limits per minute allow, None without one. `steps` are those that ask: the shards, of all runs together.
    """

    assessment: str
    model: str
    runs: int
    rows: int
    rejections: int
    questions: int
    steps: int
    batches: int
    calls: int
    prompt_tokens: int
    prompt_tokens_are: str
    completion_tokens: int | None
    completion_tokens_are: str
    cost_nanousd: int | None
    bound_nanousd: int | None
    seconds: float | None
    seconds_at_limits: float | None
    in_flight: int
    plan: tuple[RunPlan, ...]

    @property
    def duration(self) -> str:
        """The time in words."""
        if self.seconds is not None:
            return _in_words(self.seconds)
        if self.seconds_at_limits is not None:
            return f"time unknown, at least {_in_words(self.seconds_at_limits)} at the limits per minute"
        return "time unknown"

    def line(self) -> str:
        """One line for a log."""
        completion = "an unknown number of" if self.completion_tokens is None else f"{self.completion_tokens:,}"
        cost = "cost unknown" if self.cost_nanousd is None else f"${self.cost_nanousd / NANO:.4f}"
        return (
            f"about {self.calls:,} calls, {self.prompt_tokens:,} ({self.prompt_tokens_are}) + {completion} "
            f"({self.completion_tokens_are}) tokens, {cost}, {self.duration} with {self.in_flight} in flight"
        )


def _in_words(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"


def estimate(
    assessment: Assessment, plan: Sequence[RunPlan], load: Load, experience: Experience, deployment: Deployment
) -> Estimate:
    """What runs that are planned so, with this load together, will take."""
    tokens = tokens_of(load, most_tokens(assessment.spec), experience)
    in_flight = max(1, min(deployment.max_concurrency, load.calls))
    limits = (deployment.requests_per_minute, deployment.tokens_per_minute)
    return Estimate(
        assessment=assessment.spec.name,
        model=assessment.spec.llm.model_name,
        runs=len(plan),
        rows=load.rows,
        rejections=sum(run.rejections for run in plan),
        questions=len(questions(assessment)),
        steps=sum(run.steps for run in plan),
        batches=sum(run.batches for run in plan),
        calls=load.calls,
        prompt_tokens=tokens.prompt,
        prompt_tokens_are="learnt" if tokens.is_prompt_learnt else "assumed",
        completion_tokens=tokens.completion,
        completion_tokens_are=_source_of_completion(tokens),
        cost_nanousd=_cost(assessment, load, tokens, deployment),
        bound_nanousd=_bound(assessment, load, deployment),
        seconds=seconds_of(load, tokens, in_flight, experience, *limits),
        seconds_at_limits=seconds_at_limits(load, tokens, *limits),
        in_flight=in_flight,
        plan=tuple(plan),
    )


def _source_of_completion(tokens: Tokens) -> str:
    if tokens.is_completion_learnt:
        return "learnt"
    return "unknown" if tokens.completion is None else "assumed: half of max_tokens"


def _cost(assessment: Assessment, load: Load, tokens: Tokens, deployment: Deployment) -> int | None:
    """By the mean call: prices may have tiers, and endpoints prices of their own."""
    llm, calls = assessment.spec.llm, max(load.calls, 1)
    completion = None if tokens.completion is None else round(tokens.completion / calls)
    usage = Usage(round(tokens.prompt / calls), completion)
    parts = [
        (cost_nanousd(deployment.provider, llm.model_name, usage, listing_of(price)), part)
        for price, part in prices(deployment.endpoints, llm.price)
    ]
    known = [each * part for each, part in parts if each is not None]
    return None if len(known) < len(parts) else round(sum(known) * load.calls)


def _bound(assessment: Assessment, load: Load, deployment: Deployment) -> int | None:
    llm, size = assessment.spec.llm, -(-load.request_bytes // max(load.calls, 1))
    longest = most_tokens(assessment.spec)
    bounds = [
        bound_nanousd(deployment.provider, llm.model_name, size, longest, listing_of(price))
        for price, _ in prices(deployment.endpoints, llm.price)
    ]
    known = [each for each in bounds if each is not None]
    return None if len(known) < len(bounds) else max(known) * load.calls


def plan_of_source(
    assessment: Assessment, root: Path, partitions: Sequence[str | None], deployment: Deployment
) -> tuple[list[RunPlan], Load]:
    """The runs that take these partitions, and the load of all; of a partition whose file is not there, nothing.

    Raises SourceError when the only one can't be read, or one that is there can't be.
    """
    slices = [_slice(assessment, root, one, deployment, may_miss=len(partitions) > 1) for one in partitions]
    runs = [slices] if assessment.spec.backfill == "single_run" else [[one] for one in slices]
    loads = [one.load for one in slices]
    whole = Load(*(sum(numbers) for numbers in zip(*((x.rows, x.calls, x.request_bytes) for x in loads), strict=True)))
    return [run_plan(assessment.spec, run) for run in runs], whole


def _slice(
    assessment: Assessment, root: Path, partition: str | None, deployment: Deployment, *, may_miss: bool
) -> Slice:
    is_local = deployment.provider == "local"
    try:
        return slice_of(assessment, partition, _records(assessment, root, partition), bounded_schema=is_local)
    except SourceMissingError:
        if may_miss:
            return replace(slice_of(assessment, partition, [], bounded_schema=is_local), is_there=False)
        raise


def _records(assessment: Assessment, root: Path, partition: str | None) -> Iterator[Mapping[str, Json] | Rejected]:
    source = assessment.spec.source
    if source.path is None:
        of_what = f"asset {source.asset}" if source.asset else f"inbox {source.inbox}"
        raise SourceError(f"the rows of {of_what} are not in one file: name one that has such rows (--source).")
    partitions = assessment.spec.partitions
    values = partitions.values_of(partition) if partitions and partition else {}
    with open_source(source.path, root, partition, values) as (stream, name):
        for record in read_records(stream, name, source):
            yield record.values if isinstance(record, Record) else Rejected()


def load_of_slice(
    landscape: Landscape, assessment: Assessment, run_id: str, row_count: int, deployment: Deployment
) -> Load:
    """The load of a slice on record, by some rows from all over it."""
    every = max(1, row_count // SAMPLED_ROWS)
    sample = [row.values for row in islice(_rows(landscape, assessment, run_id), 0, None, every)]
    return scaled(load_of(assessment, sample, bounded_schema=deployment.provider == "local"), row_count)


def _rows(landscape: Landscape, assessment: Assessment, run_id: str) -> Iterator[rows.AdmittedRow]:
    for page in rows.in_source_order(landscape, run_id, f"{assessment.spec.name}.admit_rows"):
        yield from page
