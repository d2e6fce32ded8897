"""Rows into batches, batches into shards.

A batch is flushed by the first trigger that fires: `rows` (it is full), `when` (its last row asked for it). With
`group_by` every group fills a batch of its own, and what a group still holds when the slice ends is flushed as
complete (`group_by`); without, the rest is flushed by the end of the slice. Consecutive batches make a shard, which is
what one step asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import tee
from typing import Literal

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.spec import AggregateSpec
from elspeth_dagster.stages.prompting import condition

TriggerName = Literal["rows", "when", "group_by", "end_of_slice"]
STEPS_A_RUN = 32
ROWS_WORTH_A_STEP = 1000


@dataclass(frozen=True)
class Flush:
    """One batch: its rows' tokens in source order, and the trigger that fired."""

    tokens: tuple[str, ...]
    trigger: TriggerName


def aggregate(rows: Iterable[tuple[str, Mapping[str, Json]]], spec: AggregateSpec) -> Iterator[Flush]:
    """Batches of (token, values) pairs, in the order in which they are flushed.

    Raises what a `when` expression raises over a row it can't be evaluated for.
    """
    fires = _when(spec)
    gathering: dict[tuple[Json, ...], list[str]] = {}
    for token, values in rows:
        group = tuple(values[name] for name in spec.group_by)
        tokens = gathering.setdefault(group, [])
        tokens.append(token)
        if fires(values):
            yield Flush(tuple(gathering.pop(group)), "when")
        elif len(tokens) >= spec.rows:
            yield Flush(tuple(gathering.pop(group)), "rows")
    last: TriggerName = "group_by" if spec.group_by else "end_of_slice"
    yield from (Flush(tuple(tokens), last) for tokens in gathering.values())


def _when(spec: AggregateSpec) -> Callable[[Mapping[str, Json]], bool]:
    if spec.when is None:
        return lambda values: False
    expression = condition(spec.when)
    return lambda values: bool(expression(row=values))


def shards(flushes: Iterable[Flush], rows_per_step: int) -> Iterator[tuple[str, Flush]]:
    """Each batch with the key of its shard; a shard holds as many batches as fit into `rows_per_step`, at least one."""
    flushed, measured = tee(flushes)
    numbers = shard_numbers((len(flush.tokens) for flush in measured), rows_per_step)
    for flush, number in zip(flushed, numbers, strict=True):
        yield f"shard_{number:05d}", flush


def shard_numbers(sizes: Iterable[int], rows_per_step: int) -> Iterator[int]:
    """For each batch, of so many rows, the number of its shard; the first is 1."""
    number, held = 1, 0
    for size in sizes:
        if held and held + size > rows_per_step:
            number, held = number + 1, 0
        held += size
        yield number


def rows_per_step(declared: int | None, rows: int) -> int:
    """How many rows a shard holds: as declared, else so many that a run has at most some 32 steps that ask."""
    return declared or max(ROWS_WORTH_A_STEP, -(-rows // STEPS_A_RUN))
