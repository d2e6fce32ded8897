"""Launches as seen from outside: begun, killed by their pid, waited for, gone with all their processes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from elspeth_dagster_tests.project import Project
from elspeth_dagster_tests.soak import failpoints, launched
from elspeth_dagster_tests.soak.breaking import BROKEN

LAUNCH_SECONDS = 120.0
ORPHAN_SECONDS = 30.0


class Launch:
    """A launch that goes on, or is over. Its pid is its process group's too."""

    def __init__(self, zygote: Zygote, pid: int, folder: Path) -> None:
        self.pid = pid
        self._zygote = zygote
        self._folder = folder
        self._exit_code: int | None = None

    def is_over(self, within: float = 0.0) -> bool:
        """Whether its first process is gone, at the latest after some seconds."""
        if self._exit_code is None and (line := self._zygote.read_line(within)) is not None:
            self._exit_code = int(line)
        return self._exit_code is not None

    def wait(self) -> int:
        """Its exit code; 0 is success, negative a signal. One that doesn't come to an end is killed."""
        if not self.is_over(LAUNCH_SECONDS):
            self.kill(signal.SIGKILL, whole_group=True)
            assert self.is_over(LAUNCH_SECONDS)
        assert self._exit_code is not None
        return self._exit_code

    def kill(self, number: signal.Signals = signal.SIGKILL, *, whole_group: bool = False) -> bool:
        """Send a signal to its first process or to all; False when that was over already."""
        if self.is_over():
            return False
        (os.killpg if whole_group else os.kill)(self.pid, number)
        return True

    def kill_step(self, pid: int) -> bool:
        """Kill one of its processes; False when that is none of them, or gone."""
        if pid not in [process.pid for process in _group(self.pid)]:
            return False
        os.kill(pid, signal.SIGKILL)
        return True

    @property
    def killed_itself(self) -> bool:
        """Whether one of its processes came to the point where it was to die."""
        return failpoints.killed_file(self._folder).exists()

    def await_orphans(self) -> None:
        """Wait for the steps that outlive it; what hangs is killed."""
        deadline = time.monotonic() + ORPHAN_SECONDS
        while left := _group(self.pid):
            if time.monotonic() > deadline:
                for process in left:
                    process.kill()
            time.sleep(0.05)


def _group(pid: int) -> list[psutil.Process]:
    """The living processes of a process group."""
    living = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                living.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return living


class Zygote:
    """The process that forks launches, for the time of a `with`."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "elspeth_dagster_tests.soak.zygote"]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(LAUNCH_SECONDS)
        self._process.stdout.close()

    def launch(
        self,
        project: Project,
        folder: Path,
        *,
        kill: str | None = None,
        broken: str | None = None,
        in_processes: bool = False,
        job: str = "trial_job",
    ) -> Launch:
        """Launch a project's job, with its notes in a folder; `kill` is `point:n`."""
        failpoints.killed_file(folder).unlink(missing_ok=True)
        told = {failpoints.KILL: kill, BROKEN: broken}
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            **project.env,
            failpoints.FOLDER: str(folder),
            launched.PROJECT: str(project.folder),
            launched.JOB: job,
            **{name: value for name, value in told.items() if value is not None},
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"env": env, "in_processes": in_processes}).encode() + b"\n")
        pid = self.read_line(LAUNCH_SECONDS)
        assert pid is not None
        return Launch(self, int(pid), folder)

    def read_line(self, within: float) -> str | None:
        """The next line it says; None when it says none in time. (Its lines are short: each comes whole.)"""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], within)[0]:
            return None
        line = b""
        while not line.endswith(b"\n"):
            part = self._process.stdout.read(1)
            assert part, "the zygote is gone"
            line += part
        return line.decode()
