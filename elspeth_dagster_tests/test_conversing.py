"""What came for a question is on record, whatever ends the question."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from elspeth_dagster.calling import Inquiry
from elspeth_dagster.conversing import Conversation
from elspeth_dagster.landscape import payloads
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.records import Payload
from elspeth_dagster.recalling import Memory
from elspeth_dagster_tests.stages.declared import assessment

CAME = Payload.of(b"a reply that was paid for")


class Held(Conversation):
    """A question whose reply has come, and that is held up before it is asked again."""

    async def _values(self, inquiry: Inquiry) -> Mapping[str, Any]:
        inquiry.reply = (CAME,)
        await asyncio.sleep(60)
        raise AssertionError


def test_a_reply_in_hand_is_recorded_when_its_question_is_cancelled(landscape: Landscape) -> None:
    async def cancel_meanwhile() -> bool:
        inquiry = Inquiry(*cast("tuple[Any, Any, Any]", (None, None, None)), first_index=0)
        held = Held(landscape, assessment(), "openai", cast(Memory, None), None)
        settling = asyncio.create_task(held.settle(inquiry))
        await asyncio.sleep(0.01)
        settling.cancel()
        await asyncio.wait([settling])
        return settling.cancelled()

    assert asyncio.run(cancel_meanwhile())
    with landscape.read() as connection:
        assert payloads.read(connection, CAME.ref) == CAME.data()
