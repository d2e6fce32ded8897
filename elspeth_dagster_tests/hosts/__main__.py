"""A long run over several hosts, and what is done to them: `python -m elspeth_dagster_tests.hosts --help`.

Says what record, provider and verification disagree on, what it took, and ends with 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from elspeth_dagster_tests.conftest import new_postgres
from elspeth_dagster_tests.fault_server import FaultServer
from elspeth_dagster_tests.hosts.deployment import Deployment, deployed, facts_of, most_in_a_minute, wrong
from elspeth_dagster_tests.hosts.network import FAKETIME, Host, missing
from elspeth_dagster_tests.project import rows_of_texts

REPLIES = (
    "SELECT count(*) FROM replies r JOIN calls c ON c.call_id = r.call_id "
    "JOIN node_states s ON s.state_id = c.state_id WHERE s.host = '{}'"
)
ASKING = "SELECT count(*) FROM node_states WHERE node_id = 'trial.ask_batches'"
SPAN = "SELECT max(received_at) - min(sent_at) FROM calls c JOIN replies r ON r.call_id = c.call_id"


def trouble(kind: str, deployment: Deployment, hosts: list[Host], share: int) -> None:
    """Do one thing to the deployment, in the middle of a shard."""
    name = hosts[-1].name
    deployment.project.wait_for(REPLIES.format(name), share, seconds=900)
    print(f"{time.strftime('%X')} {kind}", flush=True)
    if kind == "restart":
        deployment.network.stop_redis()
        time.sleep(3)
        deployment.network.start_redis()
    elif kind == "cut":
        hosts[-1].cut()
        time.sleep(90)
        hosts[-1].mend()
    elif kind == "kill":
        hosts[-1].die()
        time.sleep(5)
        deployment.worker(hosts[-1])


def main() -> int:
    """Run it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=2000)
    options.add_argument("--hosts", type=int, default=2)
    options.add_argument("--rows-per-step", type=int, default=100)
    options.add_argument("--concurrency", default="64")
    options.add_argument("--latency", type=int, nargs=2, default=[200, 600])
    options.add_argument("--requests-per-minute", default="")
    options.add_argument("--lost-seconds", type=int, default=150)
    options.add_argument("--skew", default=None, help="of the first host's clock: -60")
    options.add_argument("--trouble", nargs="*", default=[], choices=["restart", "cut", "kill"])
    given = options.parse_args()
    if why := missing() or (given.skew and not FAKETIME.exists() and f"no {FAKETIME}: apt-get install libfaketime"):
        print(why)
        return 1
    limits = {"ELSPETH_MAX_CONCURRENCY": given.concurrency, "ELSPETH_REQUESTS_PER_MINUTE": given.requests_per_minute}
    postgres = new_postgres()
    with (
        tempfile.TemporaryDirectory(prefix="elspeth-hosts-") as folder,
        FaultServer(latency_ms=given.latency, record=True) as server,
        deployed(Path(folder), next(postgres), server, given.lost_seconds, **limits) as deployment,
    ):
        found = _run(given, deployment, server)
    for _ in postgres:
        pass
    print("\n".join(found) or "nothing is wrong")
    return int(bool(found))


def _run(given: argparse.Namespace, deployment: Deployment, server: FaultServer) -> list[str]:
    criteria = [{"name": name} for name in ("clarity", "depth", "reach", "care", "truth")]
    deployment.project.declare(aggregate={"rows": 10}, rows_per_step=given.rows_per_step, criteria=criteria)
    deployment.project.write_rows(rows_of_texts(given.rows))
    hosts = [deployment.network.host(f"host-{number}", number) for number in range(1, given.hosts + 1)]
    for number, host in enumerate(hosts):
        deployment.worker(host, skew=given.skew if number == 0 else None)
    deployment.wait_for_workers(len(hosts))
    launched, started = deployment.project.launch(), time.monotonic()
    for number, kind in enumerate(given.trouble):
        trouble(kind, deployment, hosts, (number + 1) * given.rows)
    code = launched.wait(timeout=3600)
    seconds = time.monotonic() - started
    asked = deployment.project.fact(SPAN) / 1e6
    facts = facts_of(deployment.project)
    print(f"run {seconds:.0f} s, asking {asked:.0f} s: {given.rows * 10 / asked:.0f} questions a second")
    print(f"hosts {sorted(facts['hosts'])}, replies {facts['replies']}")
    print(f"connections to the landscape at most {deployment.most_connections}")
    print(f"requests in a minute at most {most_in_a_minute(server)}, in flight {server.stats()['in_flight_max']}")
    found = wrong(deployment, server, given.rows, questions=10)
    if found or code:
        for log in deployment.project.folder.glob("*.log"):
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-6000:]}")
    return [*found, *([f"the run ended with {code}: {launched.communicate()[1][-3000:]}"] if code else [])]


if __name__ == "__main__":
    sys.exit(main())
