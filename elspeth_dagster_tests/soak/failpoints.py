"""Named points of the walk at which a process kills itself: SIGKILL, so that nothing is tidied up.

`ELSPETH_KILL=point:n` names the point and the how manieth time it is reached. Of all processes of a launch the first
one that gets there dies, and leaves a file that says so; the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import threading
from pathlib import Path
from typing import Any, Literal, NamedTuple

from elspeth_dagster_tests.soak.instrumenting import surround

KILL, FOLDER = "ELSPETH_KILL", "ELSPETH_SOAK_FOLDER"
IN_FLIGHT_SECONDS = 0.015
RECORDS_AT_ONCE = 3


class Point(NamedTuple):
    """A point of the walk: before, during or after a function; how often a slice of the soak passes it at least."""

    place: str
    when: Literal["before", "during", "after"]
    passes: int


PACKAGE = "elspeth_dagster"
POINTS = {
    name: Point(f"{PACKAGE}.{place}", when, passes)  # type: ignore[arg-type]
    for name, (when, place, passes) in {
        "run_not_begun": ("before", "landscape.runs:begin", 1),
        "run_begun": ("after", "landscape.runs:begin", 1),
        "among_the_rows": ("before", "landscape.rows:admission", 6),
        "rows_admitted": ("after", "ops:admit", 1),
        "among_the_batches": ("before", "landscape.batches:flush", 3),
        "state_open": ("after", "landscape.states:open_state", 5),
        "group_not_committed": ("after", "landscape.writing:insert", 25),
        "group_committed_untold": ("after", "landscape.writing:Writer._commit", 25),
        "call_on_record_unsent": ("before", "calling:Caller._send", 20),
        "call_in_flight": ("during", "llm.wire:Wire.send", 20),
        "reply_here_unrecorded": ("after", "calling:Caller._send", 20),
        "reply_read_unrecorded": ("after", "calling:Caller.call", 20),
        "answer_on_record": ("after", "conversing:Conversation.settle", 20),
        "state_not_ended": ("before", "landscape.states:end", 5),
        "batch_ended": ("after", "asking:Desk._end", 3),
        "among_the_outcomes": ("after", "collecting:Collector._record", 2),
        "table_not_durable": ("before", "resources.parquet:_make_durable", 4),
        "table_aside": ("after", "resources.parquet:_write", 4),
        "table_unrecorded": ("after", "resources.parquet:_put_in_place", 4),
        "table_on_record": ("after", "resources.parquet:ParquetIOManager.dump_to_path", 4),
        "run_not_ended": ("before", "landscape.runs:end_if_all_collected", 1),
        "end_not_committed": ("after", "landscape.runs:_end", 1),
        "run_ended": ("after", "landscape.runs:end_if_all_collected", 1),
    }.items()
}
OF_A_BROKEN_VARIANT = {"half_a_table": Point("elspeth_dagster_tests.soak.breaking:half_written", "after", 4)}


def install() -> None:
    """Arm this process as its environment says."""
    from elspeth_dagster import admitting

    admitting.RECORDS_AT_ONCE = RECORDS_AT_ONCE  # several commits for a few rows
    if KILL in os.environ:
        point, _, nth = os.environ[KILL].partition(":")
        _arm((POINTS | OF_A_BROKEN_VARIANT)[point], int(nth))


def _arm(point: Point, nth: int) -> None:
    passed, gate = itertools.count(1), threading.Lock()

    def reach(*_args: Any, **_kwargs: Any) -> None:
        with gate:
            reached = next(passed) == nth
        if reached and point.when == "during":
            asyncio.get_running_loop().call_later(IN_FLIGHT_SECONDS, die)
        elif reached:
            die()

    if point.when == "after":
        surround(point.place, after=reach)
    else:
        surround(point.place, before=reach)


def die() -> None:
    """Kill this process, if it is the first of its launch."""
    with contextlib.suppress(FileExistsError):
        killed_file(Path(os.environ[FOLDER])).touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)


def killed_file(folder: Path) -> Path:
    """The file that says that a process of the latest launch has killed itself."""
    return folder / "killed"
