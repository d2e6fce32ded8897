"""What is on record about a batch's rows, read some hundred questions at a time.

A run that goes on has a question of every row to look up, and the record tells of many rows as fast as of one. What was
recorded before a batch's state was opened stays as it is, so a page that was read once holds for all its questions.
Only a few pages are kept, with the replies that fit: who needs another one reads it by itself.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from elspeth_dagster.calling import Inquiry
from elspeth_dagster.core.canonical import PREFIX
from elspeth_dagster.landscape import payloads, replies
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.replies import RecordedCall
from elspeth_dagster.landscape.words import ReplyOutcome
from elspeth_dagster.stages.querying import Request

QUESTIONS_A_PAGE = 500
PAGES_KEPT = 8
BYTES_A_PAGE = 4 << 20
Put = tuple[str, str, str | None]


class NotReadError(Exception):
    """A reply that is on record, but not on the page."""


@dataclass(frozen=True)
class Page:
    """The calls by row, question and its hash, in the order of sending; the newest replies' bytes by name.

    `has_plain_hashes`: some were recorded before there were scopes.
    """

    calls: Mapping[Put, Sequence[RecordedCall]]
    bodies: Mapping[str, bytes]
    has_plain_hashes: bool = False

    def calls_to(self, inquiry: Inquiry, request: Request) -> Sequence[RecordedCall]:
        """The calls that put this question about this row."""
        row, question = inquiry.member.row_key, inquiry.question.key
        found = self.calls.get((row, question, request.question_hash))
        if found is None and self.has_plain_hashes:
            found = self.calls.get((row, question, request.question_hashes[1]))
        return found or ()

    def body(self, ref: str) -> bytes:
        """The bytes of a reply. Raises NotReadError."""
        try:
            return self.bodies[ref]
        except KeyError:
            raise NotReadError from None


class Pages:
    """The pages of a lineage's record, by batch and place in it; the last few are kept."""

    def __init__(self, landscape: Landscape, root_run_id: str) -> None:
        self._landscape = landscape
        self._root_run_id = root_run_id
        self._kept: OrderedDict[tuple[str, int], asyncio.Future[Page]] = OrderedDict()

    async def of(self, inquiry: Inquiry) -> Page:
        """The page that tells of this question. Raises LandscapeError when the record can't be read."""
        work = inquiry.work
        rows_a_page = max(1, QUESTIONS_A_PAGE // work.questions_a_row)
        first = inquiry.member.ordinal // rows_a_page * rows_a_page
        place = work.state.state_id, first
        if place not in self._kept:
            row_keys = [member.row_key for member in work.members[first : first + rows_a_page]]
            reading = asyncio.to_thread(self._read, work.state.node_id, row_keys)
            self._kept[place] = asyncio.ensure_future(reading)
            while len(self._kept) > PAGES_KEPT:
                self._kept.popitem(last=False)
        return await asyncio.shield(self._kept[place])  # others wait for it too

    def _read(self, node_id: str, row_keys: Sequence[str]) -> Page:
        with self._landscape.read() as connection:
            known = _by_question(replies.in_lineage(connection, self._root_run_id, node_id, row_keys))
            newest = (_newest_reply(calls) for calls in known.values())
            bodies = payloads.read_those_that_fit(connection, filter(None, newest), BYTES_A_PAGE)
        return Page(known, bodies, any((put or "").startswith(PREFIX) for _, _, put in known))


def _by_question(known: Iterable[RecordedCall]) -> dict[Put, list[RecordedCall]]:
    calls: dict[Put, list[RecordedCall]] = {}
    for call in known:
        calls.setdefault((call.row_key, call.query_key, call.question_hash), []).append(call)
    return calls


def _newest_reply(calls: Sequence[RecordedCall]) -> str | None:
    return next((call.body_ref for call in reversed(calls) if call.outcome is ReplyOutcome.SUCCESS), None)
