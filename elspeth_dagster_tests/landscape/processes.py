"""What the tests' other processes do; a module of its own, so that they start fast."""

from __future__ import annotations

import random
from multiprocessing import current_process
from multiprocessing.synchronize import Barrier

from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Payload
from elspeth_dagster_tests.landscape.sample import a_run

ROUNDS = 8
SAME = 150


def open_all(urls: list[str], at_once: Barrier) -> None:
    """Open new databases at the same moment as another process does, and write to each at once."""
    for number, url in enumerate(urls):
        at_once.wait(timeout=60)
        with Landscape.open(url) as landscape:
            landscape.write(*a_run(f"{current_process().name}-{number}"))


def write_in_any_order(url: str, seed: int, at_once: Barrier) -> None:
    """Write the same payloads as other processes do, many at a time, each time in another order."""
    shuffled = random.Random(seed)
    with Landscape.open(url) as landscape:
        for round_ in range(ROUNDS):
            same = [Payload.of(f"{round_} {number}".encode()) for number in range(SAME)]
            own = Payload.of(f"of {seed} in {round_}".encode())
            at_once.wait(timeout=60)
            landscape.write(*shuffled.sample(same, SAME), own)
