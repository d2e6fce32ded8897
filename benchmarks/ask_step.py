"""The ask step, whole and on record, beside a bare aiohttp loop that sends the same bytes, and a run that goes on after
it and takes every reply from the record; all in one run.

    python benchmarks/ask_step.py [--rows 500] [--concurrency 100] [--latency-ms 0] [--landscape URL]

Prints calls a second and CPU a call of each, and their ratio; and what sealing the first run takes on top, after the
step. Absolute figures are this machine's at this moment; the ratio is what to compare. The provider is a process of its
own on this machine.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import click
from workload import SPEC, TEMPLATES, TEXT_LENGTH, values

from elspeth_dagster.admitting import admit
from elspeth_dagster.aggregating import flush_batches
from elspeth_dagster.asking import Desk
from elspeth_dagster.calling import Caller
from elspeth_dagster.conversing import Conversation
from elspeth_dagster.core.assessment import Assessment
from elspeth_dagster.core.canonical import canonical_json
from elspeth_dagster.core.ids import new_id
from elspeth_dagster.core.spec import AssessmentSpec
from elspeth_dagster.landscape import payloads, runs, sealing
from elspeth_dagster.landscape.ledger import Landscape, now
from elspeth_dagster.landscape.limits import Account
from elspeth_dagster.landscape.records import Node, Payload, Run
from elspeth_dagster.landscape.schema import calls, seals
from elspeth_dagster.landscape.schema import runs as runs_table
from elspeth_dagster.landscape.states import Execution
from elspeth_dagster.landscape.words import Determinism, RunStatus
from elspeth_dagster.llm.providers import ProviderSettings
from elspeth_dagster.llm.wire import Wire
from elspeth_dagster.pacing import Bounds, pace_of
from elspeth_dagster.recalling import Lineage
from elspeth_dagster.running import run
from elspeth_dagster.stages.querying import questions
from elspeth_dagster.stages.reading import Record
from elspeth_dagster.stopping import Stop
from elspeth_dagster_tests.fault_server import FaultServer


@click.command(help=__doc__)
@click.option("--rows", default=500, show_default=True, help="Rows; each is asked ten questions.")
@click.option("--concurrency", default=100, show_default=True)
@click.option("--latency-ms", default=0, show_default=True)
@click.option("--landscape", "url", help="A SQLAlchemy url of an empty database; default: a new SQLite file.")
def main(rows: int, concurrency: int, latency_ms: int, url: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder, FaultServer(latency_ms=latency_ms, text_length=TEXT_LENGTH) as server:
        url = url or f"sqlite:///{folder}/landscape.sqlite"
        with Landscape.open(url) as landscape:
            ours = measure(lambda: ask(landscape, server.base_url, rows, concurrency))
            bodies = sent_bodies(landscape)
            run_id = first_run(landscape)
            again = measure(lambda: ask(landscape, server.base_url, rows, concurrency))
            runs.end(landscape, run_id, RunStatus.COMPLETED, "")
            sealed = measure(lambda: seal(landscape, run_id))
        bare = measure(lambda: asyncio.run(send_bare(f"{server.base_url}/chat/completions", bodies, concurrency)))
        size = Path(folder, "landscape.sqlite").stat().st_size if url.startswith("sqlite") else None
    tell(len(bodies), ours, again, bare, latency_ms, concurrency, size)
    records, cpu = sealed[0], sealed[1]
    share = f"{cpu / ASK_CPU[0]:.1%} of the ask step's"
    click.echo(f"seal: {records / len(bodies):.1f} records a call, {cpu / records * 1e6:.1f} µs CPU a record: {share}")


def measure(work: Callable[[], float]) -> tuple[float, float]:
    """Wall seconds (of the part that `work` itself times) and CPU seconds of this process."""
    before = time.process_time()
    wall = work()
    return wall, time.process_time() - before


def first_run(landscape: Landscape) -> str:
    with landscape.read() as connection:
        return str(connection.scalar(runs_table.select().with_only_columns(runs_table.c.run_id)))


def seal(landscape: Landscape, run_id: str) -> float:
    """Seal a run; how many records it has."""
    assert sealing.seal_ended(landscape, first=run_id, at_most=0).run_ids == [run_id]
    with landscape.read() as connection:
        return float(connection.scalar(seals.select().with_only_columns(seals.c.tree_size)) or 0)


def ask(landscape: Landscape, base_url: str, rows: int, concurrency: int) -> float:
    assessment = Assessment(AssessmentSpec.model_validate(SPEC), TEMPLATES)
    run_id = new_id()
    begin(landscape, assessment, run_id)
    texts = (Record(number, number + 2, f"R{number}", values(number), None) for number in range(rows))
    admit(landscape, run_id, "bench", "bench.admit_rows", texts)
    shard = list(flush_batches(landscape, run_id, assessment, rows))
    execution = Execution(run_id, "bench.ask_batches", "bench.ask_batches[shard_00001]", 0, "localhost", os.getpid())
    return run(ask_shard(landscape, base_url, assessment, shard, execution, concurrency))


async def ask_shard(
    landscape: Landscape, base_url: str, assessment: Assessment, shard: list, execution: Execution, concurrency: int
) -> float:
    settings = ProviderSettings("openai", api_key="sk-benchmark-key", base_url=base_url)
    async with Wire(settings, "gpt-4o-mini", max_concurrency=concurrency) as wire:
        stop, asked = Stop(), questions(assessment)
        account = Account("openai", wire.head.account, "gpt-4o-mini")
        pace = pace_of(landscape, account, Bounds(concurrency, concurrency), stop)
        caller = Caller(landscape, wire, "openai", "gpt-4o-mini", stop, [pace])
        await caller.begin()
        with landscape.read() as connection:
            run = runs.get(connection, execution.run_id)
        memory = Lineage(landscape, run, "openai", "ask_again", anywhere=False)
        conversation = Conversation(landscape, assessment, "openai", memory, caller)
        desk = Desk(
            landscape,
            conversation,
            stop,
            lambda member: asked,
            questions_a_row=len(asked),
            max_concurrency=concurrency,
        )
        started, cpu = time.perf_counter(), time.process_time()
        counts = await desk.ask(shard, execution)
        ASK_CPU.append(time.process_time() - cpu)
        assert counts.accepted == counts.calls + counts.reused and counts.calls * counts.reused == 0, counts
        return time.perf_counter() - started


ASK_CPU: list[float] = []


def begin(landscape: Landscape, assessment: Assessment, run_id: str) -> None:
    config = Payload.of(canonical_json(assessment.document()))
    run = Run(run_id, None, run_id, "bench", '["bench"]', "[]", config.ref, "0", "0", "0", "0", "localhost", now())
    ops = ("admit_rows", "aggregate_rows", "ask_batches", "collect_results")
    nodes = [Node(run_id, f"bench.{op}", "bench", op, "0", Determinism.EXTERNAL_CALL, config.ref) for op in ops]
    runs.begin(landscape, run, nodes, [], [config])


def sent_bodies(landscape: Landscape) -> list[bytes]:
    with landscape.read() as connection:
        refs = list(connection.scalars(calls.select().with_only_columns(calls.c.request_ref)))
        return list(payloads.read_many(connection, refs).values())


async def send_bare(url: str, bodies: list[bytes], concurrency: int) -> float:
    """The least that anyone can do: the same bytes, the reply read and dropped."""
    waiting = iter(bodies)
    headers = {"content-type": "application/json", "authorization": "Bearer sk-benchmark-key"}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=concurrency)) as session:

        async def work() -> None:
            for body in waiting:
                async with session.post(url, data=body) as reply:
                    await reply.read()

        started = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        return time.perf_counter() - started


def tell(
    count: int,
    ours: tuple[float, float],
    again: tuple[float, float],
    bare: tuple[float, float],
    latency_ms: int,
    concurrency: int,
    size: int | None,
) -> None:
    click.echo(f"{count} calls, {concurrency} in flight, {latency_ms} ms\n")
    click.echo(f"{'':24}{'calls/s':>10}{'CPU ms/call':>14}")
    click.echo(f"{'bare aiohttp':24}{count / bare[0]:>10.0f}{bare[1] / count * 1000:>14.3f}")
    click.echo(f"{'ask step, on record':24}{count / ours[0]:>10.0f}{ASK_CPU[0] / count * 1000:>14.3f}")
    click.echo(f"{'going on, all recorded':24}{count / again[0]:>10.0f}{ASK_CPU[1] / count * 1000:>14.3f}")
    click.echo(f"\nratio {bare[0] / ours[0]:.2f}")
    if latency_ms:
        click.echo(f"of in flight ÷ latency: {count / ours[0] / (concurrency / latency_ms * 1000):.2f}")
    if size is not None:
        click.echo(f"landscape: {size / count:.0f} bytes a call")


if __name__ == "__main__":
    main()
