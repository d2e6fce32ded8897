"""What a number of calls takes: disk, memory, connections, time and processes. The table of docs/sizing.md.

    python docs/sizing.py                                          the table of the page
    python docs/sizing.py --calls 5000000 --questions 20 --requests-per-minute 30000 --tokens-per-call 900

It computes, from what was measured (the constants, each with what measures it again) and from what you say of your
assessment and of your provider. It opens nothing.
"""

from __future__ import annotations

from math import ceil, exp
from typing import NamedTuple

import click

# Bytes in PostgreSQL, with the indexes: benchmarks/landscape_size.py. Prompts of 1.3 kB that lean on their row's text,
# replies of half a kilobyte, rows with 2 kB of text.
CALL_BYTES, ROW_BYTES = 2_300, 2_600
# Of these, the pages that a new payload goes into at random: the index of their names.
RANDOM_BYTES = 260
# Write-ahead log of a call; and, for each page that is changed for the first time after a checkpoint, its image. A call
# brings some three new names, each into a page of its own where the index is large: benchmarks/partitions.py.
WAL_BYTES, PAGE_BYTES, IMAGE_BYTES, NAMES_A_CALL = 3_700, 8_192, 5_500, 3.1
# One step's process: calls a second (a provider without latency, a core to itself), memory, connections at a time.
PROCESS_CALLS, PROCESS_MEMORY, PROCESS_CONNECTIONS = 1_000, 400 * 10**6, 4
# What a dump holds of a call (no indexes, bodies as they are packed), and how fast COPY gives it, bytes a second.
DUMP_BYTES, DUMP_BYTES_A_SECOND = 1_700, 70 * 10**6

SIZES = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)


class Workload(NamedTuple):
    """What is asked, and what the provider allows; None: no limit."""

    questions: int = 10
    tokens_per_call: int = 400
    latency_seconds: float = 2.0
    max_concurrency: int = 64
    requests_per_minute: int | None = 10_000
    tokens_per_minute: int | None = 4_000_000
    checkpoint_seconds: int = 1_800


class Sized(NamedTuple):
    """What so many calls take. Bytes, seconds, and numbers; `rate` is calls a second at the provider's limits."""

    calls: int
    rows: int
    disk: int
    wal: int
    random_pages: int
    dump_seconds: float
    rate: float
    seconds: float
    in_flight: int
    steps: int
    connections: int
    memory: int


def rate_of(workload: Workload) -> float:
    """Calls a second that the provider lets through; without limits, what one process can ask."""
    rates = []
    if workload.requests_per_minute is not None:
        rates.append(workload.requests_per_minute / 60)
    if workload.tokens_per_minute is not None:
        rates.append(workload.tokens_per_minute / 60 / workload.tokens_per_call)
    return min(rates, default=float(PROCESS_CALLS))


def sized(calls: int, workload: Workload) -> Sized:
    """What so many calls take, asked as fast as the provider lets them."""
    rows, rate = ceil(calls / workload.questions), rate_of(workload)
    disk = calls * CALL_BYTES + rows * ROW_BYTES
    in_flight = ceil(rate * workload.latency_seconds)
    steps = max(ceil(in_flight / workload.max_concurrency), ceil(rate / PROCESS_CALLS))
    return Sized(
        calls=calls,
        rows=rows,
        disk=disk,
        wal=round(calls * wal_of_a_call(calls, rate * workload.checkpoint_seconds)),
        random_pages=calls * RANDOM_BYTES,
        dump_seconds=calls * DUMP_BYTES / DUMP_BYTES_A_SECOND,
        rate=rate,
        seconds=calls / rate,
        in_flight=in_flight,
        steps=steps,
        connections=steps * PROCESS_CONNECTIONS,
        memory=steps * PROCESS_MEMORY,
    )


def wal_of_a_call(on_record: int, between_checkpoints: float) -> float:
    """Bytes of write-ahead log, in a landscape of so many calls, of which so many come between two checkpoints."""
    pages, between = on_record * RANDOM_BYTES / PAGE_BYTES, min(between_checkpoints, on_record)
    changed = pages * (1 - exp(-NAMES_A_CALL * between / pages))
    return WAL_BYTES + changed * IMAGE_BYTES / between


def in_bytes(number: float) -> str:
    """A number of bytes as people say it."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number / 1000:.0f} kB"


def in_time(seconds: float) -> str:
    """A number of seconds as people say it."""
    for unit, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"


def table(sizes: tuple[int, ...], workload: Workload) -> list[str]:
    """A Markdown table, a line a number of calls."""
    heads = ("calls", "rows", "disk", "write-ahead log", "index in memory", "a dump", "asking, at the limits")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for one in (sized(calls, workload) for calls in sizes):
        cells = (
            f"{one.calls:,}",
            f"{one.rows:,}",
            in_bytes(one.disk),
            in_bytes(one.wal),
            in_bytes(one.random_pages),
            in_time(one.dump_seconds),
            in_time(one.seconds),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def meanwhile(workload: Workload) -> str:
    """What goes on at once, whatever the number of calls."""
    one = sized(1, workload)
    return (
        f"{one.rate:.0f} calls a second, {one.in_flight} in flight: {one.steps} steps at a time, "
        f"{in_bytes(one.memory)} of memory, {one.connections} connections"
    )


@click.command(help=__doc__)
@click.option("--calls", "sizes", multiple=True, type=click.IntRange(min=1), default=SIZES, help="How many calls.")
@click.option("--questions", type=click.IntRange(min=1), default=Workload().questions, show_default=True)
@click.option("--tokens-per-call", type=click.IntRange(min=1), default=Workload().tokens_per_call, show_default=True)
@click.option("--latency-seconds", type=float, default=Workload().latency_seconds, show_default=True)
@click.option("--max-concurrency", type=click.IntRange(min=1), default=64, show_default=True, help="Of each step.")
@click.option("--requests-per-minute", type=click.IntRange(min=1), default=Workload().requests_per_minute)
@click.option("--tokens-per-minute", type=click.IntRange(min=1), default=Workload().tokens_per_minute)
@click.option("--checkpoint-seconds", type=click.IntRange(min=30), default=Workload().checkpoint_seconds)
def main(sizes: tuple[int, ...], **workload: int) -> None:
    for line in (*table(sizes, Workload(**workload)), "", meanwhile(Workload(**workload))):
        click.echo(line)


if __name__ == "__main__":
    main()
