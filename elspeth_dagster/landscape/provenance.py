"""A run as PROV-JSON (https://www.w3.org/submissions/prov-json/): what was made, by which activity, out of what.

    entities     the bytes on record under their names, rows, answers, tables
    activities   the run, the attempts at batches and slices, the calls
    agents       the software, the models

It holds names, words and numbers, no text of rows, prompts or replies, and proves nothing: that is what an export is
for. One document is written section by section, as it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import sqlalchemy as sa

from elspeth_dagster.core.canonical import Json, canonical_json
from elspeth_dagster.landscape import exporting, runs, schema
from elspeth_dagster.landscape.finding import find_run
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.proving import new_file
from elspeth_dagster.landscape.records import Run

AT_ONCE = 500
PREFIX = {
    "elspeth": "urn:elspeth-dagster:",
    "prov": "http://www.w3.org/ns/prov#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
}
SOFTWARE = "elspeth:software"
SOFTWARE_AGENT = {"$": "prov:SoftwareAgent", "type": "xsd:QName"}

Named = Iterator[tuple[str, dict[str, Json]]]


def export(landscape: Landscape, run_id: str, to: Path) -> str:
    """Write a run's provenance to a new file; return the run's whole id.

    Raises NotOnRecordError where there is no such run, SettingsError where the file can't be made.
    """
    with landscape.read() as connection, new_file(to) as file:
        run = find_run(connection, run_id)
        _write(file, _sections(connection, run))
    return run.run_id


def _write(file: IO[bytes], sections: Iterable[tuple[str, Named]]) -> None:
    file.write(b'{"prefix":' + canonical_json(PREFIX))
    for name, members in sections:
        file.write(b"," + canonical_json(name) + b":{")
        for number, (key, value) in enumerate(members):
            file.write(b"," * bool(number) + canonical_json(key) + b":" + canonical_json(value))
        file.write(b"}")
    file.write(b"}\n")


def _sections(connection: sa.Connection, run: Run) -> Iterator[tuple[str, Named]]:
    yield "agent", _agents(connection, run)
    yield "activity", _activities(connection, run)
    yield "entity", _entities(connection, run.run_id)
    yield "used", _numbered("use", _used(connection, run))
    yield "wasGeneratedBy", _numbered("generation", _generated(connection, run.run_id))
    yield "wasDerivedFrom", _numbered("derivation", _derived(connection, run.run_id))
    yield "wasAssociatedWith", _numbered("association", _associated(connection, run))
    yield "wasInformedBy", _numbered("communication", _informed(connection, run.run_id))


def _numbered(kind: str, relations: Iterable[dict[str, Json]]) -> Named:
    return ((f"_:{kind}{number}", relation) for number, relation in enumerate(relations, 1))


# Names --------------------------------------------------------------------------------------------------------------


def _named(kind: str, name: str) -> str:
    """A qualified name: whatever is no plain letter of a name in it is percent-encoded."""
    return f"elspeth:{kind}/{quote(name, safe='')}"


def _bytes(ref: str) -> str:
    return _named("bytes", ref)


def _model(provider: str, model: str) -> str:
    return _named("model", f"{provider}/{model}")


def _instant(when: datetime) -> str:
    return when.isoformat()


def _told(**attributes: Json) -> dict[str, Json]:
    """Attributes of ours; what is not known is left out."""
    return {f"elspeth:{name}": value for name, value in attributes.items() if value is not None}


# Agents, activities, entities ---------------------------------------------------------------------------------------


def _agents(connection: sa.Connection, run: Run) -> Named:
    version = _told(package_version=run.package_version, code_version=run.code_version)
    yield SOFTWARE, {"prov:type": SOFTWARE_AGENT, **version}
    for provider, model in _models(connection, run.run_id):
        yield _model(provider, model), {"prov:type": SOFTWARE_AGENT, **_told(provider=provider, model=model)}


def _models(connection: sa.Connection, run_id: str) -> list[tuple[str, str]]:
    calls = schema.calls
    asked = sa.select(calls.c.provider, calls.c.model).where(*_of_run(calls, run_id)).distinct()
    return sorted((provider, model) for provider, model in connection.execute(asked))


def _activities(connection: sa.Connection, run: Run) -> Named:
    end = runs.end_of(connection, run.run_id)
    told = _told(job=run.job_name, mode=run.mode.value, status=end.status.value if end else None)
    yield (
        _named("run", run.run_id),
        {"prov:startTime": _instant(run.started_at), **_ended(end and end.ended_at), **told},
    )
    states, ends, calls, replies = schema.node_states, schema.node_state_ends, schema.calls, schema.replies
    with_ends = sa.select(states, ends.c.ended_at, ends.c.status).outerjoin(ends, ends.c.state_id == states.c.state_id)
    for state in _rows(connection, with_ends.where(states.c.run_id == run.run_id), states.c.state_id):
        told = _told(
            node=state.node_id, attempt=state.attempt, step=state.step_key, status=state.status and state.status.value
        )
        times = {"prov:startTime": _instant(state.started_at), **_ended(state.ended_at)}
        yield _named("state", state.state_id), {**times, **told}
    with_replies = sa.select(calls, replies.c.received_at, replies.c.outcome).outerjoin(replies)
    for call in _rows(connection, with_replies.where(*_of_run(calls, run.run_id)), calls.c.call_id):
        told = _told(question=call.query_key, cause=call.cause.value, outcome=call.outcome and call.outcome.value)
        times = {"prov:startTime": _instant(call.sent_at), **_ended(call.received_at)}
        yield _named("call", call.call_id), {**times, **told}


def _ended(when: datetime | None) -> dict[str, Json]:
    return {"prov:endTime": _instant(when)} if when else {}


def _entities(connection: sa.Connection, run_id: str) -> Named:
    for ref in exporting.names(connection, run_id):
        yield _bytes(ref), {}
    rows, artifacts = schema.rows, schema.artifacts
    for row in _rows(connection, rows.select().where(rows.c.run_id == run_id), rows.c.row_id):
        yield _named("row", row.row_id), _told(index=row.row_index)
    for answer in _answers(connection, run_id):
        told = _told(question=answer.query_key, status=answer.status.value, reason=answer.reason)
        yield _answer(answer), told
    for written in _rows(connection, artifacts.select().where(artifacts.c.run_id == run_id), artifacts.c.artifact_id):
        told = _told(asset=written.asset_key, rows=written.row_count, size=written.size, hash=written.content_hash)
        yield _named("table", written.artifact_id), told


def _answer(answer: Any) -> str:
    return _named("answer", f"{answer.state_id}/{answer.token_id}/{answer.query_key}")


# What led to what ---------------------------------------------------------------------------------------------------


def _used(connection: sa.Connection, run: Run) -> Iterator[dict[str, Json]]:
    yield {"prov:activity": _named("run", run.run_id), "prov:entity": _bytes(run.config_ref)}
    calls = schema.calls
    for call in _rows(connection, calls.select().where(*_of_run(calls, run.run_id)), calls.c.call_id):
        yield {"prov:activity": _named("call", call.call_id), "prov:entity": _bytes(call.request_ref)}


def _generated(connection: sa.Connection, run_id: str) -> Iterator[dict[str, Json]]:
    calls, replies, artifacts = schema.calls, schema.replies, schema.artifacts
    came = sa.select(replies).join(calls).where(*_of_run(calls, run_id), replies.c.body_ref.is_not(None))
    for reply in _rows(connection, came, replies.c.call_id):
        yield _generation(_bytes(reply.body_ref), _named("call", reply.call_id), reply.received_at)
    for answer in _answers(connection, run_id):
        yield _generation(_answer(answer), _named("state", answer.state_id), answer.decided_at)
    for written in _rows(connection, artifacts.select().where(artifacts.c.run_id == run_id), artifacts.c.artifact_id):
        yield _generation(_named("table", written.artifact_id), _named("state", written.state_id), written.written_at)


def _generation(entity: str, activity: str, when: datetime) -> dict[str, Json]:
    return {"prov:entity": entity, "prov:activity": activity, "prov:time": _instant(when)}


def _derived(connection: sa.Connection, run_id: str) -> Iterator[dict[str, Json]]:
    """A row's values from its record, an answer from its reply, its values from itself."""
    rows, answers, replies = schema.rows, schema.answers, schema.replies
    for row in _rows(connection, rows.select().where(rows.c.run_id == run_id), rows.c.row_id):
        if row.raw_ref is not None:
            yield {"prov:generatedEntity": _named("row", row.row_id), "prov:usedEntity": _bytes(row.raw_ref)}
        yield {"prov:generatedEntity": _bytes(row.values_ref), "prov:usedEntity": _named("row", row.row_id)}
    with_replies = sa.select(answers, replies.c.body_ref).outerjoin(replies, replies.c.call_id == answers.c.call_id)
    for answer in _rows(connection, with_replies.where(*_of_run(answers, run_id)), *_key(answers)):
        if answer.body_ref is not None:
            yield {"prov:generatedEntity": _answer(answer), "prov:usedEntity": _bytes(answer.body_ref)}
        if answer.values_ref is not None:
            yield {"prov:generatedEntity": _bytes(answer.values_ref), "prov:usedEntity": _answer(answer)}


def _associated(connection: sa.Connection, run: Run) -> Iterator[dict[str, Json]]:
    yield {"prov:activity": _named("run", run.run_id), "prov:agent": SOFTWARE}
    calls = schema.calls
    for call in _rows(connection, calls.select().where(*_of_run(calls, run.run_id)), calls.c.call_id):
        yield {"prov:activity": _named("call", call.call_id), "prov:agent": _model(call.provider, call.model)}


def _informed(connection: sa.Connection, run_id: str) -> Iterator[dict[str, Json]]:
    states, calls = schema.node_states, schema.calls
    for state in _rows(connection, states.select().where(states.c.run_id == run_id), states.c.state_id):
        yield {"prov:informed": _named("state", state.state_id), "prov:informant": _named("run", run_id)}
    for call in _rows(connection, calls.select().where(*_of_run(calls, run_id)), calls.c.call_id):
        yield {"prov:informed": _named("call", call.call_id), "prov:informant": _named("state", call.state_id)}


# Reading ------------------------------------------------------------------------------------------------------------


def _answers(connection: sa.Connection, run_id: str) -> Iterator[Any]:
    answers = schema.answers
    return _rows(connection, answers.select().where(*_of_run(answers, run_id)), *_key(answers))


def _key(table: sa.Table) -> list[sa.Column[Any]]:
    return list(table.primary_key.columns)


def _of_run(table: sa.Table, run_id: str) -> list[sa.ColumnElement[bool]]:
    """Those of a run's states, by which they are found."""
    states = sa.select(schema.node_states.c.state_id).where(schema.node_states.c.run_id == run_id)
    return [table.c.state_id.in_(states)]


def _rows(connection: sa.Connection, selected: sa.Select[Any], *key: sa.Column[Any]) -> Iterator[Any]:
    """What is selected, by key, texts by their bytes, as it comes."""
    is_postgresql = connection.dialect.name == "postgresql"
    in_order = selected.order_by(*(sa.collate(column, "C") if is_postgresql else column for column in key))
    streaming = connection.execution_options(stream_results=True, max_row_buffer=AT_ONCE)
    with streaming.execute(in_order) as found:
        for page in found.partitions(AT_ONCE):
            yield from page
