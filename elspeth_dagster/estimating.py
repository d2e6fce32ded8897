"""An estimate whole: the load of some rows, what earlier replies teach, prices and limits, by `stages.estimating`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.errors import SourceError
from elspeth_dagster.core.pooling import prices
from elspeth_dagster.core.spec import EndpointSpec
from elspeth_dagster.landscape import rows
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.llm.prices import NANO, bound_nanousd, cost_nanousd, listing_of
from elspeth_dagster.resources.source import open_source
from elspeth_dagster.stages.batching import rows_per_step
from elspeth_dagster.stages.calling import Usage
from elspeth_dagster.stages.estimating import Experience, Load, Tokens, load_of, scaled, seconds_of, tokens_of
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

    The words behind `prompt_tokens_are` and `completion_tokens_are`: learnt, or assumed.
    """

    assessment: str
    model: str
    rows: int
    questions: int
    steps: int
    calls: int
    prompt_tokens: int
    prompt_tokens_are: str
    completion_tokens: int | None
    completion_tokens_are: str
    cost_nanousd: int | None
    bound_nanousd: int | None
    seconds: float | None
    in_flight: int

    @property
    def duration(self) -> str:
        """The time in words."""
        if self.seconds is None:
            return "time unknown"
        return f"{self.seconds:.0f} seconds" if self.seconds < 120 else f"{self.seconds / 60:.0f} minutes"

    def line(self) -> str:
        """One line for a log."""
        completion = "an unknown number of" if self.completion_tokens is None else f"{self.completion_tokens:,}"
        cost = "cost unknown" if self.cost_nanousd is None else f"${self.cost_nanousd / NANO:.4f}"
        return (
            f"about {self.calls:,} calls, {self.prompt_tokens:,} ({self.prompt_tokens_are}) + {completion} "
            f"({self.completion_tokens_are}) tokens, {cost}, {self.duration} with {self.in_flight} in flight"
        )


def estimate(assessment: Assessment, load: Load, experience: Experience, deployment: Deployment) -> Estimate:
    """What a load will take."""
    tokens = tokens_of(load, most_tokens(assessment.spec), experience)
    in_flight = max(1, min(deployment.max_concurrency, load.calls))
    step_size = rows_per_step(assessment.spec.rows_per_step, load.rows)
    return Estimate(
        assessment=assessment.spec.name,
        model=assessment.spec.llm.model_name,
        rows=load.rows,
        questions=len(questions(assessment)),
        steps=-(-load.rows // step_size),
        calls=load.calls,
        prompt_tokens=tokens.prompt,
        prompt_tokens_are="learnt" if tokens.is_prompt_learnt else "assumed",
        completion_tokens=tokens.completion,
        completion_tokens_are=_source_of_completion(tokens),
        cost_nanousd=_cost(assessment, load, tokens, deployment),
        bound_nanousd=_bound(assessment, load, deployment),
        seconds=seconds_of(
            load, tokens, in_flight, experience, deployment.requests_per_minute, deployment.tokens_per_minute
        ),
        in_flight=in_flight,
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


def load_of_source(assessment: Assessment, root: Path, partition: str | None, deployment: Deployment) -> Load:
    """The load of a source's rows. Raises SourceError when it can't be read."""
    source = assessment.spec.source
    if source.path is None:
        of_what = f"asset {source.asset}" if source.asset else f"inbox {source.inbox}"
        raise SourceError(f"the rows of {of_what} are not in one file: name one that has such rows (--source).")
    partitions = assessment.spec.partitions
    values = partitions.values_of(partition) if partitions and partition else {}
    with open_source(source.path, root, partition, values) as (stream, name):
        read = read_records(stream, name, source)
        admitted = (record.values for record in read if isinstance(record, Record))
        return load_of(assessment, admitted, bounded_schema=deployment.provider == "local")


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
