"""A process that has imported everything, and forks a launch for every order it reads: a launch then takes a second.

It has no thread, no connection and no event loop that a fork could break. An order is a line of JSON on stdin: the
environment, the job, and whether its steps run in processes of their own. Answers are lines on stdout: the launch's
pid, and when it is gone its exit code.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import dagster as dg

from elspeth_dagster_tests.soak import failpoints, launched

STEPS_AT_ONCE = 2


def main() -> None:
    """Fork a launch per line, one after the other."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _live(json.loads(line))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _live(order: dict[str, Any]) -> None:
    """The launch: a process group of its own, which ends here."""
    os.setsid()
    os.environ.clear()
    os.environ.update(order["env"])
    _write_to_log(Path(order["env"][failpoints.FOLDER]) / "log")
    try:
        success = _launch(in_processes=order["in_processes"])
    except BaseException:
        traceback.print_exc()
        success = False
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if success else 1)


def _write_to_log(path: Path) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)


def _launch(*, in_processes: bool) -> bool:
    with dg.DagsterInstance.get() as instance:
        if not in_processes:
            return launched.job().execute_in_process(instance=instance, raise_on_error=False).success
        forkserver = {"forkserver": {"preload_modules": [launched.__name__]}}
        multiprocess = {"max_concurrent": STEPS_AT_ONCE, "start_method": forkserver}
        run_config = {"execution": {"config": {"multiprocess": multiprocess}}}
        with dg.execute_job(dg.reconstructable(launched.job), instance=instance, run_config=run_config) as result:
            return result.success


if __name__ == "__main__":
    main()
