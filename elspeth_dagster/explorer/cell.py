"""One cell, a question about a row: what was asked, came back, and was made of it; every call, with its evidence."""

from __future__ import annotations

from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.errors import NotOnRecordError
from elspeth_dagster.explorer import asking, ways
from elspeth_dagster.explorer.looking import looking
from elspeth_dagster.explorer.rendering import as_json, render
from elspeth_dagster.landscape import surveying
from elspeth_dagster.landscape.explaining import explain_record
from elspeth_dagster.landscape.explanation import CallMade, Content, QuestionAsked


class Message(NamedTuple):
    """A message of a prompt, by whom."""

    role: str
    text: str


class Asked(NamedTuple):
    """What a request asked: its messages, and what else it set. No messages where it is no such request."""

    messages: list[Message]
    settings: dict[str, Json]


def page(request: Request) -> Response:
    """A question about a row."""
    parts = request.path_params
    index, key = asking.record_index(parts["row_index"]), parts["question"]
    landscape = looking(request).landscape
    found = explain_record(landscape, parts["run_id"], parts["assessment"], index, key)
    if found.row is None:
        raise NotOnRecordError(f"record {index} was rejected: it never became a row, and nothing was asked about it")
    [question] = found.questions
    with landscape.read() as connection:
        beside = surveying.neighbours(connection, found.run.run_id, found.node.node_id, index)
    return render(
        request,
        "cell.html",
        title=f"{key} of row {found.row.row.row_key}",
        way=ways.to_cell(request, found.run.run_id, found.node.assessment, index, found.row.row.row_key),
        found=found,
        index=index,
        question=question,
        asked=[asked_of(made.request) for made in question.calls],
        states={attempt.state.state_id: attempt for attempt in found.attempts},
        batches={place.batch.token_id: place.batch for place in found.batches},
        replied=_replied(question),
        before=beside[0],
        after=beside[1],
        dagster_url=looking(request).dagster_url,
    )


def asked_of(body: Content) -> Asked:
    """The messages of a request, which may be of any form."""
    request = body.json
    if not isinstance(request, dict) or not isinstance(request.get("messages"), list):
        return Asked([], {})
    settings = {name: value for name, value in request.items() if name != "messages"}
    return Asked([_message(message) for message in request["messages"]], settings)


def _message(message: Json) -> Message:
    if not isinstance(message, dict):
        return Message("message", as_json(message))
    return Message(str(message.get("role", "message")), as_json(message.get("content")))


def _replied(question: QuestionAsked) -> CallMade | None:
    """The call whose reply the answer comes from; of an answer without one, the last."""
    given = question.answer
    of_it = [made for made in question.calls if given and made.call.call_id == given.answer.call_id]
    return next(reversed(of_it or question.calls), None)
