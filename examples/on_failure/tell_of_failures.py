"""Tells somebody of every run that fails: a chat, a pager, a mailbox.

Put this file into your project's `defs/` folder, say in TELL_OF_FAILURES which command takes the news, and turn the
sensor on in Dagster's pages. The command gets one JSON object on its input, {"text": …}, as webhooks of chats take it:

    export TELL_OF_FAILURES='curl -sS --fail --json @- https://hooks.slack.com/services/…'
    export DAGSTER_PAGES=https://dagster.example.org       # for a link to the run; may be left out

What is told holds no row, prompt or reply, and no error's text: these stay in Dagster's pages and in the landscape.
"""

import json
import os
import shlex
import subprocess

import dagster as dg

SECONDS = 30


@dg.run_failure_sensor(description="Hands each failed run, in one line, to the command in TELL_OF_FAILURES.")
def tell_of_failures(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    """Hand the news to the command; a command that fails makes the tick fail, where it can be seen."""
    command = os.environ.get("TELL_OF_FAILURES")
    if not command:
        return dg.SkipReason("TELL_OF_FAILURES names no command, so nobody was told.")
    news = json.dumps({"text": _news(context.dagster_run, context.get_step_failure_events())})
    subprocess.run(shlex.split(command), input=news, text=True, timeout=SECONDS, check=True, stdout=subprocess.DEVNULL)
    return None


def _news(run: dg.DagsterRun, failures: list[dg.DagsterEvent]) -> str:
    partition = run.tags.get("dagster/partition")
    of_partition = f" of partition {partition}" if partition else ""
    steps = ", ".join(str(failure.step_key) for failure in failures[:5])
    in_steps = f" in {steps}" if steps else ""
    pages = os.environ.get("DAGSTER_PAGES", "").rstrip("/")
    where = f"{pages}/runs/{run.run_id}" if pages else f"run {run.run_id}"
    return f"{run.job_name} failed{of_partition}{in_steps}: {where}"
