"""An explanation as text for a person: from the run down to the tables that carry the row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from elspeth_dagster.cli.printing import facts, indented, instant, quoted
from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.money import money
from elspeth_dagster.core.naming import in_order
from elspeth_dagster.landscape.explanation import (
    AnswerGiven,
    Attempt,
    BatchPlace,
    CallMade,
    Content,
    Explanation,
    QuestionAsked,
    RejectedRecord,
    SourceRow,
)
from elspeth_dagster.landscape.payloads import told as told_of
from elspeth_dagster.landscape.records import Artifact, Erasure, NodeState, Reply
from elspeth_dagster.landscape.reviews import ReviewGiven
from elspeth_dagster.landscape.words import Mode, ReplyOutcome


def tell(explanation: Explanation) -> Iterator[str]:
    """The lines that explain a row, or the rejections of the records that were asked for."""
    yield from _run(explanation)
    if explanation.row is None:
        yield from _rejections(explanation.rejections)
    else:
        yield from _row(explanation.row)
        for place in explanation.batches:
            yield from _batch(place, explanation.attempts)
        for question in explanation.questions:
            yield from _question(question)
        yield from _outcome(explanation)
    yield from _artifacts(explanation.artifacts)


def _section(title: str, *bodies: Iterator[str]) -> Iterator[str]:
    yield title
    for body in bodies:
        yield from indented(body)
    yield ""


def _run(explanation: Explanation) -> Iterator[str]:
    run, end, node = explanation.run, explanation.end, explanation.node
    told: dict[str, object] = {
        "job": run.job_name,
        "partition": in_order(json.loads(run.partition_keys)) or None,
        "mode": None if run.mode is Mode.ASK else run.mode.value,
        "status": end.status.value if end else "has not ended",
        "why": end and end.detail,
        "started": instant(run.started_at),
        "ended": end and instant(end.ended_at),
        "parent": run.parent_run_id,
        "root": None if run.root_run_id == run.run_id else run.root_run_id,
        "package": f"elspeth-dagster {run.package_version}, dagster {run.dagster_version}, python {run.python_version}",
        "code": run.code_version,
        "assessment": f"{node.assessment}, version {node.version}",
        "host": run.host,
    }
    return _section(f"RUN {run.run_id}", facts(told))


def _place(row_index: int, line: int | None, partition: str | None) -> str:
    parts = [f"record {row_index}", line and f"line {line}", partition and f"partition {partition}"]
    return ", ".join(part for part in parts if part)


def _row(source: SourceRow) -> Iterator[str]:
    row = source.row
    as_it_came = iter(()) if source.raw is None else _content("as it came", source.raw)
    values = {name: _value(value) for name, value in source.values.items()}
    understood = facts(dict(values)) if source.erased is None else iter([_erased(source.erased)])
    return _section(
        f"ROW {row.row_key}",
        iter([_place(row.row_index, row.line, row.partition_key)]),
        iter([] if source.file is None else [f"from {source.file.name}  {source.file.sha256}"]),
        as_it_came,
        iter([f"as it was understood  {row.values_ref}"]),
        indented(understood),
    )


def _value(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)


def _erased(erasure: Erasure) -> str:
    return f"erased {told_of(erasure)}"


def _content(title: str, content: Content) -> Iterator[str]:
    if content.erased is not None:
        yield f"{title}  {content.ref}, {_erased(content.erased)}"
        return
    yield f"{title}  {content.ref}, {len(content.data)} bytes"
    yield from indented(quoted(content.text))


def _rejections(rejections: tuple[RejectedRecord, ...]) -> Iterator[str]:
    if len(rejections) > 1:
        yield f"No row has this key. {len(rejections)} rejected records hold it in their text:"
        yield ""
    for rejected in rejections:
        rejection = rejected.rejection
        told: dict[str, object] = {
            "record": _place(rejection.row_index, rejection.line, rejection.partition_key),
            "column": rejection.column_name,
            "reason": rejection.reason,
            "message": rejection.message,
        }
        yield from _section("REJECTED: it never became a row", facts(told), _content("as it came", rejected.raw))


# Batch and states ----------------------------------------------------------------------------------------------------


def _batch(place: BatchPlace, attempts: tuple[Attempt, ...]) -> Iterator[str]:
    batch = place.batch
    title = f"BATCH {batch.ordinal} of {batch.node_id}, in {batch.shard}"
    told = f"flushed by {batch.trigger_fired.value}; holds {place.size} rows, this one at {place.ordinal}"
    own = [attempt for attempt in attempts if attempt.state.token_id == batch.token_id]
    return _section(title, iter([told]), *map(_attempt, own))


def _attempt(attempt: Attempt) -> Iterator[str]:
    state, end = attempt.state, attempt.end
    yield f"attempt {state.attempt} at {state.node_id}: {end.status.value if end else 'open'}"
    told: dict[str, object] = {
        "state": state.state_id,
        "by": _doer(state),
        "started": instant(state.started_at),
        "ended": end and instant(end.ended_at),
        "error": end and end.error,
    }
    yield from indented(facts(told))


def _doer(state: NodeState) -> str:
    return f"step {state.step_key}, retry {state.retry_number}, process {state.pid} on {state.host}"


# Questions -----------------------------------------------------------------------------------------------------------


def _question(question: QuestionAsked) -> Iterator[str]:
    given = question.answer
    status = given.answer.status.value if given else "no answer on record"
    earlier = (line for each in question.earlier_answers for line in _answer(each, "earlier answer"))
    last = iter(()) if given is None else _answer(given, "answer")
    return _section(f"QUESTION {question.key}: {status}", _calls(question.calls), earlier, last)


def _calls(calls: tuple[CallMade, ...]) -> Iterator[str]:
    """The calls in full; of what is the same as in an earlier call, only which call that was."""
    shown: dict[str, int] = {}
    for number, made in enumerate(calls, 1):
        call = made.call
        yield f"call {number}{', reused' if made.is_reused else ''}: {call.cause.value}, {_whose(made)}"
        yield from indented(facts({"id": call.call_id, "sent": f"{instant(call.sent_at)} to {call.provider}"}))
        yield from indented(_head(made, shown.get(call.head_ref)))
        yield from indented(_request(made.request, shown.get(call.request_ref)))
        yield from indented(_reply(made.reply, made.body))
        shown = {call.head_ref: number, call.request_ref: number, **shown}


def _whose(made: CallMade) -> str:
    call = made.call
    if made.attempt is None:
        return f"made by run {call.run_id}, state {call.state_id}, try {call.query_attempt}"
    return f"attempt {made.attempt} at the batch, try {call.query_attempt}, index {call.call_index}"


def _head(made: CallMade, same_as: int | None) -> Iterator[str]:
    head = made.head if isinstance(made.head, dict) else {}
    yield f"{head.get('method', '?')} {head.get('url', '?')}"
    if "endpoint" in head:
        yield f"endpoint {head['endpoint']}{_own_price(head)}"
    if same_as is not None:
        yield f"headers  {made.call.head_ref}, as in call {same_as}"
        return
    yield f"headers  {made.call.head_ref}"
    yield from indented(facts(dict(head.get("headers", {}))))


def _own_price(head: Mapping[str, Json]) -> str:
    return f", at a price of its own: {_value(head['price'])}" if "price" in head else ""


def _request(request: Content, same_as: int | None) -> Iterator[str]:
    body = request.json
    if same_as is not None:
        yield f"request  {request.ref}, as in call {same_as}"
    elif isinstance(body, dict):
        yield f"request  {request.ref}, {len(request.data)} bytes"
        yield from indented(facts({name: _value(value) for name, value in body.items() if name != "messages"}))
        for message in body.get("messages") or []:
            yield from indented(_message(message))
    else:
        yield from _content("request", request)


def _message(message: Json) -> Iterator[str]:
    if not isinstance(message, dict):
        message = {"content": message}
    content = message.get("content")
    yield f"{message.get('role', 'message')}:"
    yield from indented(quoted(content if isinstance(content, str) else _value(content)))


def _reply(reply: Reply | None, body: Content | None) -> Iterator[str]:
    if reply is None:
        yield "no reply is on record: the call may have been paid"
        return
    yield _what_came(reply)
    told: dict[str, object] = {
        "error": reply.error_class and f"{reply.error_class}: {reply.detail}",
        "received": instant(reply.received_at),
        "model": reply.model,
        "fingerprint": reply.system_fingerprint,
        "finish_reason": reply.finish_reason,
        "usage": _usage(reply) if _was_answered(reply) else None,
        "cost": _cost(reply) if _was_answered(reply) else None,
        "headers": reply.headers,
        "redacted": "a credential came back and was replaced by its fingerprint" if reply.redacted else None,
    }
    yield from indented(facts(told))
    if body is not None:
        yield from indented(_reply_body(body))


def _was_answered(reply: Reply) -> bool:
    return reply.outcome is ReplyOutcome.SUCCESS


def _what_came(reply: Reply) -> str:
    status = "" if reply.http_status is None else f", HTTP {reply.http_status}"
    latency = "" if reply.latency_us is None else f", after {reply.latency_us / 1000:.1f} ms"
    return f"reply: {reply.outcome.value}{status}{latency}"


def _usage(reply: Reply) -> str:
    if reply.prompt_tokens is None and reply.completion_tokens is None:
        return "not reported"
    cached = "" if reply.cached_tokens is None else f" ({reply.cached_tokens} of the prompt's cached)"
    return f"{reply.prompt_tokens} prompt_tokens, {reply.completion_tokens} completion_tokens{cached}"


def _cost(reply: Reply) -> str:
    return "not known" if reply.cost_nanousd is None else money(reply.cost_nanousd)


def _reply_body(body: Content) -> Iterator[str]:
    """The text that the model replied, where the body is a chat completion with text; else the whole body."""
    content = body.completion
    if content is None:
        yield from _content("body", body)
    else:
        yield f"body  {body.ref}, {len(body.data)} bytes, of which assistant:"
        yield from indented(quoted(content))


def _answer(given: AnswerGiven, title: str) -> Iterator[str]:
    answer = given.answer
    decided = f"at {instant(answer.decided_at)} in attempt {given.attempt}"
    yield f"{title}: {answer.status.value}, {_origin(given)}, {decided}"
    if given.erased is not None:
        yield from indented([f"values {_erased(given.erased)}"])
    if given.values is not None:
        yield from indented(facts({name: _value(value) for name, value in given.values.items()}))
    if answer.reason is not None:
        yield from indented([f"{answer.reason}: {answer.detail}" if answer.detail else answer.reason])
    for said in given.reviews:
        yield from indented(_review(said))


def _review(said: ReviewGiven) -> Iterator[str]:
    review = said.review
    yield f"review {review.number} by {review.reviewer}: {review.verdict.value}, at {instant(review.reviewed_at)}"
    if said.erased is not None:
        yield from indented([f"correction {_erased(said.erased)}"])
    yield from indented(facts({name: _value(value) for name, value in said.values.items()}))
    if review.reason is not None:
        yield from indented(quoted(review.reason))


def _origin(given: AnswerGiven) -> str:
    call_id, origin = given.answer.call_id, given.taken_from
    if origin is None:
        return f"from call {call_id}" if call_id else "without a call"
    maker = (
        f"run {origin.run_id} about its row {origin.row_key}" if origin.attempt is None else f"attempt {origin.attempt}"
    )
    return f"taken without asking again from call {call_id} made by {maker}, sent {instant(origin.sent_at)}"


# Outcome -------------------------------------------------------------------------------------------------------------


def _outcome(explanation: Explanation) -> Iterator[str]:
    fate = explanation.outcome
    if fate is None:
        return _section("OUTCOME none yet")
    state = fate.decided_by
    doer = "whoever ended the run from outside" if state is None else f"{state.node_id}, attempt {state.attempt}"
    told: dict[str, object] = {
        "decided by": doer,
        "state": state and state.state_id,
        "in": state and _doer(state),
        "at": instant(fate.outcome.decided_at),
    }
    return _section(f"OUTCOME {fate.outcome.outcome.value}", facts(told))


def _artifacts(artifacts: tuple[Artifact, ...]) -> Iterator[str]:
    for artifact in artifacts:
        told: dict[str, object] = {
            "at": artifact.uri,
            "hash": artifact.content_hash,
            "holds": f"{artifact.row_count} rows in {artifact.size} bytes",
            "written": instant(artifact.written_at),
        }
        yield from _section(f"IN {artifact.asset_key}", facts(told))
