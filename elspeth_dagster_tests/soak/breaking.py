"""The package with one fault at a time, chosen by `ELSPETH_BROKEN`: each must turn a figure red.

These replace what real functions do. They exist to show that the soak sees it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from elspeth_dagster_tests.soak.instrumenting import replace

BROKEN = "ELSPETH_BROKEN"
MOMENT = 0.05
Real = Callable[..., Any]
UNDER = "elspeth_dagster"


def install() -> None:
    """Break this process as its environment says."""
    if BROKEN in os.environ:
        VARIANTS[os.environ[BROKEN]]()


def ack_before_commit() -> None:
    """The writer tells its callers that their facts are durable, and then commits them."""
    from elspeth_dagster.landscape import writing

    def hasty(_real: Real) -> Real:
        def see_to(self: Any, group: Any) -> None:
            writing._settle(group, [None] * len(group))
            time.sleep(MOMENT)
            self._commit(group)

        return see_to

    replace(f"{UNDER}.landscape.writing:Writer._see_to", hasty)


def send_before_record() -> None:
    """A call goes on record together with its reply."""
    from elspeth_dagster.landscape.records import Call, Reply

    held: dict[str, tuple[Any, ...]] = {}

    def late(real: Real) -> Real:
        async def record(self: Any, *facts: Any) -> None:
            for fact in facts:
                if isinstance(fact, Call):
                    held[fact.call_id] = facts
                    return
            before = [fact for reply in facts if isinstance(reply, Reply) for fact in held.pop(reply.call_id, ())]
            await real(self, *before, *facts)

        return record

    replace(f"{UNDER}.landscape.ledger:Landscape.record", late)


def forget_replies() -> None:
    """What is on record is asked again."""

    def forgetful(_real: Real) -> Real:
        async def recall(*_args: Any) -> None:
            return None

        return recall

    replace(f"{UNDER}.recalling:Lineage.recall", forgetful)


def hide_unknown() -> None:
    """A run that died is ended without a word about its calls that may have been paid."""
    replace(f"{UNDER}.landscape.runs:unknown_replies", lambda _real: lambda *_args: [])


def leave_dead_runs() -> None:
    """A launch doesn't end the run that died before it."""
    from elspeth_dagster.landscape.words import RunStatus

    def careless(real: Real) -> Real:
        def end(connection: Any, run_end: Any) -> None:
            if run_end.status is not RunStatus.INTERRUPTED:
                real(connection, run_end)

        return end

    replace(f"{UNDER}.landscape.runs:_end", careless)


def leave_tokens_without_fate() -> None:
    """A run that died is ended, and what became of its tokens is left open."""

    def careless(_real: Real) -> Real:
        return lambda *_: []

    replace(f"{UNDER}.landscape.runs:_fateless", careless)


def write_in_place() -> None:
    """A table is written over the old one."""

    def straight(_real: Real) -> Real:
        def put(aside: Any, path: Any) -> None:
            data = aside.read_bytes()
            with path.open("wb") as file:
                file.write(data[: len(data) // 2])
                file.flush()
                half_written()
                file.write(data[len(data) // 2 :])

        return put

    replace(f"{UNDER}.resources.parquet:_put_in_place", straight)


def half_written() -> None:
    """A point at which `write_in_place` can be killed."""
    time.sleep(MOMENT)


def resume_by_halves() -> None:
    """A launch doesn't admit again what a run that died has admitted."""

    def too_clever(real: Real) -> Real:
        def recorded_until(connection: Any, run_id: str, node_id: str) -> int:
            ever = sa.text("SELECT coalesce(max(row_index), -1) + 1 FROM rows WHERE node_id = :node_id")
            found = connection.scalar(ever, {"node_id": node_id})
            return max(found, int(real(connection, run_id, node_id)))

        return recorded_until

    replace(f"{UNDER}.landscape.rows:recorded_until", too_clever)


def retry_in_secret() -> None:
    """The wire sends again what failed, within the same call."""

    def stubborn(real: Real) -> Real:
        async def send(self: Any, *args: Any) -> Any:
            exchange = await real(self, *args)
            return exchange if exchange.error is None else await real(self, *args)

        return send

    replace(f"{UNDER}.llm.wire:Wire.send", stubborn)


def forget_what_was_before() -> None:
    """A launch after a run that died asks everything anew."""
    replace(f"{UNDER}.landscape.runs:_parent", lambda _real: lambda *_args: None)


def make_replies_up() -> None:
    """Half of the calls are not sent: they get the reply of the one before."""
    came: list[Any] = []

    def lazy(real: Real) -> Real:
        async def send(self: Any, *args: Any) -> Any:
            if came and came[-1].error is None:
                return came.pop()
            came.append(await real(self, *args))
            return came[-1]

        return send

    replace(f"{UNDER}.llm.wire:Wire.send", lazy)


def lose_artifacts() -> None:
    """Tables are written and not put on record."""
    from elspeth_dagster.landscape.records import Artifact

    def careless(real: Real) -> Real:
        def write(self: Any, *facts: Any) -> None:
            real(self, *(fact for fact in facts if not isinstance(fact, Artifact)))

        return write

    replace(f"{UNDER}.landscape.ledger:Landscape.write", careless)


VARIANTS = {
    variant.__name__: variant
    for variant in (
        ack_before_commit,
        send_before_record,
        forget_replies,
        hide_unknown,
        leave_dead_runs,
        leave_tokens_without_fate,
        write_in_place,
        resume_by_halves,
        retry_in_secret,
        forget_what_was_before,
        make_replies_up,
        lose_artifacts,
    )
}
