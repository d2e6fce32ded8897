"""Us beside a bare aiohttp loop, the openai SDK, and, where installed, curator and inspect_ai, on the same questions.

    python benchmarks/compare.py [--calls 2000] [--concurrency 100] [--rounds 3] [--curator PYTHON] [--inspect PYTHON]
    python benchmarks/compare.py --latencies

All ask the same server on this machine, each in a process of its own, by turns. The first four send the same bytes; the
peers make requests of their own of the same prompts. CPU is that of the asking process alone. Prints Markdown tables of
medians. Only the ratios of one run mean anything: absolute figures are this machine's at this moment. `--latencies`
prints how much of what can be in flight we keep there, for a provider that takes some time.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click
from workload import QUESTIONS, TEXT_LENGTH

from elspeth_dagster_tests.conftest import new_postgres
from elspeth_dagster_tests.fault_server import FaultServer

HERE = Path(__file__).parent
KEEPS = {
    "bare": ("bare aiohttp", "nothing"),
    "ours on SQLite": ("elspeth_dagster, SQLite", "every call before it is sent, every reply whole, durably"),
    "ours on PostgreSQL": ("elspeth_dagster, PostgreSQL", "the same"),
    "openai": ("openai SDK, asyncio", "nothing"),
    "curator": ("curator", "requests and replies in JSON Lines"),
    "inspect": ("inspect_ai", "samples and API calls in a log file"),
}
AT = [(50, 50), (50, 100), (200, 100)]


class Measured(NamedTuple):
    """Seconds on the clock, seconds of CPU, and bytes a call on record."""

    seconds: float
    cpu_seconds: float
    kept: float | None


@click.command(help=__doc__)
@click.option("--calls", default=2000, show_default=True, help="How many; a multiple of ten.")
@click.option("--concurrency", default=100, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--curator", help="A Python interpreter that has curator.")
@click.option("--inspect", help="One that has inspect_ai.")
@click.option("--latencies", is_flag=True, help="Ours alone, with a provider that takes its time.")
def main(calls: int, concurrency: int, rounds: int, curator: str | None, inspect: str | None, latencies: bool) -> None:
    if latencies:
        return tell_latencies()
    calls -= calls % QUESTIONS
    peers = {"curator": curator, "inspect": inspect}
    pythons = {name: python for name in KEEPS if (python := peers.get(name, sys.executable)) is not None}
    for latency_ms in (0, 50):
        tell(measure(pythons, latency_ms, calls, concurrency, rounds), latency_ms, calls, concurrency, rounds)
    for name in peers.keys() - pythons.keys():
        click.echo(f"{name} is left out: name a Python that has it with --{name}.", err=True)


def measure(
    pythons: dict[str, str], latency_ms: int, calls: int, concurrency: int, rounds: int
) -> dict[str, list[Measured]]:
    found: dict[str, list[Measured]] = defaultdict(list)
    with FaultServer(latency_ms=latency_ms, text_length=TEXT_LENGTH) as server:
        for _ in range(rounds):
            for name, python in pythons.items():
                found[name].append(asked(name, python, server.base_url, calls, concurrency))
    return found


def tell_latencies() -> None:
    """Calls a second against those in flight ÷ latency, 10,000 calls."""
    click.echo("| latency | in flight | of what can be |\n|---|---|---|")
    for latency_ms, in_flight in AT:
        with FaultServer(latency_ms=latency_ms, text_length=TEXT_LENGTH) as server:
            took = asked("ours on SQLite", sys.executable, server.base_url, 10_000, in_flight).seconds
        click.echo(f"| {latency_ms} ms | {in_flight} | {10_000 / took / (in_flight / latency_ms * 1000):.2f} |")


def asked(name: str, python: str, url: str, calls: int, concurrency: int) -> Measured:
    """What it took."""
    subject = name.partition(" ")[0]
    command = [python, str(HERE / "subjects.py"), subject, url, str(calls), str(concurrency)]
    if name != "ours on PostgreSQL":
        return run(name, command, url)
    servers = new_postgres()
    postgres = next(servers)
    try:
        return run(name, [*command, postgres.url(postgres.create())], url)
    finally:
        next(servers, None)


def run(name: str, command: list[str], url: str) -> Measured:
    env = {**os.environ, **environment(url)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=HERE.parent, check=False)
    if done.returncode:
        raise click.ClickException(f"{name} failed: {done.stderr[-1000:] or done.stdout[-1000:]}")
    return Measured(**json.loads(done.stdout.strip().splitlines()[-1]))


def environment(url: str) -> dict[str, str]:
    """What the peers need in order not to reach out."""
    return {
        "PYTHONPATH": str(HERE.parent),
        "OPENAI_API_KEY": "sk-benchmark-key",
        "FAKE_API_KEY": "sk-benchmark-key",
        "FAKE_BASE_URL": url,
        "TELEMETRY_ENABLED": "false",
        "HF_HUB_OFFLINE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }


def tell(found: dict[str, list[Measured]], latency_ms: int, calls: int, concurrency: int, rounds: int) -> None:
    click.echo(f"{calls} calls, {concurrency} in flight, {latency_ms} ms latency, medians of {rounds} rounds\n")
    click.echo("| system | keeps | calls/s | to bare aiohttp | CPU ms a call | bytes a call on record |")
    click.echo("|---|---|---|---|---|---|")
    least = median(one.seconds for one in found["bare"])
    for name, (called, keeps) in KEEPS.items():
        if came := found.get(name):
            took, cpu = median(one.seconds for one in came), median(one.cpu_seconds for one in came)
            kept = "" if came[0].kept is None else f"{came[0].kept:,.0f}"
            speed = f"{calls / took:,.0f} | {least / took:.2f}"
            click.echo(f"| {called} | {keeps} | {speed} | {cpu / calls * 1000:.2f} | {kept} |")
    click.echo()


if __name__ == "__main__":
    main()
