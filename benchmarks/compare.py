"""Us beside a bare aiohttp loop, the openai SDK, and, where installed, curator and inspect_ai, on the same questions.

    python benchmarks/compare.py [--calls 2000] [--concurrency 100] [--rounds 3] [--curator PYTHON] [--inspect PYTHON]
    python benchmarks/compare.py --latencies

All ask the same server on this machine, each in a process of its own, by turns. Prints a Markdown table of medians.
Only the ratios of one run mean anything: absolute figures are this machine's at this moment. The peers
need a Python that has them. `--latencies` prints how much of what can be in flight we keep there, for a provider
that takes some time.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

import click
from workload import reply

from elspeth_dagster_tests.conftest import new_postgres
from elspeth_dagster_tests.fault_server import FaultServer

HERE = Path(__file__).parent
KEEPS = {
    "bare": ("bare aiohttp", "nothing"),
    "ours on SQLite": ("elspeth_dagster, SQLite", "every call before it is sent, every reply, in full, durably"),
    "ours on PostgreSQL": ("elspeth_dagster, PostgreSQL", "the same"),
    "openai": ("openai SDK, asyncio", "nothing"),
    "curator": ("curator", "requests and replies in JSON Lines"),
    "inspect": ("inspect_ai", "samples and API calls in a log file"),
}
AT = [(50, 50), (50, 100), (200, 100)]
Measured = tuple[float, float]


@click.command(help=__doc__)
@click.option("--calls", default=2000, show_default=True)
@click.option("--concurrency", default=100, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--curator", help="A Python interpreter that has curator.")
@click.option("--inspect", help="One that has inspect_ai.")
@click.option("--latencies", is_flag=True, help="Ours alone, with a provider that takes its time.")
def main(calls: int, concurrency: int, rounds: int, curator: str | None, inspect: str | None, latencies: bool) -> None:
    if latencies:
        return tell_latencies()
    found: dict[str, list[Measured]] = defaultdict(list)
    peers = {"curator": curator, "inspect": inspect}
    pythons = {name: python for name in KEEPS if (python := peers.get(name, sys.executable)) is not None}
    with FaultServer(content=reply()) as server:
        for _ in range(rounds):
            for name, python in pythons.items():
                came = asked(name, python, server.base_url, calls, concurrency)
                if came is not None:
                    found[name].append(came)
    tell(found, calls, concurrency, rounds)


def tell_latencies() -> None:
    """Calls a second against those in flight ÷ latency, 10,000 calls."""
    click.echo("| latency | in flight | of what can be |\n|---|---|---|")
    for milliseconds, in_flight in AT:
        with FaultServer(content=reply(), latency_ms=milliseconds) as server:
            came = asked("ours on SQLite", sys.executable, server.base_url, 10_000, in_flight)
        if came is not None:
            click.echo(
                f"| {milliseconds} ms | {in_flight} | {10_000 / came[0] / (in_flight / milliseconds * 1000):.2f} |"
            )


def asked(name: str, python: str, url: str, calls: int, concurrency: int) -> Measured | None:
    """What it took, in seconds on the clock and of CPU; None, and why, where the system can't be asked."""
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


def run(name: str, command: list[str], url: str) -> Measured | None:
    env = {**os.environ, **environment(url)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=HERE.parent, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()
        click.echo(f"{name}: left out ({said[-1]})", err=True)
        return None
    told = json.loads(done.stdout.strip().splitlines()[-1])
    return told["seconds"], told["cpu_seconds"]


def environment(url: str) -> dict[str, str]:
    """What the peers need in order not to reach out."""
    return {
        "PYTHONPATH": str(HERE.parent),
        "OPENAI_API_KEY": "sk-benchmark-key",
        "FAKE_API_KEY": "sk-benchmark-key",
        "FAKE_BASE_URL": url,
        "TELEMETRY_ENABLED": "false",
        "HF_HUB_OFFLINE": "1",
        "CURATOR_DISABLE_CACHE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }


def tell(found: dict[str, list[Measured]], calls: int, concurrency: int, rounds: int) -> None:
    click.echo(f"{calls} calls, {concurrency} in flight, a provider without latency, medians of {rounds} rounds\n")
    click.echo("| system | keeps | calls/s against bare aiohttp | CPU a call against bare aiohttp |\n|---|---|---|---|")
    seconds, cpu = (median(came[n] for came in found["bare"]) for n in (0, 1))
    for name, (called, keeps) in KEEPS.items():
        if came := found.get(name):
            speed, work = (median(one[n] for one in came) for n in (0, 1))
            click.echo(f"| {called} | {keeps} | {seconds / speed:.2f} | {work / cpu:.1f} × |")


if __name__ == "__main__":
    main()
