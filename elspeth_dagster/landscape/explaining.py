"""Explain: the chain of one row, from its source record to its outcome, as one value.

    run ─ row ─ batch ─ states ─ questions: calls, replies, answers ─ outcome ─ artifacts
       └─ or the rejections that kept a record from becoming a row

Everything is read in one consistent snapshot, through indexes only, and every payload is held to its hash on the way.
The parts hold the record's own rows (`records`), with the payloads that these refer to beside them. Of a payload that
was erased there is the erasure instead of its bytes.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from difflib import get_close_matches
from enum import StrEnum
from itertools import islice
from typing import Any

import sqlalchemy as sa

from elspeth_dagster.core.canonical import Json
from elspeth_dagster.core.errors import NotOnRecordError
from elspeth_dagster.landscape import origins, payloads, planned, reviews, rows, runs, schema
from elspeth_dagster.landscape.ledger import Landscape
from elspeth_dagster.landscape.origins import SourceFile
from elspeth_dagster.landscape.records import (
    Answer,
    Artifact,
    Batch,
    Call,
    Erasure,
    Node,
    NodeState,
    NodeStateEnd,
    Reply,
    Row,
    RowRejection,
    Run,
    RunEnd,
    TokenOutcome,
)
from elspeth_dagster.landscape.reviews import AnswerKey, ReviewGiven
from elspeth_dagster.landscape.words import Outcome

LATEST = "latest"
RECORD_INDEX = re.compile(r"#([0-9]{1,15})")
NEAR_KEYS = 5
NEAR = 0.5
NEAR_AMONG = 20_000
REJECTIONS_SHOWN = 20

JSON_TEXTS: dict[type, set[str]] = {
    Run: {"assessments", "partition_keys"},
    NodeStateEnd: {"detail"},
    Reply: {"headers"},
    Erasure: {"what"},
}
CARRIED_BY: dict[Outcome, set[str]] = {
    Outcome.ASSESSED: {"results", "answers"},
    Outcome.PARTIAL: {"results", "answers", "failures"},
    Outcome.FAILED: {"answers", "failures"},
}


# What an explanation is ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Content:
    """The bytes of a payload, under the name of their hash; none where they were `erased`."""

    ref: str
    data: bytes
    erased: Erasure | None = None

    @property
    def text(self) -> str:
        """The bytes as text; what is not UTF-8 is written as \\xNN."""
        return self.data.decode("utf-8", "backslashreplace")

    @property
    def json(self) -> Json:
        """The JSON value that the bytes are; None when they are none."""
        try:
            value = json.loads(self.data.decode())
            json.dumps(value, allow_nan=False)
        except (ValueError, RecursionError):
            return None
        return value

    @property
    def completion(self) -> str | None:
        """The text that the model replied; None where the bytes are no chat completion with text."""
        body: Any = self.json
        try:
            content = body["choices"][0]["message"]["content"]
        except (LookupError, TypeError):
            return None
        return content if isinstance(content, str) else None

    def document(self) -> dict[str, Json]:
        """Hash and size, the exact text (of what is not UTF-8 the base64), and the JSON value where there is one.

        Of what was erased: the hash, and the erasure.
        """
        if self.erased is not None:
            return {"hash": self.ref, "erased": document(self.erased)}
        shown: dict[str, Json] = {"hash": self.ref, "size": len(self.data)}
        try:
            shown["text"] = self.data.decode()
        except UnicodeDecodeError:
            shown["base64"] = base64.b64encode(self.data).decode()
        return shown if self.json is None else {**shown, "json": self.json}


@dataclass(frozen=True)
class SourceRow:
    """A record that became a row: as it came (where the source has a text form) and as it was understood.

    `file` is the one that it was read from; None where it came from an upstream asset. There are no values where they
    were `erased`.
    """

    row: Row
    token_id: str
    raw: Content | None
    values: dict[str, Json]
    file: SourceFile | None = None
    erased: Erasure | None = None


@dataclass(frozen=True)
class RejectedRecord:
    """A record that could not become a row."""

    rejection: RowRejection
    raw: Content


@dataclass(frozen=True)
class BatchPlace:
    """A batch, and the row's place in it."""

    batch: Batch
    ordinal: int
    size: int


@dataclass(frozen=True)
class Attempt:
    """A node state; no end while it is open."""

    state: NodeState
    end: NodeStateEnd | None


@dataclass(frozen=True)
class CallMade:
    """A call with its head and request, and the reply with its body, if there is one.

    `attempt` is the attempt at the batch that made it; None for a call of another run. `is_reused`: an answer of
    another attempt, or of this run, was taken from its reply, without asking again.
    """

    call: Call
    attempt: int | None
    is_reused: bool
    head: Json
    request: Content
    reply: Reply | None
    body: Content | None


@dataclass(frozen=True)
class Origin:
    """Where a reply was taken from: whose call it was, about which row. No attempt: it is of another run."""

    call_id: str
    run_id: str
    state_id: str
    attempt: int | None
    row_key: str
    sent_at: datetime


@dataclass(frozen=True)
class AnswerGiven:
    """An answer; `values` is None when it is refused, or its values were `erased`.

    `taken_from` tells the call of an earlier attempt or of another run that it was taken from without asking again;
    None where its own attempt made the call, or there was none. `reviews` are what people said of it, and of the answer
    to the same that its call was made for, in the order in which it was said.
    """

    answer: Answer
    attempt: int
    values: dict[str, Json] | None
    taken_from: Origin | None
    reviews: tuple[ReviewGiven, ...] = ()
    erased: Erasure | None = None


@dataclass(frozen=True)
class QuestionAsked:
    """A question, its calls in the order of attempts and tries, and its answers: that of the last attempt counts."""

    key: str
    calls: tuple[CallMade, ...]
    answer: AnswerGiven | None
    earlier_answers: tuple[AnswerGiven, ...]


@dataclass(frozen=True)
class Fate:
    """The row's outcome and the state that decided it; None when the run was ended from outside."""

    outcome: TokenOutcome
    decided_by: NodeState | None


@dataclass(frozen=True)
class Explanation:
    """The chain of one row; or, without `row`, the rejected records that were asked for.

    `node` is the op that admitted the record: it tells the assessment and its version. `artifacts` are the tables
    that carry the row, of every attempt at writing them.
    """

    run: Run
    end: RunEnd | None
    node: Node
    row: SourceRow | None
    rejections: tuple[RejectedRecord, ...] = ()
    batches: tuple[BatchPlace, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    questions: tuple[QuestionAsked, ...] = ()
    outcome: Fate | None = None
    artifacts: tuple[Artifact, ...] = ()

    def document(self) -> dict[str, Json]:
        """All of it as one JSON value."""
        shown: dict[str, Json] = document(self)
        return shown


def document(value: Any) -> Json:
    """A part of an explanation, or a record, as a JSON value: columns by name, instants in ISO 8601."""
    if isinstance(value, Content):
        return value.document()
    if is_dataclass(value):
        return {each.name: document(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple):
        return _record_document(value) if hasattr(value, "_fields") else [document(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return value.value if isinstance(value, StrEnum) else value


def _record_document(record: Any) -> dict[str, Json]:
    texts = JSON_TEXTS.get(type(record), set())
    columns = record._asdict().items()
    return {name: json.loads(value) if name in texts and value else document(value) for name, value in columns}


# How it is read ------------------------------------------------------------------------------------------------------


def explain(
    landscape: Landscape, run_id: str, row_key: str, question: str | None = None, *, assessment: str | None = None
) -> Explanation:
    """The chain of the row with this key in a run; `#3` is the record with index 3, whatever its key.

    `run_id` may be the first characters of it, or `latest`. `question` leaves out the others; `assessment` is needed
    where several of a run have the key. Where no row has it, the rejected records that hold it in their text.
    Raises NotOnRecordError, and LandscapeError when a payload's bytes are not those that its name promises.
    """
    with landscape.read() as connection:
        run = find_run(connection, run_id, assessment)
        if found := find_rows(connection, run.run_id, row_key, assessment):
            return _of_row(connection, run, *_only(found, run, row_key), question)
        if rejected := list(islice(_rejections(connection, run.run_id, row_key, assessment), REJECTIONS_SHOWN)):
            return _of_rejections(connection, run, rejected)
        raise not_on_record(connection, run.run_id, row_key, assessment)


def explain_record(
    landscape: Landscape, run_id: str, assessment: str, row_index: int, question: str | None = None
) -> Explanation:
    """The same of the record with this index in the assessment's source, whatever its key; raises the same."""
    with landscape.read() as connection:
        run = find_run(connection, run_id, assessment)
        if found := _rows_in_place(connection, run.run_id, _nodes(connection, run.run_id, assessment), row_index):
            return _of_row(connection, run, *found[0], question)
        if rejected := list(_rejections(connection, run.run_id, f"#{row_index}", assessment)):
            return _of_rejections(connection, run, rejected)
        raise NotOnRecordError(f"run {run.run_id} has no record {row_index} of {assessment}")


def find_run(connection: sa.Connection, name: str, assessment: str | None = None) -> Run:
    """The run with this id or this beginning of an id, or the `latest` (of an assessment). Raises NotOnRecordError."""
    if name != LATEST:
        exact = connection.execute(schema.runs.select().where(schema.runs.c.run_id == name)).first()
        return Run(*exact) if exact else runs.get(connection, name)
    newest = schema.runs.select().order_by(schema.runs.c.started_at.desc(), schema.runs.c.run_id.desc()).limit(1)
    if assessment is not None:
        of_it = (schema.nodes.c.run_id == schema.runs.c.run_id) & (schema.nodes.c.assessment == assessment)
        newest = newest.where(sa.exists().where(of_it))
    if (row := connection.execute(newest).first()) is None:
        raise NotOnRecordError(f"no run{f' of {assessment}' if assessment else ''} is on record")
    return Run(*row)


def find_rows(
    connection: sa.Connection, run_id: str, row_key: str, assessment: str | None = None
) -> list[tuple[Node, Row, str]]:
    """The rows of a run with this key (or this `#index`), each with the node that admitted it and its token.

    Raises NotOnRecordError when the run has no such assessment.
    """
    nodes = _nodes(connection, run_id, assessment)
    found = _rows(connection, run_id, schema.rows.c.row_key == row_key)
    if not found and (index := RECORD_INDEX.fullmatch(row_key)):
        return _rows_in_place(connection, run_id, nodes, int(index.group(1)))
    return [(nodes[row.node_id], row, token_id) for row, token_id in found if row.node_id in nodes]


def _rows_in_place(
    connection: sa.Connection, run_id: str, nodes: Mapping[str, Node], index: int
) -> list[tuple[Node, Row, str]]:
    in_place = schema.rows.c.node_id.in_(list(nodes)) & (schema.rows.c.row_index == index)
    return [(nodes[row.node_id], row, token_id) for row, token_id in _rows(connection, run_id, in_place)]


def _nodes(connection: sa.Connection, run_id: str, assessment: str | None) -> dict[str, Node]:
    there = schema.nodes.select().where(schema.nodes.c.run_id == run_id).order_by(schema.nodes.c.node_id)
    nodes = [Node(*row) for row in connection.execute(there)]
    if assessment not in (None, *(known := {node.assessment for node in nodes})):
        raise NotOnRecordError(f"run {run_id} has no assessment {assessment!r}; it has {', '.join(sorted(known))}")
    return {node.node_id: node for node in nodes if assessment in (None, node.assessment)}


def _rows(connection: sa.Connection, run_id: str, which: sa.ColumnElement[bool]) -> list[tuple[Row, str]]:
    found = (
        sa.select(*schema.rows.c, schema.tokens.c.token_id)
        .join(schema.tokens, schema.tokens.c.row_id == schema.rows.c.row_id)
        .where(schema.rows.c.run_id == run_id, which)
    )
    # Sorted here: ORDER BY node_id would have SQLite read the whole run by the index that begins with it.
    pairs = [(*_records(row, Row), row.token_id) for row in connection.execute(found)]
    return sorted(pairs, key=lambda pair: pair[0].node_id)


def _records(row: Any, *kinds: Any) -> Any:
    """A joined row cut into one record per kind; None for the part that an outer join did not find."""
    records, start = [], 0
    for kind in kinds:
        part = row[start : start + len(kind._fields)]
        records.append(None if part[0] is None else kind(*part))
        start += len(part)
    return records


def _only(found: Sequence[tuple[Node, Row, str]], run: Run, row_key: str) -> tuple[Node, Row, str]:
    if len(found) > 1:
        named = ", ".join(node.assessment for node, *_ in found)
        raise NotOnRecordError(f"several assessments of run {run.run_id} have a row {row_key!r}: {named}; name one")
    return found[0]


def not_on_record(
    connection: sa.Connection, run_id: str, row_key: str, assessment: str | None = None
) -> NotOnRecordError:
    """That no row has this key, and which keys come near."""
    there = sa.select(schema.rows.c.row_key).where(schema.rows.c.run_id == run_id)
    if assessment is not None:
        there = there.where(schema.rows.c.node_id.in_(list(_nodes(connection, run_id, assessment))))
    near = _near(row_key, connection.scalars(there.distinct().limit(NEAR_AMONG)))
    return NotOnRecordError(f"run {run_id} has no row {row_key!r} on record; {near}")


def _near(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, list(known), n=NEAR_KEYS, cutoff=NEAR)
    return f"near it: {', '.join(map(repr, near))}" if near else "none comes near it"


# A rejected record ---------------------------------------------------------------------------------------------------


def _rejections(
    connection: sa.Connection, run_id: str, row_key: str, assessment: str | None
) -> Iterator[tuple[Node, RejectedRecord]]:
    """The rejections of a run at this `#index`, or with this key as a word of the record's raw text."""
    nodes = _nodes(connection, run_id, assessment)
    index = RECORD_INDEX.fullmatch(row_key)
    word = re.compile(rf"(?<!\w){re.escape(row_key)}(?!\w)")
    for page in _pages(_rejected(connection, run_id, list(nodes), index and int(index.group(1)))):
        raws = payloads.read_or_erased(connection, [rejection.raw_ref for rejection in page])
        for rejection in page:
            raw = _present(raws, rejection.raw_ref)
            if index or (row_key.strip() and word.search(raw.text)):
                yield nodes[rejection.node_id], RejectedRecord(rejection, raw)


def _rejected(connection: sa.Connection, run_id: str, node_ids: list[str], index: int | None) -> Iterator[RowRejection]:
    rejections = schema.row_rejections
    there = rejections.select().where(rejections.c.run_id == run_id, rejections.c.node_id.in_(node_ids))
    if index is not None:
        there = there.where(rejections.c.row_index == index)
    for row in connection.execute(there.order_by(rejections.c.node_id, rejections.c.row_index)):
        yield RowRejection(*row)


def _pages(found: Iterator[RowRejection]) -> Iterator[list[RowRejection]]:
    while page := list(islice(found, payloads.AT_ONCE)):
        yield page


def _of_rejections(connection: sa.Connection, run: Run, rejected: Sequence[tuple[Node, RejectedRecord]]) -> Explanation:
    node, _ = rejected[0]
    return Explanation(
        run=run,
        end=runs.end_of(connection, run.run_id),
        node=node,
        row=None,
        rejections=tuple(record for _, record in rejected),
        artifacts=_artifacts(
            connection, node, {"rejections"}, {record.rejection.partition_key for _, record in rejected}
        ),
    )


# A row ---------------------------------------------------------------------------------------------------------------


def _of_row(
    connection: sa.Connection, run: Run, node: Node, row: Row, token_id: str, question: str | None
) -> Explanation:
    batches = _batches(connection, token_id)
    attempts = attempts_at(connection, [place.batch.token_id for place in batches])
    fate = _outcome(connection, token_id)
    carriers = set() if fate is None else CARRIED_BY.get(fate.outcome.outcome, set())
    bodies = payloads.read_or_erased(connection, filter(None, (row.values_ref, row.raw_ref)))
    values, erased = _values(bodies, row.values_ref)
    return Explanation(
        run=run,
        end=runs.end_of(connection, run.run_id),
        node=node,
        row=SourceRow(
            row,
            token_id,
            _content(bodies, row.raw_ref),
            values,
            origins.file_of(connection, run.run_id, row.node_id, row.row_index),
            erased,
        ),
        batches=batches,
        attempts=attempts,
        questions=_questions(connection, node, token_id, attempts, question),
        outcome=fate,
        artifacts=_artifacts(connection, node, carriers, {row.partition_key}),
    )


def _content(bodies: Mapping[str, bytes | Erasure], ref: str | None) -> Content | None:
    return None if ref is None else _present(bodies, ref)


def _present(bodies: Mapping[str, bytes | Erasure], ref: str) -> Content:
    found = bodies[ref]
    return Content(ref, found) if isinstance(found, bytes) else Content(ref, b"", found)


def _values(bodies: Mapping[str, bytes | Erasure], ref: str | None) -> tuple[dict[str, Json], Erasure | None]:
    found = bodies[ref] if ref else b"{}"
    return (json.loads(found), None) if isinstance(found, bytes) else ({}, found)


def _batches(connection: sa.Connection, token_id: str) -> tuple[BatchPlace, ...]:
    members = schema.batch_members.alias()
    size = sa.select(sa.func.count()).where(members.c.batch_id == schema.batches.c.batch_id).scalar_subquery()
    held = (
        sa.select(*schema.batches.c, schema.batch_members.c.ordinal.label("place"), size.label("size"))
        .join(schema.batch_members, schema.batch_members.c.batch_id == schema.batches.c.batch_id)
        .where(schema.batch_members.c.token_id == token_id)
        .order_by(schema.batches.c.ordinal)
    )
    found = connection.execute(held)
    return tuple(BatchPlace(_records(row, Batch)[0], row.place, row.size) for row in found)


def attempts_at(connection: sa.Connection, batch_tokens: Sequence[str]) -> tuple[Attempt, ...]:
    """The attempts at these batches' tokens, in their order."""
    states, ends = schema.node_states, schema.node_state_ends
    made = (
        sa.select(*states.c, *ends.c)
        .outerjoin(ends, ends.c.state_id == states.c.state_id)
        .where(states.c.token_id.in_(batch_tokens))
        .order_by(states.c.node_id, states.c.attempt)
    )
    return tuple(Attempt(*_records(row, NodeState, NodeStateEnd)) for row in connection.execute(made))


def _outcome(connection: sa.Connection, token_id: str) -> Fate | None:
    outcomes, states = schema.token_outcomes, schema.node_states
    decided = (
        sa.select(*outcomes.c, *states.c)
        .outerjoin(states, states.c.state_id == outcomes.c.state_id)
        .where(outcomes.c.token_id == token_id)
    )
    row = connection.execute(decided).first()
    return None if row is None else Fate(*_records(row, TokenOutcome, NodeState))


def _artifacts(
    connection: sa.Connection, node: Node, carriers: set[str], partitions: set[str | None]
) -> tuple[Artifact, ...]:
    """The tables of these names and partitions that were written from the slice: an artifact's state is one of its."""
    artifacts, states = schema.artifacts, schema.node_states
    written = (
        sa.select(*artifacts.c)
        .join(states, states.c.state_id == artifacts.c.state_id)
        .where(states.c.token_id == rows.slice_token(connection, node.run_id, node.node_id))
        .order_by(artifacts.c.written_at, artifacts.c.asset_key)
    )
    found = [Artifact(*row) for row in connection.execute(written)]
    of_partitions = (artifact for artifact in found if artifact.partition_key in {None, *partitions})
    return tuple(artifact for artifact in of_partitions if artifact.asset_key.rpartition("/")[2] in carriers)


# Its questions -------------------------------------------------------------------------------------------------------


def _questions(
    connection: sa.Connection, node: Node, token_id: str, attempts: Sequence[Attempt], question: str | None
) -> tuple[QuestionAsked, ...]:
    """The questions in plan order; those that nothing is on record of yet are among them."""
    number = {attempt.state.state_id: attempt.state.attempt for attempt in attempts}
    answers = _answers(connection, token_id, number, question)
    calls = _calls(connection, token_id, number, question, answers)
    plan = planned_questions(payloads.read_json(connection, node.config_ref))
    asked = [made.call.query_key for made in calls if made.attempt is not None]
    on_record = asked + [given.answer.query_key for given in answers]
    known = list(dict.fromkeys(plan + on_record))
    if question is not None and question not in known:
        raise NotOnRecordError(f"{node.assessment} has no question {question!r}; {_near(question, known)}")
    wanted = known if question is None else [question]
    return tuple(_question(key, calls, answers) for key in wanted)


def planned_questions(config: Json) -> list[str]:
    """The questions' keys in the order of the recorded spec."""
    return [question.key for question in planned.questions(config)]


def _question(key: str, calls: Sequence[CallMade], answers: Sequence[AnswerGiven]) -> QuestionAsked:
    """A call of another run belongs to the question whose answer was taken from it, whatever it asked there."""
    given = [each for each in answers if each.answer.query_key == key]
    linked = {each.taken_from.call_id for each in given if each.taken_from is not None}
    return QuestionAsked(
        key=key,
        calls=tuple(
            made
            for made in calls
            if made.call.call_id in linked or (made.attempt is not None and made.call.query_key == key)
        ),
        answer=given[-1] if given else None,
        earlier_answers=tuple(given[:-1]),
    )


def _answers(
    connection: sa.Connection, token_id: str, number: Mapping[str, int], question: str | None
) -> list[AnswerGiven]:
    given = _answers_with_origins().where(schema.answers.c.token_id == token_id)
    if question is not None:
        given = given.where(schema.answers.c.query_key == question)
    found = [(*_records(row, Answer), row) for row in connection.execute(given)]
    bodies = payloads.read_or_erased(connection, [answer.values_ref for answer, _ in found if answer.values_ref])
    said = reviews.of_answers(connection, [key for _, row in found for key in _reviewed_as(row)])
    return [_given(bodies, answer, row, number, said) for answer, row in found]


def _given(
    bodies: Mapping[str, bytes | Erasure],
    answer: Answer,
    row: Any,
    number: Mapping[str, int],
    said: Sequence[tuple[AnswerKey, ReviewGiven]],
) -> AnswerGiven:
    values, erased = _values(bodies, answer.values_ref)
    return AnswerGiven(
        answer=answer,
        attempt=row.by_attempt,
        values=None if erased or answer.values_ref is None else values,
        taken_from=_origin(row, number),
        reviews=tuple(review for key, review in said if key in _reviewed_as(row)),
        erased=erased,
    )


def _reviewed_as(row: Any) -> list[AnswerKey]:
    """The keys of an answer that a review of it can have: its own, and of the answer that its call was made for."""
    own = (row.state_id, row.token_id, row.query_key)
    is_the_same = row.from_row_key == row.own_row_key and row.from_query_key == row.query_key
    return [own, (row.from_state_id, row.from_token_id, row.query_key)] if is_the_same else [own]


def _answers_with_origins() -> sa.Select[Any]:
    """The answers in the order of attempts, each beside the call that it comes from, if another state made it."""
    answers, states, calls, tokens, rows_ = (
        schema.answers, schema.node_states, schema.calls, schema.tokens, schema.rows,
    )  # fmt: skip
    of_call = (calls.c.run_id, calls.c.state_id, calls.c.token_id, calls.c.query_key, calls.c.sent_at)
    taken_from = [*(column.label(f"from_{column.name}") for column in of_call), rows_.c.row_key.label("from_row_key")]
    own_token, own_row = tokens.alias("own_token"), rows_.alias("own_row")
    return (
        sa.select(*answers.c, states.c.attempt.label("by_attempt"), *taken_from, own_row.c.row_key.label("own_row_key"))
        .join(own_token, own_token.c.token_id == answers.c.token_id)
        .join(own_row, own_row.c.row_id == own_token.c.row_id)
        .join(states, states.c.state_id == answers.c.state_id)
        .outerjoin(calls, (calls.c.call_id == answers.c.call_id) & (calls.c.state_id != answers.c.state_id))
        .outerjoin(tokens, tokens.c.token_id == calls.c.token_id)
        .outerjoin(rows_, rows_.c.row_id == tokens.c.row_id)
        .order_by(states.c.attempt)
    )


def _origin(row: Any, number: Mapping[str, int]) -> Origin | None:
    if row.from_run_id is None:
        return None
    attempt = number.get(row.from_state_id)
    return Origin(row.call_id, row.from_run_id, row.from_state_id, attempt, row.from_row_key, row.from_sent_at)


def _calls(
    connection: sa.Connection,
    token_id: str,
    number: Mapping[str, int],
    question: str | None,
    answers: Sequence[AnswerGiven],
) -> list[CallMade]:
    """The calls made for the row, after those of earlier runs that answers come from."""
    own = [schema.calls.c.state_id.in_(list(number)), schema.calls.c.token_id == token_id]
    if question is not None:
        own.append(schema.calls.c.query_key == question)
    made = _with_replies(connection, *own)
    absent = {each.answer.call_id for each in answers} - {call.call_id for call, _ in made} - {None}
    linked = _with_replies(connection, schema.calls.c.call_id.in_(absent)) if absent else []
    ordered = sorted(made, key=lambda pair: (number[pair[0].state_id], pair[0].call_index, pair[0].query_attempt))
    in_time = sorted(linked, key=lambda pair: pair[0].sent_at)
    reused = {each.taken_from.call_id for each in answers if each.taken_from is not None}
    return _with_payloads(connection, [*in_time, *ordered], number, reused)


def _with_replies(connection: sa.Connection, *which: sa.ColumnElement[bool]) -> list[tuple[Call, Reply | None]]:
    joined = (
        sa.select(*schema.calls.c, *schema.replies.c)
        .outerjoin(schema.replies, schema.replies.c.call_id == schema.calls.c.call_id)
        .where(*which)
    )
    return [_records(row, Call, Reply) for row in connection.execute(joined)]


def _with_payloads(
    connection: sa.Connection, made: Sequence[tuple[Call, Reply | None]], number: Mapping[str, int], reused: set[str]
) -> list[CallMade]:
    refs = {ref for call, _ in made for ref in (call.head_ref, call.request_ref)}
    refs |= {reply.body_ref for _, reply in made if reply is not None and reply.body_ref is not None}
    bodies = payloads.read_or_erased(connection, refs)
    return [
        CallMade(
            call=call,
            attempt=number.get(call.state_id),
            is_reused=call.call_id in reused,
            head=_present(bodies, call.head_ref).json,
            request=_present(bodies, call.request_ref),
            reply=reply,
            body=_content(bodies, reply and reply.body_ref),
        )
        for call, reply in made
    ]
