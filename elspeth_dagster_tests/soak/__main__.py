"""The soak on the command line: a line per launch, the figures at the end; 1 when one of them is wrong."""

from __future__ import annotations

import argparse
import functools
import random
import sys

from elspeth_dagster_tests.soak.breaking import VARIANTS
from elspeth_dagster_tests.soak.kills import by_point, by_whom, plan
from elspeth_dagster_tests.soak.slices import Form
from elspeth_dagster_tests.soak.soaking import Soak, figures


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m elspeth_dagster_tests.soak", description=__doc__)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], required=True)
    parser.add_argument("--kills", type=int, default=200, help="of the process that does the steps")
    parser.add_argument("--worker-kills", type=int, default=0, help="of the run's first process, alone or with all")
    parser.add_argument("--postmaster-kills", type=int, default=0, help="of PostgreSQL")
    parser.add_argument("--rows", type=int, default=250, help="of the run in which attempts are compared")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broken", choices=sorted(VARIANTS), help="with this fault put in")
    asked = parser.parse_args()
    if asked.postmaster_kills and asked.database != "postgresql":
        parser.error("SQLite has no postmaster")
    draw = random.Random(asked.seed)
    kills = plan(draw, steps=asked.kills, workers=asked.worker_kills, postmasters=asked.postmaster_kills)
    say = functools.partial(print, flush=True)
    with Soak.on(asked.database, asked.seed, say) as soak:
        killed = soak.run(kills, asked.broken)
        undisturbed = soak.run_undisturbed(Form(asked.rows, 1000, 50, 1000), asked.broken)
    which = f"{asked.database}, seed {asked.seed}{f', {asked.broken}' if asked.broken else ''}"
    print(f"\n{which}: killed and launched again\n{figures(killed)}")
    print(f"  by whom {by_whom(killed.kills)}\n  by point {by_point(killed.kills)}")
    print(f"\n{which}: undisturbed, the provider at its worst\n{figures(undisturbed)}")
    counts_agree = undisturbed.counts["attempts_on_record"] == undisturbed.counts["requests_received"]
    return 0 if killed.is_fine and undisturbed.is_fine and counts_agree else 1


if __name__ == "__main__":
    sys.exit(main())
